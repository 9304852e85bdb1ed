package services

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/lull/lull/agent/digest"
	"github.com/lull/lull/agent/meta"
	"github.com/lull/lull/agent/runs/runname"
	"github.com/lull/lull/agent/runs/transient"
)

// Hook is a program of a package that is run once.
type Hook struct {
	Instance string
	Name     string // pre-refresh, health, …
	Package  digest.Digest
	User     string   // as whom; "": the agent's own
	Argv     []string // the program's path first
	Env      []string
}

// maxHookOutput is how much of a hook's output is kept, in bytes from its end.
const maxHookOutput = 4 << 10

// hookGroup is the group of processes that a hook has for itself.
type hookGroup interface {
	enter(ctx context.Context, pid int) error
	kill() error // all that is in it; it may have vanished
}

// runHook starts a program behind a gate, which opens when its process is in its
// group, and returns when it has ended, with what it wrote last. Whatever it has
// started does not outlive it, and what an earlier agent has left of it ends first.
func runHook(ctx context.Context, l Launcher, h Hook, g hookGroup) (output string, err error) {
	if err := g.kill(); err != nil {
		return "", fmt.Errorf("cannot end what is left of an earlier hook: %w", err)
	}
	cred, _, err := identity(h.User)
	if err != nil {
		return "", err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer w.Close()
	cmd := exec.Command(l.Path, append([]string{"--after-fd", "3"}, h.Argv...)...)
	cmd.Dir = "/"
	cmd.Env = h.Env
	cmd.ExtraFiles = []*os.File{r}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: cred}
	cmd.WaitDelay = time.Second // for an output that somebody else has been given
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Start()
	r.Close()
	if err != nil {
		return "", err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	finish := func() error {
		kerr := g.kill()
		_ = cmd.Process.Kill() // behind the gate it is in no group yet
		return kerr
	}
	if err := g.enter(ctx, cmd.Process.Pid); err != nil {
		err = errors.Join(context.Cause(ctx), err, finish())
		<-ended
		return "", fmt.Errorf("cannot give the %s hook of %s a group of its own: %w", h.Name, h.Instance, err)
	}
	if _, err := w.Write([]byte{1}); err != nil && !errors.Is(err, syscall.EPIPE) { // EPIPE: it has died already
		err = errors.Join(err, finish())
		<-ended
		return "", err
	}
	select {
	case err = <-ended:
		if kerr := g.kill(); kerr != nil {
			err = errors.Join(err, fmt.Errorf("cannot end what it has started: %w", kerr))
		}
	case <-ctx.Done():
		err = errors.Join(context.Cause(ctx), finish())
		<-ended
	}
	return strings.TrimSpace(out.b.String()), err
}

// tail keeps the end of what is written to it.
type tail struct{ b bytes.Buffer }

func (t *tail) Write(p []byte) (int, error) {
	t.b.Write(p)
	if over := t.b.Len() - maxHookOutput; over > 0 {
		t.b.Next(over)
	}
	return len(p), nil
}

// Run implements Manager.
func (d *Direct) Run(ctx context.Context, h Hook) (output string, err error) {
	return runHook(ctx, d.launcher, h, tracked{d.launcher, h})
}

// tracked is a group among those of the instance's services.
type tracked struct {
	l Launcher
	h Hook
}

func (t tracked) service() string { return "hook." + t.h.Name }

func (t tracked) enter(_ context.Context, pid int) error {
	_, err := t.l.Tracks.Place(t.h.Instance, t.h.Package, t.service(), pid, -1)
	return err
}

func (t tracked) kill() error { return t.l.Tracks.KillService(t.h.Instance, t.service()) }

// Run implements Manager.
func (s *Systemd) Run(ctx context.Context, h Hook) (output string, err error) {
	return runHook(ctx, s.launcher, h, scoped{s, h})
}

// scoped is a transient scope.
type scoped struct {
	s *Systemd
	h Hook
}

// prefix begins the names of the scopes of this hook; an escaped name has no '-'.
func (g scoped) prefix() string {
	return "lull-hook-" + runname.Escape(g.h.Instance) + "-" + runname.Escape(g.h.Name) + "-"
}

func (g scoped) enter(ctx context.Context, pid int) error {
	connect := transient.System
	if g.s.scope != meta.ScopeSystem {
		connect = transient.User
	}
	m, err := connect(ctx)
	if err != nil {
		return err
	}
	defer m.Close()
	return m.Start(ctx, transient.Scope{Name: g.prefix() + runname.Random() + ".scope", PIDs: []uint32{uint32(pid)},
		Description: "Hook " + g.h.Name + " of " + g.h.Instance})
}

// kill returns when systemd has seen that nothing is left.
func (g scoped) kill() error {
	ctx, cancel := context.WithTimeout(context.Background(), killGrace)
	defer cancel()
	return g.s.units.KillScopes(ctx, g.prefix())
}
