package again

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/coreos/go-systemd/v22/unit"
	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"github.com/lull/lull/userd/notify"
)

// Again remembers what it has asked to quit.
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
	hook   int      // pidfd of the hook that asks in our place; 0: none
	env    []string // of the application, what a new one needs of it
	app    string   // which one of the package; "": unknown
	dir    string   // where it worked; "": unknown
}

// New makes one that remembers nothing. Hooks are started with more in their
// environment, and given to reap, which must not block, to be waited for.
func New(log *slog.Logger, more func() []string, reap func(instance string, hook *os.Process)) *Again {
	return &Again{Log: log, more: more, reap: reap, runs: map[string]*run{}}
}

// Quit asks the application that the refresh waits for to end itself. Conn is
// the session bus.
func (a *Again) Quit(ctx context.Context, conn *dbus.Conn, p notify.Pending) {
	r := &run{}
	var pids []int
	for _, q := range p.Processes {
		fd, err := hold(int(q.PID), p.Instance)
		if err != nil {
			a.Log.Info("a process is left alone", "instance", p.Instance, "pid", q.PID, "reason", err)
			continue
		}
		r.pidfds = append(r.pidfds, fd)
		pids = append(pids, int(q.PID))
		if r.env == nil {
			r.remember(int(q.PID))
		}
	}
	a.mu.Lock()
	old := a.runs[p.Instance]
	a.mu.Unlock()
	switch {
	case len(pids) == 0:
	case p.Hook:
		a.askByHook(r, old, p)
	default:
		if name, err := quitByBus(ctx, conn, p, pids); err == nil {
			a.Log.Info("an application was asked to quit", "instance", p.Instance, "bus-name", name)
		} else {
			a.Log.Info("an application is asked to quit", "instance", p.Instance, "pids", pids, "signal", "SIGTERM", "not-by-bus", err)
			for _, fd := range r.pidfds {
				_ = unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0) // it may have ended
			}
		}
	}
	a.mu.Lock()
	old = a.runs[p.Instance]
	a.runs[p.Instance] = r
	a.mu.Unlock()
	old.release()
}

// askByHook has the package's refresh-pending hook ask, which knows its application
// better. What comes of it is the hook's business: nothing else is asked.
func (a *Again) askByHook(r, old *run, p notify.Pending) {
	if old != nil && old.hook != 0 && alive(old.hook) {
		a.Log.Info("the hook of an application still runs", "instance", p.Instance, "hook", refreshPending)
		r.hook, old.hook = old.hook, 0
		return
	}
	cmd, err := launcher("--hook", refreshPending, p.Instance)
	if err == nil {
		cmd.Env = append(cmd.Env, r.env...)
		cmd.Env = append(append(cmd.Env, a.more()...), "LULL_NEW_VERSION="+p.ToVersion)
		err = cmd.Start()
	}
	if err == nil {
		// Before anybody can reap it, so that the number is still its own.
		r.hook, err = unix.PidfdOpen(cmd.Process.Pid, 0)
		a.reap(p.Instance, cmd.Process)
	}
	if err != nil {
		r.hook = 0
		a.Log.Warn("the hook that asks an application to quit cannot be run", "instance", p.Instance, "hook", refreshPending, "error", err)
		return
	}
	a.Log.Info("an application is asked to quit by its hook", "instance", p.Instance, "hook", refreshPending)
}

// Forget the instance: it is not to be started again.
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

// hold opens a pidfd of a process of this user that is in a run of the
// instance.
func hold(pid int, instance string) (int, error) {
	if pid <= 1 || pid == os.Getpid() {
		return -1, fmt.Errorf("cannot be a process of %s", instance)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1, err
	}
	// From here on the number may pass to another process, which then is
	// looked at; the pidfd still stands for the first one, and a signal to it
	// hits nobody.
	if err := check(pid, instance); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func check(pid int, instance string) error {
	// Not the owner of the folder, which is root for what must not be traced.
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return err
	}
	if !strings.Contains(string(status), fmt.Sprintf("\nUid:\t%d\t", os.Getuid())) {
		return errors.New("it belongs to another user")
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return err
	}
	if !inRun(string(b), instance) {
		return errors.New("it is in no run of the instance")
	}
	return nil
}

// inRun says whether /proc/PID/cgroup shows a run of an application of the
// instance: a freezer group lull.INSTANCE, the agent's own group
// lull/app/INSTANCE, or a scope app-lull-INSTANCE-ID.scope.
func inRun(cgroups, instance string) bool {
	scope := "app-lull-" + unit.UnitNameEscape(instance) + "-"
	for line := range strings.Lines(cgroups) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		_, path, ok := strings.Cut(rest, ":")
		if !ok {
			continue
		}
		parts := strings.Split(strings.Trim(path, "/"), "/")
		for i, part := range parts {
			id, isScope := strings.CutPrefix(part, scope)
			switch {
			case part == "lull."+instance,
				part == instance && i >= 2 && parts[i-1] == "app" && parts[i-2] == "lull",
				isScope && isRunID(strings.TrimSuffix(id, ".scope")) && strings.HasSuffix(id, ".scope"):
				return true
			}
		}
	}
	return false
}

// isRunID says whether s is 16 digits of a package and 8 of a run.
func isRunID(s string) bool {
	return len(s) == 24 && !strings.ContainsFunc(s, func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'f') })
}

// quitByBus asks by the application's own name, if one of the processes owns it
// and it does offer to quit.
func quitByBus(ctx context.Context, conn *dbus.Conn, p notify.Pending, pids []int) (string, error) {
	err := errors.New("it has no name on the session bus")
	for _, name := range []string{p.DBusName, p.DesktopEntry, p.Instance} {
		name = strings.TrimSuffix(name, ".desktop")
		if !isBusName(name) {
			continue
		}
		if err = askToQuit(ctx, conn, name, pids); err == nil {
			return name, nil
		}
	}
	return "", err
}

func askToQuit(ctx context.Context, conn *dbus.Conn, name string, pids []int) error {
	var owner string
	if err := conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.GetNameOwner", 0, name).Store(&owner); err != nil {
		return err
	}
	var pid uint32
	if err := conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.GetConnectionUnixProcessID", 0, owner).Store(&pid); err != nil {
		return err
	}
	if !slices.Contains(pids, int(pid)) {
		return fmt.Errorf("process %d, which owns %s, is none of them", pid, name)
	}
	app := conn.Object(owner, objectPath(name))
	// GTK takes any action without complaint: ask whether it has this one.
	var actions []string
	if err := app.CallWithContext(ctx, "org.gtk.Actions.List", dbus.FlagNoAutoStart).Store(&actions); err == nil && !slices.Contains(actions, "quit") {
		return errors.New("it has no action to quit")
	}
	return app.CallWithContext(ctx, "org.freedesktop.Application.ActivateAction", dbus.FlagNoAutoStart,
		"quit", []dbus.Variant{}, map[string]dbus.Variant{}).Err
}

// objectPath is where the desktop entry specification has an application's
// object: https://specifications.freedesktop.org/desktop-entry-spec, D-Bus
// Activation.
func objectPath(name string) dbus.ObjectPath {
	return dbus.ObjectPath("/" + strings.NewReplacer(".", "/", "-", "_").Replace(name))
}

func isBusName(s string) bool {
	if len(s) > 255 || !strings.Contains(s, ".") {
		return false
	}
	for part := range strings.SplitSeq(s, ".") {
		if part == "" || part[0] >= '0' && part[0] <= '9' {
			return false
		}
		for i := range len(part) {
			c := part[i]
			if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' {
				return false
			}
		}
	}
	return true
}
