package services

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/launchconf"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/lib/runname"
	"github.com/lull/lull/agent/lib/units"
	"github.com/lull/lull/agent/runs"
)

// Direct starts services as its own children and reads their state from their cgroups.
type Direct struct {
	launcher Launcher
	scope    string
	log      *slog.Logger
	ended    func(instance string)

	mu       sync.Mutex
	expected map[int]Unit      // launchers started and not yet in their cgroup, by pid
	failed   map[string]error  // by unitName: how the last process ended, when it ended by itself and badly
	told     map[string]bool   // by UnitName: it ends because it was stopped
	started  map[string]*child // by unitName: the last process that was started
	children sync.WaitGroup    // one a child that has not been reaped
}

// NewDirect returns a manager; l.Tracks must be one whose Place works. It calls ended
// when a service has ended by itself and State reports how: the tracker reports an
// empty cgroup before that.
func NewDirect(l Launcher, user bool, ended func(instance string), log *slog.Logger) *Direct {
	scope := manifest.ScopeSystem
	if user {
		scope = manifest.ScopeUser
	}
	return &Direct{launcher: l, scope: scope, log: log, ended: ended, expected: map[int]Unit{}, failed: map[string]error{}, told: map[string]bool{}, started: map[string]*child{}}
}

// Name implements Manager.
func (d *Direct) Name() string { return "direct" }

// Scope implements Manager.
func (d *Direct) Scope() string { return d.scope }

// Expects reports whether a process is a launcher of the service: this manager
// has started it, or it is in the service's cgroup already, where only the
// agent puts processes. The latter is a retry after an earlier agent has
// placed it and died before its reply.
func (d *Direct) Expects(pid int, instance, service string) bool {
	d.mu.Lock()
	u, ok := d.expected[pid]
	d.mu.Unlock()
	if ok {
		return u.Instance == instance && u.Service.Name == service
	}
	procs, err := d.launcher.Tracks.ServiceProcs(instance, service)
	return err == nil && slices.ContainsFunc(procs, func(p runs.Process) bool { return p.PID == pid })
}

// Start implements Manager.
func (d *Direct) Start(ctx context.Context, u Unit) error {
	procs, err := d.procs(u)
	if err != nil || len(procs) > 0 {
		return err
	}
	cred, env, err := identity(u.User)
	if err != nil {
		return err
	}
	// The write end is closed by the launcher's exec: the end of file reports
	// that the service runs.
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	argv := d.launcher.command(u)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(env, launchconf.ExecFDEnv+"=3")
	cmd.ExtraFiles = []*os.File{w}
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: cred}

	var ready *readiness // nil means that the service does not report
	if u.Ready == manifest.ReadyNotify {
		if ready, err = listenReady(); err != nil {
			w.Close()
			return err
		}
		cmd.Env = append(cmd.Env, ready.env())
	}
	d.mu.Lock() // Expects must not be asked before the pid is noted
	err = cmd.Start()
	w.Close()
	if err != nil {
		d.mu.Unlock()
		if ready != nil {
			ready.conn.Close()
		}
		return fmt.Errorf("cannot start service %s of %s: %w", u.Service.Name, u.Instance, err)
	}
	c := &child{reaped: make(chan struct{})}
	d.started[unitName(u)] = c
	d.expected[cmd.Process.Pid] = u
	delete(d.failed, unitName(u))
	delete(d.told, unitName(u))
	d.mu.Unlock()

	exited := make(chan error, 1)
	d.children.Go(func() {
		err := d.reap(cmd, u, c)
		if ready != nil {
			ready.conn.Close()
		}
		exited <- err
	})
	if ready != nil {
		d.children.Go(func() { ready.serve(func() ([]runs.Process, error) { return d.procs(u) }) })
	}
	if deadline, ok := ctx.Deadline(); ok {
		r.SetReadDeadline(deadline)
	}
	stop := context.AfterFunc(ctx, func() { r.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	why, err := io.ReadAll(r)
	d.mu.Lock()
	delete(d.expected, cmd.Process.Pid)
	d.mu.Unlock()
	switch {
	case err != nil:
		d.asked(u)
		cmd.Process.Kill()
		<-exited
		return fmt.Errorf("cannot start service %s of %s: %w", u.Service.Name, u.Instance, context.Cause(ctx))
	case len(why) > 0:
		<-exited
		return fmt.Errorf("cannot start service %s of %s: %s", u.Service.Name, u.Instance, why)
	}
	if ready != nil {
		if err := ready.await(ctx, c); err != nil {
			err = fmt.Errorf("cannot start service %s of %s: %w", u.Service.Name, u.Instance, err)
			// A service that has not become ready is stopped.
			return errors.Join(err, d.Stop(context.WithoutCancel(ctx), u))
		}
	}
	if procs, err = d.procs(u); err != nil || len(procs) > 0 {
		return err
	}
	return fmt.Errorf("cannot start service %s of %s: it ended at once: %w", u.Service.Name, u.Instance, <-exited)
}

// child is a process that the manager has started.
type child struct {
	reaped chan struct{} // closed when err is known
	err    error         // how it ended
}

// reap waits for a child and keeps how it ended.
func (d *Direct) reap(cmd *exec.Cmd, u Unit, c *child) error {
	defer close(c.reaped)
	err := cmd.Wait()
	if err == nil {
		c.err = errors.New("exit status 0")
		return c.err
	}
	c.err = err
	d.mu.Lock()
	if !d.told[unitName(u)] {
		d.failed[unitName(u)] = err
	}
	d.mu.Unlock()
	d.log.Info("a service has ended", "instance", u.Instance, "service", u.Service.Name, "error", err)
	d.ended(u.Instance)
	return err
}

// Settle implements Manager.
func (d *Direct) Settle(ctx context.Context, u Unit, long time.Duration) error {
	until := time.Now().Add(long)
	for {
		procs, err := d.procs(u)
		if err != nil {
			return err
		}
		if len(procs) == 0 {
			d.mu.Lock()
			c := d.started[unitName(u)]
			d.mu.Unlock()
			if c == nil { // of an earlier agent
				return fmt.Errorf("cannot keep service %s of %s running: it has ended", u.Service.Name, u.Instance)
			}
			<-c.reaped
			return fmt.Errorf("cannot keep service %s of %s running: it has ended: %w", u.Service.Name, u.Instance, c.err)
		}
		if !time.Now().Before(until) {
			return nil
		}
		if err := awaitExit(ctx, procs, 0, map[int]bool{}, until); err != nil {
			return err
		}
	}
}

// asked notes that the service ends on request, whenever that is noticed.
func (d *Direct) asked(u Unit) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.told[unitName(u)] = true
	delete(d.failed, unitName(u))
}

