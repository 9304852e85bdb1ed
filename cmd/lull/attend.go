package main

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/lull/lull/agent/problem"
)

// attend runs a command to its end and returns how it ended. Ctrl-C is the
// command's matter; a request to end is passed on to it.
func (a *app) attend(c *exec.Cmd) error {
	c.Stdin, c.Stdout, c.Stderr = a.stdin, a.stdout, a.stderr
	if err := c.Start(); err != nil {
		return problem.New(problem.Failed, "cannot run %s: %w", c.Args[0], err)
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
		return problem.New(problem.Failed, "cannot run %s: %w", c.Args[0], err)
	}
	if exit != nil && exit.ExitCode() < 0 {
		return problem.New(problem.Failed, "cannot run %s to its end: %s", c.Args[0], exit.ProcessState)
	}
	return err
}
