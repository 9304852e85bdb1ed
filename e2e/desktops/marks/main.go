// Command marks is an application that reports on itself: it writes "start VERSION
// PID" into the FIFO /run/marks, and "end VERSION PID" when SIGTERM, SIGINT or
// SIGUSR1 asks it to end; after SIGUSR1 its exit status is 7. The version is what the
// file "version" of its package has, or "none" for a program without a package.
//
// With --bus NAME it is on the session bus under that name while it runs, and
// answers org.freedesktop.Application.Activate.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/godbus/dbus/v5"
)

func main() {
	status, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "marks:", err)
		status = 1
	}
	os.Exit(status)
}

func run(args []string) (status int, err error) {
	text, err := os.ReadFile(filepath.Join(os.Getenv("LULL_PACKAGE_DIR"), "version"))
	if os.Getenv("LULL_PACKAGE_DIR") == "" || errors.Is(err, fs.ErrNotExist) {
		text, err = []byte("none"), nil
	}
	if err != nil {
		return 0, err
	}
	version := strings.TrimSpace(string(text))
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR1)
	// A reader is there: without one this fails instead of waiting.
	f, err := os.OpenFile("/run/marks", os.O_WRONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	leave := func() error { return nil }
	if len(args) == 2 && args[0] == "--bus" {
		if leave, err = enter(args[1]); err != nil {
			return 0, err
		}
	}
	// A line is shorter than PIPE_BUF, and so written as one: see pipe(7).
	if _, err := fmt.Fprintf(f, "start %s %d\n", version, os.Getpid()); err != nil {
		return 0, err
	}
	if <-ended == syscall.SIGUSR1 {
		status = 7
	}
	// A restart after the mark finds the name free.
	err = leave()
	_, err2 := fmt.Fprintf(f, "end %s %d\n", version, os.Getpid())
	return status, errors.Join(err, err2)
}

// application is what a program with DBusActivatable=true answers (Desktop Entry
// Specification, "D-Bus Activation").
type application struct{}

func (application) Activate(map[string]dbus.Variant) *dbus.Error { return nil }

// enter takes a name on the session bus, and returns what gives it up.
func enter(name string) (leave func() error, err error) {
	conn, err := dbus.ConnectSessionBus()
	if err != nil {
		return nil, err
	}
	path := dbus.ObjectPath("/" + strings.ReplaceAll(name, ".", "/"))
	if err := conn.Export(application{}, path, "org.freedesktop.Application"); err != nil {
		return nil, err
	}
	reply, err := conn.RequestName(name, dbus.NameFlagDoNotQueue)
	if err == nil && reply != dbus.RequestNameReplyPrimaryOwner {
		err = fmt.Errorf("%s is taken: %d", name, reply)
	}
	return func() error {
		_, err := conn.ReleaseName(name)
		return errors.Join(err, conn.Close())
	}, err
}
