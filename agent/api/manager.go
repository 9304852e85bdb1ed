package api

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/authz"
	"github.com/lull/lull/agent/doctor"
	"github.com/lull/lull/agent/lib/accounts"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/offers"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/runs"
	bus "github.com/lull/lull/dbus"
)

// procs is a process that is waited for.
type procs = runs.Process

// managerObject implements bus.Manager.
type managerObject struct{ s *Service }

var noPath = dbus.ObjectPath("/")

func (o managerObject) started(r plan.Refresh, err error) (dbus.ObjectPath, error) {
	if err != nil {
		return noPath, err
	}
	return o.s.objects.ensure(r), nil
}

func (o managerObject) Install(c bus.Caller, name string, opt bus.InstallOptions) (dbus.ObjectPath, error) {
	if err := o.s.auth.Check(c, authz.Install); err != nil {
		return noPath, err
	}
	return o.started(o.s.m.Requests().Install(o.asked(c), name, opt.Key, opt.Repository, opt.Channel, opt.Now))
}

func (o managerObject) Remove(c bus.Caller, instance string, opt bus.RemoveOptions) (dbus.ObjectPath, error) {
	if err := o.s.auth.Check(c, authz.Install); err != nil {
		return noPath, err
	}
	return o.started(o.s.m.Requests().Remove(o.asked(c), instance, opt.Purge))
}

func (o managerObject) Revert(c bus.Caller, instance string, opt bus.RevertOptions) (dbus.ObjectPath, error) {
	if err := o.s.auth.Check(c, authz.Revert); err != nil {
		return noPath, err
	}
	return o.started(o.s.m.Requests().Revert(o.asked(c), instance, opt.Revision))
}

func (o managerObject) Refresh(c bus.Caller, instances []string, opt bus.RefreshOptions) ([]dbus.ObjectPath, error) {
	if err := o.s.auth.Check(c, authz.Refresh); err != nil {
		return nil, err
	}
	if opt.Atomic && len(instances) == 0 {
		return nil, errkind.New(errkind.Invalid, "cannot refresh all or nothing: no application is named")
	}
	named := instances
	if len(instances) == 0 {
		names, err := o.s.m.Reports().Packages()
		if err != nil || len(names) == 0 {
			return nil, err
		}
		instances = names
	}
	if opt.Now { // what a rollout leaves out is for others to decide
		if err := o.s.auth.Check(c, authz.Install); err != nil {
			return nil, err
		}
	}
	if opt.SideBySide { // it overrules what keeps all users' applications on one revision
		switch {
		case len(named) == 0, opt.Atomic:
			return nil, errkind.New(errkind.Invalid, "cannot refresh side by side: it takes names, and goes without atomic")
		}
		if err := o.s.auth.Check(c, authz.Install); err != nil {
			return nil, err
		}
	}
	start := o.s.m.Requests().Check
	if opt.Atomic {
		start = o.s.m.Requests().RefreshTogether
	}
	list, err := start(o.asked(c), instances, offers.Mode{Asked: true, Now: opt.Now})
	if err != nil {
		return nil, err
	}
	var paths []dbus.ObjectPath
	for _, r := range list {
		paths = append(paths, o.s.objects.ensure(r))
		if opt.SideBySide {
			if o.s.m.Engine().Beside(r.ID) {
				o.s.objects.update(r.ID)
			}
		} else if err == nil && !opt.NoWait {
			err = o.s.postponed(r)
		}
	}
	return paths, err
}

// postponed is the error of a refresh that waits: it names whom it waits for.
func (s *Service) postponed(r plan.Refresh) error {
	switch {
	case r.State() != plan.Waiting:
		return nil
	case r.Held:
		return s.held(r.Instance)
	case len(r.WaitingFor) == 0:
		return nil
	}
	return errkind.New(errkind.Busy, "cannot refresh %s now: %s", r.Instance, saysRunning(r.WaitingFor)).
		WithHint("close it; then it is refreshed at once and by itself")
}

// saysRunning describes the processes, as in "2 processes are running: notes (pid 7, user ann), …".
func saysRunning(list []procs) string {
	const most = 8
	var who []string
	for _, p := range list[:min(len(list), most)] {
		who = append(who, p.Named("user "+accounts.Name(p.UID)))
	}
	if len(list) > most {
		who = append(who, "…")
	}
	if len(list) == 1 {
		return "1 process is running: " + who[0]
	}
	return fmt.Sprintf("%d processes are running: %s", len(list), strings.Join(who, ", "))
}

