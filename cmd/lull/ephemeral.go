package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

// runEphemeral fetches an application, and runs it with data that is deleted when it ends. It
// passes the lease to the application. If this process dies earlier, the package is kept for
// as long as a process of the application has it open.
func (a *app) runEphemeral(ctx context.Context, name string, words []string) (err error) {
	what, channel, _ := strings.Cut(words[0], "@")
	inside := ""
	path, err := launcher()
	if err != nil {
		return err
	}
	ag, err := a.dialFDs(ctx)
	if err != nil {
		return err
	}
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(asked)
	var dir, lease *os.File
	var hash string
	file := isFile(words[0])
	if _, err := os.Lstat(words[0]); file && errors.Is(err, fs.ErrNotExist) && isSubpackage(what) {
		file = false
		what, inside, _ = strings.Cut(what, "/")
		inside = "/" + inside
	}
	if file {
		dir, lease, hash, what, err = a.resolveFile(ctx, ag, words[0])
	} else {
		dir, lease, hash, err = a.fetchEphemeral(ctx, ag, what, channel)
	}
	if !file && errkind.Is(err, errkind.NotFound) {
		if what, err = ag.offered(ctx, what, err); err == nil {
			dir, lease, hash, err = a.fetchEphemeral(ctx, ag, what, channel)
		}
	}
	if err != nil {
		select {
		case s := <-asked:
			return signaled{s.(syscall.Signal)}
		default:
			return err
		}
	}
	defer lease.Close()
	dir.Close()
	folder, err := os.MkdirTemp("", "lull-"+what+"-")
	if err != nil {
		return output.Error(errkind.KindOf(err), "cannot make a place for the data of %s: %w", what, err)
	}
	defer func() {
		if e := removeAll(folder); e != nil {
			err = errors.Join(err, output.Error(errkind.Failed, "cannot delete the data of %s: %w", what, e))
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
	c := exec.Command(path, append(append(argv, "--", what+inside), words[1:]...)...)
	c.ExtraFiles = []*os.File{lease}
	return a.runForeground(c)
}

// isSubpackage reports whether a word looks like PACKAGE/SUBPACKAGE.
func isSubpackage(word string) bool {
	return !slices.ContainsFunc(strings.Split(word, "/"), func(name string) bool { return manifest.ValidName(name) != nil })
}

// fetchEphemeral requests the download from the agent. On a terminal it shows the progress. A
// script that runs package after package gets no output.
func (a *app) fetchEphemeral(ctx context.Context, ag *agent, what, channel string) (dir, lease *os.File, hash string, err error) {
	o := bus.ResolveOptions{Channel: channel}
	var path dbus.ObjectPath
	p, err := a.followJob(ctx, ag, resolveText(what), jobCalls{
		func(ctx context.Context) (dbus.ObjectPath, error) {
			path, err = ag.manager.StartResolve(ctx, what, o)
			return path, err
		},
		func(ctx context.Context) (bus.JobProperties, error) {
			dir, lease, hash, _, err = ag.manager.Resolve(ctx, what, o)
			return bus.JobProperties{Hash: hash}, err
		},
	})
	if err != nil || lease != nil {
		return dir, lease, hash, err
	}
	if p.Warning != "" {
		a.Warn(output.T("the version that is here is run: %s", p.Warning), "")
	}
	asking, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	dir, lease, err = bus.NewJobProxy(ag.conn, path).Take(asking)
	return dir, lease, p.Hash, err
}

// removeAll also deletes the files that the application has protected from writing.
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
