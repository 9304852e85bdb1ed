package main

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
)

// runForeground runs a command to its end and returns how it ended. The command handles Ctrl-C; a
// request to end is forwarded to it.
func (a *app) runForeground(c *exec.Cmd) error {
	c.Stdin, c.Stdout, c.Stderr = a.stdin, a.Stdout, a.Stderr
	if err := c.Start(); err != nil {
		return output.Error(errkind.Failed, "cannot run %s: %w", c.Args[0], err)
	}
	ends := make(chan os.Signal, 1)
	done := make(chan struct{})
	passed := make(chan struct{})
	signal.Notify(ends, syscall.SIGTERM)
	go func() {
		defer close(passed)
		for {
			select {
			case s := <-ends:
				_ = c.Process.Signal(s)
			case <-done:
				return
			}
		}
	}()
	err := c.Wait()
	signal.Stop(ends)
	close(done)
	<-passed
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return output.Error(errkind.Failed, "cannot run %s: %w", c.Args[0], err)
	}
	if exit != nil {
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return signaled{ws.Signal()}
		}
	}
	return err
}

// signaled means that a program, or this one, was ended by a signal.
type signaled struct{ signal syscall.Signal }

func (s signaled) Error() string { return output.T("ended by signal %s", s.signal.String()) }

// code is the value that run returns for it: leave ends this program accordingly.
func (s signaled) code() int { return -int(s.signal) }

// leave ends this process with the code that run has returned. After an end by a request of
// the user or the system it ends this process by the same signal, so that a shell interrupts
// its loop. Other signals become 128 and their number, as in a shell.
func leave(code int) {
	if code >= 0 {
		os.Exit(code)
	}
	s := syscall.Signal(-code)
	switch s {
	case syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP:
		signal.Reset(s)
		// To this thread, which it reaches before the call returns. A signal to the process may
		// reach another thread after the exit below, and a shell would go on with its loop.
		runtime.LockOSThread()
		_ = syscall.Tgkill(os.Getpid(), syscall.Gettid(), s)
	}
	os.Exit(128 + int(s)) // the signal may be ignored
}

// beside returns the error that is joined with s, or nil.
func beside(err error, s signaled) error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return nil
	}
	var rest []error
	for _, e := range joined.Unwrap() {
		if e != error(s) {
			rest = append(rest, e)
		}
	}
	return errors.Join(rest...)
}