func (o managerObject) Check(c bus.Caller) ([]dbus.ObjectPath, error) {
	if err := o.s.auth.Check(c, authz.Refresh); err != nil {
		return nil, err
	}
	list, err := o.s.m.Requests().Check(o.asked(c), nil, offers.Mode{})
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
	for _, p := range o.s.m.Reports().Pending(uid, uid == 0) {
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
	who, err := c.Credentials()
	if err != nil {
		return "", err
	}
	return o.s.m.Joiner().Join(o.s.ctx, instance, pkg, service, who.UID, who.PID, int(pidfd.Fd()))
}

// Open returns the package's directory and a lease.
func (o managerObject) Open(c bus.Caller, what string) (dir, end *os.File, hash string, err error) {
	cred, err := c.Credentials()
	if err != nil {
		return nil, nil, "", err
	}
	slot, err := o.s.m.Leases().Reserve(cred.UID, o.s.auth.Administrator(cred.UID))
	if err != nil {
		return nil, nil, "", err
	}
	holder := fmt.Sprintf("client %s, user %s", commandOf(cred.PID), accounts.Name(cred.UID))
	dir, lease, err := o.s.m.Opener().Open(what, holder, cred.PID)
	if err != nil {
		slot.Cancel()
		return nil, nil, "", err
	}
	if end, err = slot.Grant(lease, holder, cred.PID); err != nil {
		dir.Close()
		return nil, nil, "", err
	}
	return o.s.asSeenBy(cred.PID, dir), end, lease.Package().String(), nil
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
	slot, err := o.s.m.Leases().Reserve(cred.UID, o.s.auth.Administrator(cred.UID))
	if err != nil {
		return nil, nil, "", "", err
	}
	defer slot.Cancel() // unless it is used
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
	holder := fmt.Sprintf("ephemeral run of %s, user %s", name, accounts.Name(cred.UID))
	r, err := o.s.m.Opener().Resolve(ctx, name, opt.Repository, opt.Channel, holder, cred.PID, nil)
	if err != nil {
		return nil, nil, "", "", err
	}
	if end, err = slot.Grant(r.Lease, holder, cred.PID); err != nil {
		r.Dir.Close()
		return nil, nil, "", "", err
	}
	return o.s.asSeenBy(cred.PID, r.Dir), end, r.Lease.Package().String(), r.Version, nil
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
	defer o.s.expensive.take()()
	list, err := o.s.m.Opener().Why(what)
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
			return errkind.New(errkind.Invalid, "cannot register a helper: sessions is of the type %s, want a(sbbbbb)", v.Signature())
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
		return errkind.New(errkind.NotPermitted, "cannot take how sessions stand: this is no helper that has registered")
	}
	o.s.reported(c.Sender, uid, list)
	return nil
}

// Answer writes down what a user answered. The helper does what follows from it, and
// the agent refreshes by event. An answer that asks for the refresh is such a request
// only from who may refresh: for others it waits for its conditions, such as the
// administrator's window, all the same.
func (o managerObject) Answer(c bus.Caller, id, action string) error {
	uid, err := c.UID()
	if err != nil {
		return err
	}
	if action == "next-start" {
		return o.leaveToBoot(c, uid, id)
	}
	if action == "download-now" {
		return o.downloadNow(uid, id)
	}
	if !slices.Contains([]string{"restart-now", "when-closed", "later"}, action) {
		return errkind.New(errkind.Invalid, "cannot take %.40q as an answer: want restart-now, when-closed, later, download-now or next-start", action)
	}
	for _, p := range o.s.m.Reports().Pending(uid, uid == 0) {
		if p.ID == id {
			o.s.log.Info("a user has answered", "refresh", id, "instance", p.Instance, "user", accounts.Name(uid), "answer", action)
			if action != "restart-now" || len(p.WaitingFor) == 0 || len(p.Unmet) == 0 {
				return nil // nothing is overridden, so no right is needed
			}
			if err := o.s.auth.Check(c, authz.Refresh); err != nil {
				o.s.log.Info("the refresh waits for its conditions all the same", "refresh", id, "instance", p.Instance, "user", accounts.Name(uid), "error", err)
				return nil
			}
			o.s.m.Engine().Now(id)
			return nil
		}
	}
	return errkind.New(errkind.NotFound, "cannot answer: no refresh %.40q waits for an application of user %s", id, accounts.Name(uid))
}

