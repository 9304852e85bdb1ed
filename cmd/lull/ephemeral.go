package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/lull/lull/agent/problem"
	bus "github.com/lull/lull/dbus"
)

// runEphemeral fetches an application, and runs it with data that goes when it
// ends. The lease is handed down to it: should this process die before, the
// package is kept for as long as anything of the application has it open.
func (a *app) runEphemeral(ctx context.Context, name string, words []string) (err error) {
	what, channel, _ := strings.Cut(words[0], "@")
	path, err := launcher()
	if err != nil {
		return err
	}
	ag, err := a.dialFDs(ctx)
	if err != nil {
		return err
	}
	if isTerminal(a.stderr) {
		fmt.Fprintf(a.stderr, "%s: looking for what is needed\n", what)
	}
	dir, lease, hash, _, err := ag.manager.Resolve(ctx, what, bus.ResolveOptions{Channel: channel})
	if err != nil {
		return err
	}
	defer lease.Close()
	dir.Close()
	folder, err := os.MkdirTemp("", "lull-"+what+"-")
	if err != nil {
		return problem.New(problem.KindOf(err), "cannot make a place for the data of %s: %w", what, err)
	}
	defer func() {
		if e := removeAll(folder); e != nil {
			err = errors.Join(err, problem.New(problem.Failed, "cannot delete the data of %s: %w", what, e))
		}
	}()
	argv := []string{"--package=" + hash, "--folder=" + folder}
	if a.root != "" {
		argv = append(argv, "--root="+a.root)
	}
	if a.runDir != "" {
		argv = append(argv, "--run-dir="+a.runDir)
	}
	if a.user {
		argv = append(argv, "--user")
	}
	if name != "" {
		argv = append(argv, "--app="+name)
	}
	c := exec.Command(path, append(append(argv, "--", what), words[1:]...)...)
	c.ExtraFiles = []*os.File{lease}
	return a.attend(c)
}

// removeAll deletes also what the application has protected from writing.
func removeAll(dir string) error {
	if os.RemoveAll(dir) == nil {
		return nil
	}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return err
	})
	return errors.Join(err, os.RemoveAll(dir))
}
