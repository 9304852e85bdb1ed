package launch

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/cgroup"
	"github.com/lull/lull/agent/lib/dialer"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/runname"
	"github.com/lull/lull/agent/lib/scopes"
)

const (
	agentName = "org.lull.Agent1"
	busName   = "org.freedesktop.DBus"
	agentPath = dbus.ObjectPath("/org/lull/Agent1")
	joinRun   = "org.lull.Agent1.Manager.JoinRun"
)

// patience is how long systemd or the agent may take: what D-Bus takes for
// granted.
const patience = 25 * time.Second

// join puts this process into a run. With a tether the launch is tracked even
// if that fails: the process stays where it is unless it is below its user's
// manager without a unit of its own, and only a refusal of the agent stops it.
// Without a tether it goes on untracked only if the policy allows that for
// this instance.
func (l *launch) join(ctx context.Context) (tracked bool, err error) {
	if l.tether >= 0 && l.settled() {
		return true, nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = l.joinAny(ctx)
	if err == nil {
		all, rerr := cgroup.Of(0)
		if rerr == nil && standsIn(all, l.settings.Tracker, l.Instance, l.Service, l.pkg) {
			return true, nil
		}
		err = errkind.New(errkind.Unavailable, "it cannot be tracked: the kernel does not show it in its run")
		if rerr != nil {
			err = errkind.New(errkind.Unavailable, "it cannot be tracked: %w", rerr)
		}
	}
	switch errkind.KindOf(err) {
	case errkind.Busy, errkind.NotFound, errkind.Invalid:
		return false, err // the agent has refused
	}
	if l.tether >= 0 { // not where it should be, but known to run
		l.noteElsewhere(err)
		return true, nil
	}
	switch errkind.KindOf(err) {
	case errkind.NotPermitted, errkind.Interrupted:
		return false, err
	}
	if slices.Contains(l.settings.AllowUntracked, l.Instance) {
		l.sayUntracked(err)
		return false, nil
	}
	return false, errkind.New(errkind.Unavailable, "it cannot be tracked: %w", err).
		WithHint("a refresh would not see that it runs; allow-untracked in the policy permits that")
}

func (l *launch) joinAny(ctx context.Context) error {
	if l.settings.Tracker != "scope" {
		return l.joinByAgent(ctx)
	}
	if l.Service != "" {
		return nil // systemd has started it in its unit, or has not: standsIn reports which
	}
	err := l.joinScope(ctx)
	if err == nil || ctx.Err() != nil || l.User {
		return err
	}
	// A user without a systemd manager (cron, su): the agent asks the system's.
	if aerr := l.joinByAgent(ctx); aerr != nil {
		both := errkind.New(errkind.KindOf(aerr), "%v; %w", err, aerr)
		both.Hint = errkind.HintOf(aerr)
		return both
	}
	return nil
}

// ofSystem reports whether the system's manager makes the scope, and not the user's.
func (l *launch) ofSystem() bool { return os.Getuid() == 0 && !l.User && l.place() != own }

// systemd connects to the manager that makes scopes for this process.
func (l *launch) systemd(ctx context.Context) (*scopes.Manager, error) {
	if l.ofSystem() {
		return scopes.System(ctx)
	}
	return scopes.User(ctx)
}

// callAhead connects to systemd where this launch will ask it for a scope: systemd
// accepts and authenticates it while the launch reads what it needs. An error will be
// that of joinScope.
func (l *launch) callAhead(ctx context.Context) {
	if l.settings.Tracker != "scope" || l.Service != "" || l.manager != nil || l.settled() {
		return
	}
	if m, err := l.systemd(ctx); err == nil {
		l.manager = m
	}
}

// hangUp ends a connection to systemd that is not used now: systemd would keep for it
// what it sends to all.
func (l *launch) hangUp() {
	if l.manager != nil {
		l.manager.Close()
		l.manager, l.asked = nil, false
	}
}

// ask asks systemd for the scope of this process, if it is connected. It works on
// that while the launch goes on, up to join.
func (l *launch) ask() {
	if l.manager != nil {
		l.manager.Send(l.scope())
		l.asked = true
	}
}

// joinScope has systemd make a scope for this process.
func (l *launch) joinScope(ctx context.Context) error {
	defer l.hangUp()
	if l.manager == nil {
		m, err := l.systemd(ctx)
		if err != nil {
			return err
		}
		l.manager = m
	}
	if !l.asked {
		l.manager.Send(l.scope())
	}
	return l.manager.Wait(ctx)
}

func (l *launch) scope() scopes.Scope {
	s := scopes.Scope{
		Name:        runname.Scope(l.Instance, l.pkg, runname.Random()),
		Description: l.described(),
		PIDs:        []uint32{scopes.Caller}, // the number that this process has for itself may be another's
	}
	if !l.ofSystem() {
		s.Slice = "app.slice" // where applications belong, by systemd.io
	}
	return s
}

// described is how systemctl names the scope.
func (l *launch) described() string {
	if strings.HasPrefix(l.Instance, l.title) { // it has no title
		return l.Instance
	}
	return l.title + " (" + l.Instance + ")"
}

// joinByAgent has the agent put this process into a group.
func (l *launch) joinByAgent(ctx context.Context) error {
	conn, err := l.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	var group string
	join := func() error {
		return conn.Object(agentName, agentPath).CallWithContext(ctx, joinRun, 0, l.Instance, l.pkg.String(), l.Service).Store(&group)
	}
	owners := make(chan *dbus.Signal, 16) // of the agent's name
	conn.Signal(owners)
	conn.BusObject().Go(busName+".AddMatch", dbus.FlagNoReplyExpected, nil,
		"type='signal',sender='"+busName+"',member='NameOwnerChanged',arg0='"+agentName+"'")
	err = join()
	if hasName(err, "NoReply") {
		// The agent has left the bus during the call. A second one is harmless: a process
		// has one group. Where the bus can start the agent it does so now.
		if err = join(); hasName(err, "ServiceUnknown") && comesBack(ctx, owners) {
			err = join()
		}
	}
	return fromBus(err)
}

// hasName reports whether a call has ended in an error of the bus itself.
func hasName(err error, name string) bool {
	var e dbus.Error
	return errors.As(err, &e) && e.Name == busName+".Error."+name
}

// restartTime is how long an agent may take to come back that left the bus during a
// call. A launch has waited by then, and goes on without it where it can.
const restartTime = 10 * time.Second

// comesBack waits for an owner of the agent's name.
func comesBack(ctx context.Context, owners <-chan *dbus.Signal) bool {
	ctx, cancel := context.WithTimeout(ctx, restartTime)
	defer cancel()
	for {
		select {
		case s, ok := <-owners:
			if !ok {
				return false
			}
			var name, before, now string
			if s.Sender == busName && dbus.Store(s.Body, &name, &before, &now) == nil && name == agentName && now != "" {
				return true
			}
		case <-ctx.Done():
			return false
		}
	}
}

// wakeAgent has the bus start the agent, and returns when it serves.
func (l *launch) wakeAgent(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := l.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return fromBus(conn.Object(agentName, agentPath).CallWithContext(ctx, "org.freedesktop.DBus.Peer.Ping", 0).Err)
}

func (l *launch) dial(ctx context.Context) (*dbus.Conn, error) {
	conn, err := dialer.Open(l.Bus, true, dialer.None, dbus.WithContext(ctx))
	if err != nil {
		return nil, errkind.New(errkind.Unavailable, "cannot reach the agent's bus: %w", err)
	}
	return conn, nil
}

// fromBus gives an error from the bus its kind back.
func fromBus(err error) error {
	var e dbus.Error
	if !errors.As(err, &e) {
		if err != nil {
			return errkind.New(errkind.Unavailable, "cannot reach the agent: %w", err)
		}
		return nil
	}
	kind, ok := strings.CutPrefix(e.Name, errkind.Prefix)
	if !ok {
		return errkind.New(errkind.Unavailable, "cannot reach the agent: %w", e)
	}
	p := errkind.New(errkind.Kind(kind), "%w", e)
	p.Text, p.Hint = errkind.CutHint(p.Text)
	return p
}

// standsIn reports whether a process with these memberships is in a run of the
// instance, where the tracker watches.
func standsIn(all []cgroup.Membership, tracker, instance, service string, pkg digest.Digest) bool {
	isRun := func(group, run string, ok bool) bool {
		prefix, svc, isRun := runname.ParseRun(run)
		return ok && isRun && prefix == pkg.Short() && svc == service && group == instance
	}
	unified := strings.Split(strings.TrimPrefix(cgroup.Unified(all), "/"), "/")
	switch tracker {
	case "scope":
		for _, unit := range unified {
			if service != "" && unit == runname.ServiceUnit(instance, service) {
				return true
			}
			i, prefix, ok := runname.ParseScope(unit)
			if service == "" && ok && i == instance && prefix == pkg.Short() {
				return true
			}
		}
	case "freezer":
		path := strings.Split(strings.TrimPrefix(cgroup.Freezer(all), "/"), "/")
		if len(path) > 1 {
			group, svc, ok := runname.ParseFreezerGroup(path[0])
			return isRun(group, path[1], ok && svc == (service != ""))
		}
	case "subtree":
		want := runname.SubtreeApp
		if service != "" {
			want = runname.SubtreeSvc
		}
		if len(unified) > 3 {
			return isRun(unified[2], unified[3], unified[0]+"/"+unified[1] == want)
		}
	}
	return false
}