// leaveToBoot takes the answer to ShuttingDown. It needs no right: the shutdown was allowed
// already, and the refreshes are applied at the next start, before a user can log in.
func (o managerObject) leaveToBoot(c bus.Caller, uid uint32, id string) error {
	switch {
	case !o.s.helpers.has(c.Sender):
		return errkind.New(errkind.NotPermitted, "cannot take the answer next-start: this is no helper that has registered")
	case id != "":
		return errkind.New(errkind.Invalid, "cannot leave refresh %.40q alone to the next start: next-start is for all, with an empty id", id)
	case !o.s.m.Engine().LeaveToBoot():
		return errkind.New(errkind.NotFound, "cannot leave refreshes to the next start: the machine is not shutting down")
	}
	o.s.log.Info("a user leaves refreshes to the next start", "user", accounts.Name(uid))
	return nil
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
	return o.s.shown(o.s.m.Repositories().Add(o.s.ctx, name, url, root))
}

func (o managerObject) AddAptRepository(c bus.Caller, name, line string, keys []byte, packages []string) error {
	if err := o.s.auth.Check(c, authz.Configure); err != nil {
		return err
	}
	return o.s.shown(o.s.m.Repositories().AddApt(o.s.ctx, name, line, keys, packages))
}

func (o managerObject) AddWatchedDirectory(c bus.Caller, name, dir string) error {
	if err := o.s.auth.Check(c, authz.Configure); err != nil {
		return err
	}
	return o.s.shown(o.s.m.Repositories().AddWatched(name, dir))
}

func (o managerObject) RemoveRepository(c bus.Caller, name string) error {
	if err := o.s.auth.Check(c, authz.Configure); err != nil {
		return err
	}
	return o.s.shown(o.s.m.Repositories().Remove(name))
}

func (o managerObject) SetRepositoryURL(c bus.Caller, name, url string) error {
	if err := o.s.auth.Check(c, authz.Configure); err != nil {
		return err
	}
	return o.s.shown(o.s.m.Repositories().SetURL(o.s.ctx, name, url))
}

func (o managerObject) Withheld(c bus.Caller, instances []string) ([]bus.WithheldVersion, error) {
	if len(instances) == 0 {
		instances = nil
	}
	list, err := o.s.m.Offers().Withheld(o.s.ctx, instances)
	var out []bus.WithheldVersion
	for _, w := range list {
		out = append(out, bus.WithheldVersion(w))
	}
	return out, err
}

func (o managerObject) Inspect(c bus.Caller) (string, error) {
	return o.s.inspecting.Do(func() (string, error) {
		b, err := o.s.m.Reports().Inspect()
		return string(b), err
	})
}

func (o managerObject) Doctor(c bus.Caller) ([]bus.Check, error) {
	uid, err := c.UID()
	if err != nil {
		return nil, err
	}
	own, err := o.s.doctoring.Do(func() ([]doctor.Check, error) { return o.s.m.Doctor().Examine(o.s.ctx), nil })
	if err != nil {
		return nil, err
	}
	var list []bus.Check
	for _, k := range slices.Concat(own, o.s.peers(uid)) {
		list = append(list, bus.Check{Name: k.Name, State: k.State, Seen: k.Seen, Advice: k.Advice})
	}
	return list, nil
}

func (o managerObject) Sentences(_ bus.Caller, texts []string) ([]bus.Sentence, error) {
	list := []bus.Sentence{}
	for text, s := range errkind.Sentences(texts) {
		parts := s.Parts
		if parts == nil {
			parts = []string{}
		}
		list = append(list, bus.Sentence{Text: text, Message: s.Message, Parts: parts})
	}
	return list, nil
}

func (o managerObject) Reload(c bus.Caller) error {
	if err := o.s.auth.Check(c, authz.Configure); err != nil {
		return err
	}
	return o.s.shown(o.s.m.Reload())
}
