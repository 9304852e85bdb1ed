package main

import (
	"cmp"
	"context"
	"os"
	"slices"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/problem"
	bus "github.com/lull/lull/dbus"
)

// answerTime is how long the agent may take for what it only has to look up.
const answerTime = 30 * time.Second

// agent is a connection to the agent.
type agent struct {
	conn    *dbus.Conn
	manager bus.ManagerProxy
	space   bus.SpaceProxy
}

// dial connects to the bus on which the agent is; it need not be there.
func (a *app) dial(ctx context.Context) (*agent, error) { return a.dialWith(ctx, bus.Dial) }

// dialFDs is dial for calls that return descriptors.
func (a *app) dialFDs(ctx context.Context) (*agent, error) {
	return a.dialWith(ctx, func(ctx context.Context, address string, system bool) (*dbus.Conn, error) {
		return bus.DialFDs(ctx, address, system)
	})
}

func (a *app) dialWith(ctx context.Context, dial func(context.Context, string, bool) (*dbus.Conn, error)) (*agent, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	address, system := a.bus, true
	if a.user && address == "" {
		address, system = a.sessionBus, false
	}
	conn, err := dial(ctx, address, system)
	if err != nil {
		return nil, err
	}
	a.closers = append(a.closers, func() { conn.Close() })
	return &agent{conn, bus.NewManagerProxy(conn, bus.AgentPath), bus.NewSpaceProxy(conn, bus.AgentPath)}, nil
}

// ask connects and has f look something up.
func (a *app) ask(ctx context.Context, f func(context.Context, *agent) error) error {
	ag, err := a.dial(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	return f(ctx, ag)
}

// self is the instance of whose run this process is. The agent looks at the cgroup;
// the environment, which anybody can change, only has to agree with it.
func (ag *agent) self(ctx context.Context) (string, error) {
	instance, _, err := ag.manager.Self(ctx)
	if err != nil {
		return "", err
	}
	if said := os.Getenv("LULL_INSTANCE"); said != "" && said != instance {
		return "", problem.New(problem.Invalid, "cannot tell which application asks: LULL_INSTANCE is %s, but this process is in a run of %s", oneLine(said), instance)
	}
	return instance, nil
}

// snapshot is all that is installed and under way.
type snapshot struct {
	packages  []bus.PackageProperties // by instance
	refreshes map[dbus.ObjectPath]bus.RefreshProperties
}

func (ag *agent) snapshot(ctx context.Context) (*snapshot, error) {
	objects, err := bus.ManagedObjects(ctx, ag.conn, bus.AgentName, bus.AgentPath)
	if err != nil {
		return nil, err
	}
	s := &snapshot{refreshes: map[dbus.ObjectPath]bus.RefreshProperties{}}
	for path, object := range objects {
		if values, ok := object[bus.PackageInterface]; ok {
			var p bus.PackageProperties
			if err := p.Apply(values); err != nil {
				return nil, err
			}
			s.packages = append(s.packages, p)
		}
		if values, ok := object[bus.RefreshInterface]; ok {
			var r bus.RefreshProperties
			if err := r.Apply(values); err != nil {
				return nil, err
			}
			s.refreshes[path] = r
		}
	}
	slices.SortFunc(s.packages, func(p, q bus.PackageProperties) int { return cmp.Compare(p.Instance, q.Instance) })
	return s, nil
}

// find returns one instance.
func (s *snapshot) find(instance string) (bus.PackageProperties, error) {
	for _, p := range s.packages {
		if p.Instance == instance {
			return p, nil
		}
	}
	return bus.PackageProperties{}, problem.New(problem.NotFound, "cannot find %s: it is not installed", instance).
		WithHint("`lull list` shows what is")
}

// over says whether a refresh has ended.
func over(state string) bool {
	switch state {
	case "done", "undone", "failed", "cancelled":
		return true
	}
	return false
}
