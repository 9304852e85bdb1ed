// Command app is an application that asks about itself, as its author would have
// it: it listens for updates, and does what is written into a named pipe beside
// its log. It is the application and the hooks of the package of the tests around.
//
//	app VERSION       runs until "quit" is written; other lines are run by a shell
//	app hook          asks the application to quit, unless there is a file "unsaved"
//	app gate FIFO     waits until a line is written into FIFO
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"

	bus "github.com/lull/lull/dbus"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "app:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	dir := os.Getenv("LULL_USER_COMMON")
	fifo := filepath.Join(dir, "do")
	switch args[0] {
	case "gate":
		f, err := os.Open(args[1])
		if err != nil {
			return err
		}
		_, err = io.ReadAll(f)
		return err
	case "hook":
		if _, err := os.Stat(filepath.Join(dir, "unsaved")); err == nil {
			return say(dir, "hook: unsaved")
		}
		if err := say(dir, "hook: version "+os.Getenv("LULL_NEW_VERSION")); err != nil {
			return err
		}
		return os.WriteFile(fifo, []byte("quit\n"), 0o600)
	}
	if err := syscall.Mkfifo(fifo, 0o600); err != nil && err != syscall.EEXIST {
		return err
	}
	where, err := os.Getwd()
	if err != nil {
		return err
	}
	if err := say(dir, fmt.Sprintf("started %s, %s, in %s", args[0], os.Getenv("LULL_APP"), where)); err != nil {
		return err
	}
	signals, end, err := listen(dir)
	if err != nil {
		return err
	}
	defer end()
	f, err := os.OpenFile(fifo, os.O_RDWR, 0) // also writing, so that it never ends
	if err != nil {
		return err
	}
	lines := make(chan string)
	go func() {
		for s := bufio.NewScanner(f); s.Scan(); {
			lines <- s.Text()
		}
	}()
	for {
		select {
		case s := <-signals:
			if u, ok := bus.ParseUpdateMonitorUpdateAvailable(s); ok {
				i := u.UpdateInfo
				err = say(dir, fmt.Sprintf("update to %s, running is local: %v, remote: %v", i.Version, i.RunningCommit == i.LocalCommit, i.RemoteCommit != i.LocalCommit))
			}
		case line := <-lines:
			if line == "quit" {
				return nil
			}
			out, rerr := exec.Command("sh", "-c", line).CombinedOutput()
			err = say(dir, fmt.Sprintf("%s%s: %v", out, line, rerr))
		}
		if err != nil {
			return err
		}
	}
}

// listen makes a monitor.
func listen(dir string) (<-chan *dbus.Signal, func(), error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	conn, err := bus.Dial(ctx, os.Getenv("LULL_BUS"), true)
	if err != nil {
		return nil, nil, err
	}
	signals := make(chan *dbus.Signal, 16)
	conn.Signal(signals)
	path, err := bus.NewManagerProxy(conn, bus.AgentPath).CreateUpdateMonitor(ctx, bus.UpdateMonitorOptions{HandleToken: "mine"})
	if err == nil {
		err = say(dir, "monitor "+string(path))
	}
	return signals, func() { conn.Close() }, err
}

// say writes a line into the log.
func say(dir, line string) error {
	f, err := os.OpenFile(filepath.Join(dir, "log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line + "\n")
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
