package services

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/runname"
	"github.com/lull/lull/agent/lib/units"
)

// Hook is a program of a package that is run once.
type Hook struct {
	Instance string
	Name     string // pre-refresh, health, …
	Package  digest.Digest
	User     string   // as whom; empty means the agent's own
	Argv     []string // the program's path first
	Env      []string
}

// maxHookOutput is how much of a hook's output is kept, in bytes from its end.
const maxHookOutput = 4 << 10

// Run implements Manager. The program is started behind a gate, which opens when its
// process is in the group of the hook.
func (d *Direct) Run(ctx context.Context, h Hook) (output string, err error) {
	group := "hook." + h.Name
	if err := d.launcher.Tracks.KillService(h.Instance, group); err != nil {
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
	cmd := exec.Command(d.launcher.Path, append([]string{"--after-fd", "3"}, h.Argv...)...)
	cmd.Dir = "/"
	cmd.Env = h.Env
	cmd.ExtraFiles = []*os.File{r}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: cred}
	cmd.WaitDelay = outputDelay
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Start()
	r.Close()
	if err != nil {
		return "", err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	_, err = d.launcher.Tracks.Attach(h.Instance, h.Package, group, cmd.Process.Pid, -1)
	if err == nil {
		_, err = w.Write([]byte{1})
	}
	if err != nil && !errors.Is(err, syscall.EPIPE) { // EPIPE: it has died already
		_ = cmd.Process.Kill() // behind the gate nothing has been executed
		<-ended
		return "", errors.Join(context.Cause(ctx), fmt.Errorf("cannot give the %s hook of %s a group of its own: %w", h.Name, h.Instance, err))
	}
	select {
	case err = <-ended:
		err = errors.Join(err, d.launcher.Tracks.KillService(h.Instance, group))
	case <-ctx.Done():
		err = errors.Join(context.Cause(ctx), d.launcher.Tracks.KillService(h.Instance, group))
		<-ended
	}
	return out.text(), err
}

// Run implements Manager. The hook is a unit of systemd's, so that it has nothing of
// the restrictions that the agent's own unit has.
func (s *Systemd) Run(ctx context.Context, h Hook) (output string, err error) {
	if _, _, err := identity(h.User); err != nil {
		return "", err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	var out tail
	read := make(chan error, 1)
	go func() { _, err := io.Copy(&out, r); read <- err }()
	err = s.units.Run(ctx, units.Program{
		Name:        hookUnit + runname.Escape(h.Instance) + "-" + runname.Escape(h.Name) + ".service",
		Description: "Hook " + h.Name + " of " + h.Instance,
		Command:     h.Argv, Env: h.Env, User: h.User, Output: w,
	})
	w.Close()
	if derr := r.SetReadDeadline(time.Now().Add(outputDelay)); derr != nil {
		return "", errors.Join(err, derr)
	}
	if rerr := <-read; rerr != nil && !errors.Is(rerr, os.ErrDeadlineExceeded) {
		err = errors.Join(err, rerr)
	}
	return out.text(), err
}

// hookUnit begins the names of hooks' units, which must not look like services'.
const hookUnit = "lull_hook-"

// outputDelay is how long the output is waited for after the end of the hook:
// another process may have inherited it.
const outputDelay = time.Second

// tail keeps the end of what is written to it.
type tail struct{ b bytes.Buffer }

func (t *tail) text() string { return strings.TrimSpace(t.b.String()) }

func (t *tail) Write(p []byte) (int, error) {
	t.b.Write(p)
	if over := t.b.Len() - maxHookOutput; over > 0 {
		t.b.Next(over)
	}
	return len(p), nil
}