// Stop implements Manager.
func (d *Direct) Stop(ctx context.Context, u Unit) error {
	d.asked(u)
	ctx, cancel := context.WithTimeout(ctx, stopTimeout(u)+killGrace)
	defer cancel()
	sig := syscall.SIGTERM
	if u.StopSignal != "" {
		sig = units.Signal(u.StopSignal)
	}
	killAt := time.Now().Add(stopTimeout(u))
	signalled := map[int]bool{}
	for {
		procs, err := d.procs(u)
		if err != nil {
			return err
		}
		if len(procs) == 0 {
			return nil
		}
		if time.Now().After(killAt) {
			d.log.Warn("a service does not stop and is killed", messages.Key, messages.ServiceFailed, "instance", u.Instance, "service", u.Service.Name, "after", stopTimeout(u))
			if err := d.launcher.Tracks.KillService(u.Instance, u.Service.Name); err != nil {
				return err
			}
			killAt = killAt.Add(killGrace)
		}
		if err := awaitExit(ctx, procs, sig, signalled, killAt); err != nil {
			return fmt.Errorf("cannot stop service %s of %s: %w", u.Service.Name, u.Instance, err)
		}
	}
}

// State implements Manager.
func (d *Direct) State(_ context.Context, u Unit) (string, error) {
	procs, err := d.procs(u)
	if err != nil {
		return "", err
	}
	if len(procs) > 0 {
		return Active, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed[unitName(u)] != nil {
		return Failed, nil
	}
	return Inactive, nil
}

// GoingDown implements Manager: only logind could report it.
func (d *Direct) GoingDown() bool { return false }

// Close implements Manager. Services go on; they are found by their cgroups later.
func (d *Direct) Close() error { return nil }

func unitName(u Unit) string { return runname.ServiceUnit(u.Instance, u.Service.Name) }

func (d *Direct) procs(u Unit) ([]runs.Process, error) {
	return d.launcher.Tracks.ServiceProcs(u.Instance, u.Service.Name)
}

// awaitExit signals those of procs that have not been signalled and returns when
// one of them is gone, or at the time until.
func awaitExit(ctx context.Context, procs []runs.Process, sig syscall.Signal, signalled map[int]bool, until time.Time) error {
	var fds []unix.PollFd
	defer func() {
		for _, p := range fds {
			unix.Close(int(p.Fd))
		}
	}()
	for _, p := range procs {
		fd, err := unix.PidfdOpen(p.PID, 0)
		if errors.Is(err, unix.ESRCH) {
			return nil
		}
		if err != nil {
			return err
		}
		fds = append(fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
		if !signalled[p.PID] {
			if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
			signalled[p.PID] = true
		}
	}
	wait := max(time.Until(until), 0) + time.Millisecond
	if _, err := unix.Poll(fds, int(wait.Milliseconds())); err != nil && !errors.Is(err, unix.EINTR) {
		return err
	}
	return context.Cause(ctx)
}

// identity returns what a process of the user has; of "" what the agent itself
// has. The variables are those that systemd sets (systemd.exec(5)), without what
// concerns the agent alone.
func identity(name string) (*syscall.Credential, []string, error) {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "NOTIFY_SOCKET=") })
	if name == "" {
		return nil, env, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return nil, nil, errkind.New(errkind.NotFound, "cannot run a service as user %q: %w", name, err)
	}
	cred, err := credential(u)
	if err != nil {
		return nil, nil, err
	}
	return cred, append(env, "HOME="+u.HomeDir, "USER="+u.Username, "LOGNAME="+u.Username), nil
}

// credential is a user with all supplementary groups.
func credential(u *user.User) (*syscall.Credential, error) {
	groups, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("cannot find the groups of user %s: %w", u.Username, err)
	}
	var ids []uint32
	for _, text := range append([]string{u.Uid, u.Gid}, groups...) {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("cannot parse the IDs of user %s: %w", u.Username, err)
		}
		ids = append(ids, uint32(n))
	}
	return &syscall.Credential{Uid: ids[0], Gid: ids[1], Groups: ids[2:]}, nil
}
