package launch

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/cgroup"
	"github.com/lull/lull/agent/digest"
	"github.com/lull/lull/agent/problem"
	"github.com/lull/lull/agent/runs/runname"
	"github.com/lull/lull/agent/runs/transient"
	"github.com/lull/lull/dbus/dialer"
)

const (
	agentName = "org.lull.Agent1"
	agentPath = dbus.ObjectPath("/org/lull/Agent1")
	joinRun   = "org.lull.Agent1.Manager.JoinRun"
)

// patience is how long systemd or the agent may take: what D-Bus takes for
// granted.
const patience = 25 * time.Second

// join puts this process into a run. The launch goes on untracked only where
// the policy says so for this instance.
func (l *launch) join(ctx context.Context) (tracked bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = l.joinAny(ctx)
	if err == nil {
		all, rerr := cgroup.Of(0)
		if rerr == nil && standsIn(all, l.settings.Tracker, l.Instance, l.Service, l.pkg) {
			return true, nil
		}
		err = problem.New(problem.Unavailable, "it cannot be tracked: the kernel does not show it in its run")
		if rerr != nil {
			err = problem.New(problem.Unavailable, "it cannot be tracked: %w", rerr)
		}
	}
	switch problem.KindOf(err) {
	case problem.Busy, problem.NotPermitted, problem.NotFound, problem.Invalid, problem.Interrupted:
		return false, err // the agent has said no
	}
	if slices.Contains(l.settings.AllowUntracked, l.Instance) {
		l.sayUntracked(err)
		return false, nil
	}
	return false, problem.New(problem.Unavailable, "it cannot be tracked: %w", err).
		WithHint("a refresh would not see that it runs; allow-untracked in the policy permits that")
}

func (l *launch) joinAny(ctx context.Context) error {
	if l.settings.Tracker != "scope" {
		return l.joinByAgent(ctx)
	}
	if l.Service != "" {
		return nil // systemd has started it in its unit, or has not: standsIn tells
	}
	connect := transient.User
	if os.Getuid() == 0 && !l.User {
		connect = transient.System
	}
	err := l.joinScope(ctx, connect)
	if err == nil || ctx.Err() != nil || l.User {
		return err
	}
	// A user without a systemd of his own (cron, su): the agent asks the system's.
	if aerr := l.joinByAgent(ctx); aerr != nil {
		both := problem.New(problem.KindOf(aerr), "%v; %w", err, aerr)
		both.Hint = problem.HintOf(aerr)
		return both
	}
	return nil
}

// joinScope has systemd make a scope for this process.
func (l *launch) joinScope(ctx context.Context, connect func(context.Context) (*transient.Manager, error)) error {
	m, err := connect(ctx)
	if err != nil {
		return err
	}
	defer m.Close()
	s := transient.Scope{
		Name:        runname.Scope(l.Instance, l.pkg, runname.Random()),
		Description: "lull run " + l.Instance,
		PIDs:        []uint32{uint32(os.Getpid())},
	}
	if os.Getuid() != 0 || l.User {
		s.Slice = "app.slice" // where systemd.io says that applications belong
	}
	return m.Start(ctx, s)
}

// joinByAgent has the agent put this process into a group.
func (l *launch) joinByAgent(ctx context.Context) error {
	conn, err := l.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	var group string
	return fromBus(conn.Object(agentName, agentPath).
		CallWithContext(ctx, joinRun, 0, l.Instance, l.pkg.String(), l.Service).Store(&group))
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
		return nil, problem.New(problem.Unavailable, "cannot reach the agent's bus: %w", err)
	}
	return conn, nil
}

// fromBus gives an error from the bus its kind back.
func fromBus(err error) error {
	var e dbus.Error
	if !errors.As(err, &e) {
		if err != nil {
			return problem.New(problem.Unavailable, "cannot reach the agent: %w", err)
		}
		return nil
	}
	kind, ok := strings.CutPrefix(e.Name, problem.Prefix)
	if !ok {
		return problem.New(problem.Unavailable, "cannot reach the agent: %w", e)
	}
	p := problem.New(problem.Kind(kind), "%w", e)
	if len(e.Body) > 1 {
		p.Hint, _ = e.Body[1].(string)
	}
	return p
}

// standsIn says whether a process with these memberships is in a run of the
// instance, where the tracker looks.
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
