package api

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/authz"
	"github.com/lull/lull/agent/index"
	"github.com/lull/lull/agent/problem"
	"github.com/lull/lull/agent/refresh"
	"github.com/lull/lull/agent/runs"
	bus "github.com/lull/lull/dbus"
)

// procs is a process that is waited for.
type procs = runs.Process

// managerObject implements bus.Manager.
type managerObject struct{ s *Service }

var noPath = dbus.ObjectPath("/")

func (o managerObject) started(r refresh.Refresh, err error) (dbus.ObjectPath, error) {
	if err != nil {
		return noPath, err
	}
	return o.s.objects.ensure(r), nil
}

func (o managerObject) Install(c bus.Caller, name string, opt bus.InstallOptions) (dbus.ObjectPath, error) {
	if err := o.s.auth.Check(c, authz.Install); err != nil {
		return noPath, err
	}
	return o.started(o.s.m.Install(o.s.ctx, name, opt.Key, opt.Repository, opt.Channel))
}

func (o managerObject) Remove(c bus.Caller, instance string, opt bus.RemoveOptions) (dbus.ObjectPath, error) {
	if err := o.s.auth.Check(c, authz.Install); err != nil {
		return noPath, err
	}
	return o.started(o.s.m.Remove(o.s.ctx, instance, opt.Purge))
}

func (o managerObject) Revert(c bus.Caller, instance string, opt bus.RevertOptions) (dbus.ObjectPath, error) {
	if err := o.s.auth.Check(c, authz.Refresh); err != nil {
		return noPath, err
	}
	return o.started(o.s.m.Revert(o.s.ctx, instance, opt.Revision))
}

func (o managerObject) Refresh(c bus.Caller, instances []string, opt bus.RefreshOptions) ([]dbus.ObjectPath, error) {
	if err := o.s.auth.Check(c, authz.Refresh); err != nil {
		return nil, err
	}
	if opt.Atomic && len(instances) == 0 {
		return nil, problem.New(problem.Invalid, "cannot refresh all or nothing: no application is named")
	}
	if len(instances) == 0 {
		names, err := o.s.m.Packages()
		if err != nil || len(names) == 0 {
			return nil, err
		}
		instances = names
	}
	start := o.s.m.Check
	if opt.Atomic {
		start = o.s.m.RefreshTogether
	}
	list, err := start(o.s.ctx, instances)
	if err != nil {
		return nil, err
	}
	var paths []dbus.ObjectPath
	for _, r := range list {
		paths = append(paths, o.s.objects.ensure(r))
		if err == nil && !opt.NoWait {
			err = postponed(r)
		}
	}
	return paths, err
}

// postponed is the error of a refresh that waits: it names whom it waits for.
func postponed(r refresh.Refresh) error {
	switch {
	case r.State() != refresh.Waiting:
		return nil
	case r.Held:
		return problem.New(problem.Held, "cannot refresh %s now: it is held", r.Instance).
			WithHint("lull status %s says by whom; lull unhold %s ends your own hold", r.Instance, r.Instance)
	case len(r.WaitingFor) == 0:
		return nil
	}
	return problem.New(problem.Busy, "cannot refresh %s now: %s", r.Instance, saysRunning(r.WaitingFor)).
		WithHint("close it; then it is refreshed at once and by itself")
}

// saysRunning says who runs what, as in "2 processes are running: notes (pid 7, user ann), …".
func saysRunning(list []procs) string {
	const most = 8
	var who []string
	for _, p := range list[:min(len(list), most)] {
		who = append(who, fmt.Sprintf("%s (pid %d, user %s)", p.Command, p.PID, userName(p.UID)))
	}
	if len(list) > most {
		who = append(who, "…")
	}
	if len(list) == 1 {
		return "1 process is running: " + who[0]
	}
	return fmt.Sprintf("%d processes are running: %s", len(list), strings.Join(who, ", "))
}

func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}

func (o managerObject) Check(c bus.Caller) ([]dbus.ObjectPath, error) {
	if err := o.s.auth.Check(c, authz.Refresh); err != nil {
		return nil, err
	}
	list, err := o.s.m.Check(o.s.ctx, nil)
	var paths []dbus.ObjectPath
	for _, r := range list {
		paths = append(paths, o.s.objects.ensure(r))
	}
	return paths, err
}

func (o managerObject) Pending(c bus.Caller) ([]bus.PendingRefresh, error) {
	uid, err := c.UID()
	if err != nil {
		return nil, err
	}
	list := []bus.PendingRefresh{}
	for _, p := range o.s.m.Pending(uid, uid == 0) {
		list = append(list, pendingRefresh(p))
	}
	return list, nil
}

func (o managerObject) JoinRun(c bus.Caller, instance, pkg, service string) (string, error) {
	pidfd, err := c.PIDFD()
	if err != nil {
		return "", err
	}
	defer pidfd.Close()
	pid, err := c.PID()
	if err != nil {
		return "", err
	}
	return o.s.m.Join(o.s.ctx, instance, pkg, service, pid, int(pidfd.Fd()))
}

// Open hands out the package's folder and a lease.
func (o managerObject) Open(c bus.Caller, what string) (dir, end *os.File, hash string, err error) {
	cred, err := c.Credentials()
	if err != nil {
		return nil, nil, "", err
	}
	holder := fmt.Sprintf("client %s, user %s", commandOf(cred.PID), userName(cred.UID))
	dir, lease, err := o.s.m.Open(what, holder, cred.PID)
	if err != nil {
		return nil, nil, "", err
	}
	dir = o.s.asSeenBy(cred.PID, dir)
	end, err = o.s.handOut(dir, lease)
	return dir, end, lease.Package().String(), err
}

