package restart

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"github.com/lull/lull/userd/notify"
	"github.com/lull/lull/userd/windows"
)

// Again remembers the applications that it has asked to quit.
type Again struct {
	Log  *slog.Logger
	more func() []string
	reap func(instance string, hook *os.Process)

	mu   sync.Mutex
	runs map[string]*run // guarded by mu; by instance
}

// run is what was asked to quit of one instance.
type run struct {
	pidfds []int
	how    string  // it was asked; "" if no process was
	hook   int     // pidfd of the hook that asks instead; 0 if none
	apps   []place // where its applications ran, each once
}

// place is where an application of the package ran.
type place struct {
	app string   // its name in the package; empty if unknown
	env []string // what a new one needs of its environment
	dir string   // its working directory; empty if unknown
}

// New makes one that remembers nothing. Hooks are started with more in their
// environment, and given to reap, which must not block, to be waited for.
func New(log *slog.Logger, more func() []string, reap func(instance string, hook *os.Process)) *Again {
	return &Again{Log: log, more: more, reap: reap, runs: map[string]*run{}}
}

// The ways in which an application can be asked to quit.
const (
	byHook    = "hook"
	byBus     = "bus"
	byWindows = "windows"
	bySignal  = "signal"
)

// Quit asks the application that the refresh waits for to end itself. Only processes
// of the package are asked: what they have started may have work of its own. Conn is
// the session bus.
func (a *Again) Quit(ctx context.Context, conn *dbus.Conn, p notify.Pending) {
	r := &run{}
	var own []process
	for _, q := range p.Processes {
		o, fd, err := hold(int(q.PID), p.Instance)
		if err != nil {
			a.Log.Info("a process is left alone", "instance", p.Instance, "pid", q.PID, "reason", err)
			continue
		}
		o.pidfd = fd
		r.pidfds = append(r.pidfds, fd)
		own = append(own, o)
		r.remember(int(q.PID))
	}
	a.mu.Lock()
	old := a.runs[p.Instance]
	a.mu.Unlock()
	switch {
	case len(own) == 0:
	case p.QuitHook:
		r.how = byHook
		a.askByHook(r, old, p)
	default:
		a.ask(ctx, conn, r, old, p, own)
	}
	a.mu.Lock()
	old = a.runs[p.Instance]
	a.runs[p.Instance] = r
	a.mu.Unlock()
	old.release()
}

// ask asks in the first way that the application understands. The signal is the last
// one, and never follows another way: an application that was asked and has not
// answered may be asking its user what to do with unsaved work.
func (a *Again) ask(ctx context.Context, conn *dbus.Conn, r, old *run, p notify.Pending, own []process) {
	log := a.Log.With("instance", p.Instance)
	name, err := quitByBus(ctx, conn, p, pids(own))
	if err == nil {
		r.how = byBus
		log.Info("an application was asked to quit", "bus-name", name)
		return
	}
	if errors.Is(err, errUnsure) {
		r.how = byBus
		log.Warn("cannot determine whether an application can be asked to quit, so it is left alone", "error", err)
		return
	}
	why := err
	if display := r.display(); display.Name != "" {
		n, dialogs, err := windows.Close(ctx, display, pids(own))
		if n > 0 {
			r.how = byWindows
			log.Info("the windows of an application were asked to close", "windows", n)
			return
		}
		if dialogs > 0 {
			r.how = byWindows
			log.Info("an application waits for its user in a dialog and is left alone", "dialogs", dialogs)
			return
		}
		if errors.Is(err, windows.ErrUnknown) { // its windows may have unsaved work, which a signal would lose
			r.how = byWindows
			log.Warn("cannot determine whether an application has windows, so it is left alone", "error", err)
			return
		}
		if err != nil {
			why = errors.Join(why, err)
		}
	}
	if old != nil && old.how != bySignal && old.how != "" && slices.ContainsFunc(old.pidfds, alive) {
		r.how = old.how
		log.Info("an application was asked to quit before and is left alone", "asked-by", old.how, "now", why)
		return
	}
	r.how = bySignal
	for _, m := range mains(own) {
		log.Info("an application is asked to quit", "pid", m.pid, "signal", "SIGTERM", "not-otherwise", why)
		_ = unix.PidfdSendSignal(m.pidfd, unix.SIGTERM, nil, 0) // it may have ended
	}
}

// display is the X display on which the application has its windows; none where its
// session is none of type x11. A Wayland session has no such way to ask, and its
// DISPLAY would start an Xwayland.
func (r *run) display() windows.Display {
	env := map[string]string{}
	for _, e := range r.env() {
		name, value, _ := strings.Cut(e, "=")
		env[name] = value
	}
	if env["WAYLAND_DISPLAY"] != "" || env["XDG_SESSION_TYPE"] != "" && env["XDG_SESSION_TYPE"] != "x11" {
		return windows.Display{}
	}
	return windows.Display{Name: env["DISPLAY"], Authority: env["XAUTHORITY"]}
}

// askByHook runs the package's quit hook, which asks its application in its
// own way. Its result is final: nothing else is asked.
func (a *Again) askByHook(r, old *run, p notify.Pending) {
	if old != nil && old.hook != 0 && alive(old.hook) {
		a.Log.Info("the hook of an application still runs", "instance", p.Instance, "hook", quitHook)
		r.hook, old.hook = old.hook, 0
		return
	}
	cmd, err := launcher("--hook", quitHook, p.Instance)
	if err == nil {
		cmd.Env = append(cmd.Env, r.env()...)
		cmd.Env = append(append(cmd.Env, a.more()...), "LULL_HOOK="+quitHook, "LULL_NEW_VERSION="+p.ToVersion)
		err = cmd.Start()
	}
	if err == nil {
		// Before it can be reaped, so that the number is still its own.
		r.hook, err = unix.PidfdOpen(cmd.Process.Pid, 0)
		a.reap(p.Instance, cmd.Process)
	}
	if err != nil {
		r.hook = 0
		a.Log.Warn("the hook that asks an application to quit cannot be run", "instance", p.Instance, "hook", quitHook, "error", err)
		return
	}
	a.Log.Info("an application is asked to quit by its hook", "instance", p.Instance, "hook", quitHook)
}

// Forget the instance: it will not be restarted.
func (a *Again) Forget(instance string) {
	a.mu.Lock()
	r := a.runs[instance]
	delete(a.runs, instance)
	a.mu.Unlock()
	r.release()
}

// Close forgets all.
func (a *Again) Close() {
	a.mu.Lock()
	runs := a.runs
	a.runs = map[string]*run{}
	a.mu.Unlock()
	for _, r := range runs {
		r.release()
	}
}

func (r *run) release() {
	if r == nil {
		return
	}
	for _, fd := range r.pidfds {
		unix.Close(fd)
	}
	if r.hook != 0 {
		unix.Close(r.hook)
	}
	r.pidfds, r.hook = nil, 0
}
