// Command notes-sync is the service of the sample application: it keeps a log
// in $LULL_DATA, and takes a second to put its things in order when it is
// asked to end, so that one can see it being waited for.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// version is set by the linker.
var version = "0"

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "notes-sync:", err)
		os.Exit(1)
	}
}

func run() error {
	tidy := flag.Duration("tidy", time.Second, "how long it takes to end")
	flag.Parse()
	dir := os.Getenv("LULL_DATA")
	if dir == "" {
		return fmt.Errorf("cannot find my data: LULL_DATA is not set")
	}
	f, err := os.OpenFile(filepath.Join(dir, "sync.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	fmt.Fprintf(f, "%s started\n", version)
	<-end
	fmt.Fprintf(f, "%s stopping\n", version)
	time.Sleep(*tidy)
	fmt.Fprintf(f, "%s stopped\n", version)
	return f.Sync()
}