// Resolve is Open for what a channel offers. The caller's end is the end of it.
func (o managerObject) Resolve(c bus.Caller, name string, opt bus.ResolveOptions) (dir, end *os.File, hash, version string, err error) {
	if err := o.s.auth.Check(c, authz.Resolve); err != nil {
		return nil, nil, "", "", err
	}
	cred, err := c.Credentials()
	if err != nil {
		return nil, nil, "", "", err
	}
	ctx, cancel := context.WithCancel(o.s.ctx)
	defer cancel()
	stop, err := o.s.names.Watch(ctx, c.Sender, func(owner string) {
		if owner == "" {
			cancel()
		}
	})
	if err != nil {
		return nil, nil, "", "", err
	}
	defer stop()
	holder := fmt.Sprintf("ephemeral run of %s, user %s", name, userName(cred.UID))
	dir, lease, version, err := o.s.m.Resolve(ctx, name, opt.Repository, opt.Channel, holder, cred.PID)
	if err != nil {
		return nil, nil, "", "", err
	}
	dir = o.s.asSeenBy(cred.PID, dir)
	end, err = o.s.handOut(dir, lease)
	return dir, end, lease.Package().String(), version, err
}

// handOut returns the end of a pipe: when nobody has that end open any more, by
// closing or dying, the read at the other end says so, and the lease is over. If
// it fails, lease and folder are closed.
func (s *Service) handOut(dir *os.File, lease *index.Lease) (end *os.File, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		lease.Close()
		dir.Close()
		return nil, fmt.Errorf("cannot open package %s: %w", lease.Package().Short(), err)
	}
	s.wg.Go(func() {
		defer lease.Close()
		defer r.Close()
		// There may be thousands: each is to cost a small stack and no buffer.
		defer context.AfterFunc(s.ctx, func() { r.SetReadDeadline(time.Unix(1, 0)) })()
		var b [1]byte
		for err := error(nil); err == nil; { // what a client writes means nothing
			_, err = r.Read(b[:])
		}
	})
	return w, nil
}

// commandOf is the kernel's name of a process.
func commandOf(pid int) string {
	list := runs.Describe([]int{pid})
	if len(list) == 0 {
		return "that has ended"
	}
	return list[0].Command
}

func (o managerObject) Why(_ bus.Caller, what string) ([]bus.Chain, error) {
	list, err := o.s.m.Why(what)
	if err != nil {
		return nil, err
	}
	chains := []bus.Chain{}
	for _, c := range list {
		chains = append(chains, bus.Chain{Index: c.Index, Package: c.Package, Through: c.Through, Holder: c.Holder, PID: uint32(c.PID)})
	}
	return chains, nil
}

func (o managerObject) RegisterHelper(c bus.Caller, session map[string]dbus.Variant) error {
	uid, err := c.UID()
	if err != nil {
		return err
	}
	var list []bus.HelperSession
	if v, ok := session["sessions"]; ok {
		if err := v.Store(&list); err != nil {
			return problem.New(problem.Invalid, "cannot register a helper: sessions is of the type %s, want a(sbbbbb)", v.Signature())
		}
	}
	if err := o.s.helpers.add(o.s, c.Sender, uid); err != nil {
		return err
	}
	o.s.reported(c.Sender, uid, list)
	return nil
}

func (o managerObject) SetSessions(c bus.Caller, list []bus.HelperSession) error {
	uid, err := c.UID()
	if err != nil {
		return err
	}
	if !o.s.helpers.has(c.Sender) {
		return problem.New(problem.NotPermitted, "cannot take how sessions stand: this is no helper that has registered")
	}
	o.s.reported(c.Sender, uid, list)
	return nil
}

// Answer writes down what a user answered. The helper does what follows from it, and
// the agent refreshes by event; but who wants it now has it wait for no condition.
func (o managerObject) Answer(c bus.Caller, id, action string) error {
	uid, err := c.UID()
	if err != nil {
		return err
	}
	if !slices.Contains([]string{"restart-now", "when-closed", "later"}, action) {
		return problem.New(problem.Invalid, "cannot take %.40q as an answer: want restart-now, when-closed or later", action)
	}
	for _, p := range o.s.m.Pending(uid, uid == 0) {
		if p.ID == id {
			o.s.log.Info("a user has answered", "refresh", id, "instance", p.Instance, "user", userName(uid), "answer", action)
			if action == "restart-now" && len(p.WaitingFor) > 0 {
				o.s.m.Now(id)
			}
			return nil
		}
	}
	return problem.New(problem.NotFound, "cannot answer: no refresh %.40q waits for an application of user %s", id, userName(uid))
}

func (o managerObject) WorkDone(c bus.Caller, id, instance, phase, text string) error {
	uid, err := c.UID()
	if err != nil {
		return err
	}
	return o.s.sessions.done(c.Sender, uid, id, instance, phase, text)
}

func (o managerObject) AddRepository(c bus.Caller, name, url string, root []byte) error {
	if err := o.s.auth.Check(c, authz.Configure); err != nil {
		return err
	}
	return o.s.m.AddRepository(o.s.ctx, name, url, root)
}

func (o managerObject) Inspect(c bus.Caller) (string, error) {
	b, err := o.s.m.Inspect()
	return string(b), err
}

func (o managerObject) Doctor(c bus.Caller) ([]bus.Check, error) {
	uid, err := c.UID()
	if err != nil {
		return nil, err
	}
	var list []bus.Check
	for _, k := range append(o.s.m.Doctor(), o.s.peers(uid)...) {
		list = append(list, bus.Check{Name: k.Name, State: k.State, Seen: k.Seen, Advice: k.Advice})
	}
	return list, nil
}

func (o managerObject) Reload(c bus.Caller) error {
	if err := o.s.auth.Check(c, authz.Configure); err != nil {
		return err
	}
	return o.s.m.Reload()
}
