// Package pendinghook runs the refresh-pending hooks of packages: programs that prepare an
// application for a refresh, in the user's session, when the refresh becomes pending.
//
// A hook is bounded in time, memory and number of processes, has no terminal, and leaves no
// process. If the user has a systemd manager, it is a transient unit of that, which
// keeps these bounds also when the helper ends. Elsewhere it is a process group: memory is
// bounded for each process, and a process that leaves the group is not found.
//
// Concurrency: Put may be called from any goroutine and does not block. Run serves until its
// context ends, and returns when no hook is left.
package pendinghook

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/lib/runname"
	"github.com/lull/lull/agent/lib/units"
	"github.com/lull/lull/userd/notify"
	"github.com/lull/lull/userd/queue"
	"github.com/lull/lull/userd/restart"
)

// The bounds of a hook, as docs/hooks.md gives them.
const (
	TimeLimit   = 30 * time.Second
	MemoryLimit = 256 << 20
	TaskLimit   = 64
	// atOnce is how many hooks run beside each other.
	atOnce = 4
)

// Name is the hook's.
const Name = manifest.HookRefreshPending

// Runner runs hooks.
type Runner struct {
	env     func() []string // more environment for the launcher
	log     *slog.Logger
	systemd *units.Manager
	waiting *queue.Box[notify.Pending]
}

// New makes a runner. Hooks get env in their environment.
func New(env func() []string, log *slog.Logger) *Runner {
	return &Runner{env: env, log: log, systemd: units.User(), waiting: queue.New[notify.Pending]()}
}

// Put has the hook of the application that p waits for run.
func (r *Runner) Put(p notify.Pending) { r.waiting.Put(p) }

// Run serves until ctx ends.
func (r *Runner) Run(ctx context.Context) {
	defer r.systemd.Close()
	var running sync.WaitGroup
	defer running.Wait()
	turns := make(chan struct{}, atOnce)
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.waiting.C():
		}
		for _, p := range r.waiting.Take() {
			select {
			case <-ctx.Done():
				return
			case turns <- struct{}{}:
			}
			running.Go(func() {
				defer func() { <-turns }()
				log := r.log.With("instance", p.Instance, "hook", Name, "version", p.ToVersion)
				log.Info("a hook runs for a refresh that waits")
				if err := r.one(ctx, p); err != nil {
					log.Warn("a hook has failed", "error", err)
				} else {
					log.Info("a hook has ended")
				}
			})
		}
	}
}

// one runs one hook to its end.
func (r *Runner) one(ctx context.Context, p notify.Pending) error {
	path, err := restart.Launcher()
	if err != nil {
		return err
	}
	limit := fmt.Errorf("it has not ended within %s", TimeLimit)
	ctx, cancel := context.WithTimeoutCause(ctx, TimeLimit, limit)
	defer cancel()
	out, err := output()
	if err != nil {
		return err
	}
	defer out.Close()
	env := append(restart.Desktop(p), r.env()...)
	env = append(env, environment(p)...)
	err = r.systemd.Run(ctx, units.Program{
		// Not the name of a service's unit.
		Name:        "lull_hook-" + runname.Escape(p.Instance) + "-" + runname.Escape(Name) + ".service",
		Description: "Hook " + Name + " of " + p.Instance,
		Command:     []string{path, "--hook", Name, p.Instance}, Env: env, Output: out,
		Time: TimeLimit, Memory: MemoryLimit, Tasks: TaskLimit,
	})
	if errkind.Is(err, errkind.Unavailable) && ctx.Err() == nil {
		err = direct(ctx, path, p.Instance, env, out)
	}
	return err
}

// environment is what the hook finds out about the refresh.
func environment(p notify.Pending) []string {
	env := []string{"LULL_HOOK=" + Name, "LULL_NEW_VERSION=" + p.ToVersion, "LULL_URGENCY=" + p.Urgency}
	if !p.Deadline.IsZero() {
		env = append(env, "LULL_DEADLINE="+strconv.FormatInt(p.Deadline.Unix(), 10))
	}
	return env
}

// output is where this process logs, unless that is a terminal.
func output() (*os.File, error) {
	if term.IsTerminal(int(os.Stderr.Fd())) {
		return os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	}
	fd, err := unix.FcntlInt(os.Stderr.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	}
	return os.NewFile(uintptr(fd), "stderr"), nil
}

// direct runs a hook where there is no systemd. The launcher executes it behind a gate,
// which opens when the bounds hold.
func direct(ctx context.Context, path, instance string, env []string, out *os.File) error {
	gate, open, err := os.Pipe()
	if err != nil {
		return err
	}
	defer open.Close()
	cmd := exec.Command(path, "--after-fd", "3", path, "--hook", Name, instance)
	cmd.Env = append(os.Environ(), env...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = out, out
	cmd.ExtraFiles = []*os.File{gate}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	gate.Close()
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	pid := cmd.Process.Pid
	for resource, n := range map[int]uint64{unix.RLIMIT_DATA: MemoryLimit, unix.RLIMIT_CORE: 0} {
		err = errors.Join(err, unix.Prlimit(pid, resource, &unix.Rlimit{Cur: n, Max: n}, nil))
	}
	if err == nil {
		_, err = open.Write([]byte{1})
	}
	if err != nil {
		_ = cmd.Process.Kill() // behind the gate nothing has been executed
		<-ended
		return err
	}
	select {
	case err = <-ended:
	case <-ctx.Done():
		err = context.Cause(ctx)
		_ = unix.Kill(-pid, unix.SIGKILL)
		<-ended
	}
	_ = unix.Kill(-pid, unix.SIGKILL) // what it has left; none is the rule
	return err
}
