package main

import (
	"context"
	"errors"
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
	dir, lease, hash, err := a.fetchEphemeral(ctx, ag, what, channel)
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

// fetchEphemeral has the agent fetch what is to be run. On a terminal it shows how
// far that is; what runs package after package from a script does not speak.
func (a *app) fetchEphemeral(ctx context.Context, ag *agent, what, channel string) (dir, lease *os.File, hash string, err error) {
	o := bus.ResolveOptions{Channel: channel}
	if !isTerminal(a.stderr) {
		dir, lease, hash, _, err = ag.manager.Resolve(ctx, what, o)
		return dir, lease, hash, err
	}
	sub, err := bus.Subscribe(ctx, ag.conn, bus.AgentName, bus.AgentPath)
	if err != nil {
		return nil, nil, "", err
	}
	shown := make(chan struct{})
	go func() {
		defer close(shown)
		show := a.progress()
		defer show.close()
		at := bus.RefreshProperties{Instance: what, State: "preparing", Step: "resolve"}
		show.update(bus.AgentPath, at)
		for sig := range sub.C {
			var p bus.SpaceProperties
			c, ok := bus.ParseChanged(sig)
			if !ok || c.Interface != bus.SpaceInterface || p.Apply(c.Values) != nil {
				continue
			}
			for _, t := range p.Transfers {
				if t.Name != "" && strings.HasPrefix(t.Holder, "ephemeral run of "+what+", ") {
					at.Step, at.BytesDone, at.BytesTotal = "fetch", t.BytesDone, t.BytesTotal
					show.update(bus.AgentPath, at)
				}
			}
		}
	}()
	dir, lease, hash, _, err = ag.manager.Resolve(ctx, what, o)
	sub.Close()
	<-shown
	return dir, lease, hash, err
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
