// Command notes is the sample application: it appends a line with its version
// to $LULL_USER_DATA/notes.txt at every tick, until it is asked to end.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// version is set by the linker.
var version = "0"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "notes:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("notes", flag.ContinueOnError)
	every := flags.Duration("every", 100*time.Millisecond, "how often a line is written")
	once := flags.String("once", "", "write this one line and end")
	show := flags.Bool("show", false, "count the lines of each version and end")
	if err := flags.Parse(args); err != nil {
		return err
	}
	dir := os.Getenv("LULL_USER_DATA")
	if dir == "" {
		return fmt.Errorf("cannot find my data: LULL_USER_DATA is not set")
	}
	path := filepath.Join(dir, "notes.txt")
	if *show {
		return count(path)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if *once != "" {
		_, err := fmt.Fprintf(f, "%s %s\n", version, *once)
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	fmt.Printf("notes %s is running as process %d, revision %s\n", version, os.Getpid(), os.Getenv("LULL_REVISION"))
	ticker := time.NewTicker(*every)
	defer ticker.Stop()
	for n := 1; ; n++ {
		if _, err := fmt.Fprintf(f, "%s note %d\n", version, n); err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			fmt.Printf("notes %s ends after %d notes\n", version, n)
			return nil
		}
	}
}

// count prints how many lines each version has written.
func count(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var order []string
	lines := map[string]int{}
	s := bufio.NewScanner(f)
	for s.Scan() {
		v, _, _ := strings.Cut(s.Text(), " ")
		if lines[v] == 0 {
			order = append(order, v)
		}
		lines[v]++
	}
	for _, v := range order {
		fmt.Printf("%d notes written by version %s\n", lines[v], v)
	}
	return s.Err()
}
