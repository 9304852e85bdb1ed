package userd

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/runctl"
	"github.com/lull/lull/agent/lib/texts"
	"github.com/lull/lull/agent/lib/wallclock"
	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/userd/agentclient"
	"github.com/lull/lull/userd/desktop"
	"github.com/lull/lull/userd/logout"
	"github.com/lull/lull/userd/migrate"
	"github.com/lull/lull/userd/notify"
	"github.com/lull/lull/userd/pendinghook"
	"github.com/lull/lull/userd/restart"
	"github.com/lull/lull/userd/services"
	"github.com/lull/lull/userd/sessionjobs"
)

// The agents that a helper serves, as in notify.Notice.Agent.
const (
	systemAgent = ""
	ownAgent    = "own" // lulld --user
)

// side is what the helper has for one of the agents: the connection, the core with the
// notices of its instances, and the jobs in its directories. Sides share the desktop and the
// state of the session.
type side struct {
	name   string // systemAgent or ownAgent
	agent  *agentclient.Relay
	events chan notify.Event
	core   *notify.Core
	mem    memory
	kids   *children
	hooks  *pendinghook.Runner
	worker *sessionjobs.Worker
	units  *services.Runner
}

// shared are the parts of the helper that all sides use.
type shared struct {
	Options
	screen  func() *desktop.Desktop
	idle    *idler
	present *presence
	// languages are those of notify.Language, or those of this process.
	languages *atomic.Pointer[[]string]
}

// translation returns what translates texts of the agent; nil for English.
func (s shared) translation() func(text string, made map[string]errkind.Sentence) string {
	return foreign(*s.languages.Load())
}

// newSide prepares the side of the agent at the address of a bus; empty means the system bus.
func newSide(name, address string, s shared, event func(notify.Event)) *side {
	d := &side{name: name, events: make(chan notify.Event), units: services.New()}
	d.worker = sessionjobs.New(counted{d.units, s.idle}, counted{migrate.Runner{}, s.idle}, func(order sessionjobs.Order, err error) {
		d.agent.Do(agentclient.WorkDone{Order: order, Err: err})
	}, s.Log)
	session := sessionBus(s.SessionBus)
	d.agent = agentclient.New(agentclient.Options{Address: address, Log: s.Log, Version: s.Version, Here: here(session), Look: restart.Look, App: restart.App, Translation: s.translation, Work: func(order sessionjobs.Order) {
		s.idle.ordered()
		d.worker.Submit(order)
	}}, event)
	env := func() []string { return launcherEnv(d.agent.Places(), address) }
	d.kids = newChildren(env, s.Log)
	d.hooks = pendinghook.New(env, s.Log)
	d.mem = newMemory(name, session, s.Log)
	d.core = notify.New(notify.DefaultSchedule, time.Local, d.mem.read())
	d.core.Texts = texts.For("lull-userd", *s.languages.Load()...)
	return d
}

// take gives an event to the side, unless it concerns a notice of another one.
func (d *side) take(ctx context.Context, e notify.Event) {
	switch e := e.(type) {
	case notify.Closed:
		if e.Agent != d.name {
			return
		}
	case notify.Invoked:
		if e.Agent != d.name {
			return
		}
	}
	select {
	case d.events <- e:
	case <-ctx.Done():
	}
}

// run starts the goroutines of the side, but for the connection to the agent.
func (d *side) run(ctx context.Context, parts *sync.WaitGroup, s shared) {
	call := func(do func(context.Context, *dbus.Conn)) { s.screen().Do(desktop.Call{Do: do}) }
	parts.Go(func() {
		loop(ctx, d.core, d.events, wallclock.New, edges{
			agent: func(f notify.Effect) { d.agent.Do(f) },
			desktop: func(c any) {
				c = d.signed(c)
				s.idle.desktop(c)
				s.screen().Do(c)
			},
			present: func(yes bool) { s.screen().Do(desktop.AgentPresent{Yes: s.present.set(d.name, yes)}) },
			quit: func(p notify.Pending) {
				call(func(ctx context.Context, conn *dbus.Conn) { d.kids.again.Quit(ctx, conn, p) })
			},
			offered: func() {
				call(func(ctx context.Context, conn *dbus.Conn) {
					d.take(ctx, notify.LogOutOffered{Yes: logout.Offered(ctx, conn)})
				})
			},
			logOut: func() {
				call(func(ctx context.Context, conn *dbus.Conn) {
					if err := logout.Ask(ctx, conn); err != nil {
						s.Log.Warn("the desktop cannot be asked to log out", "error", err)
					}
				})
			},
			hook:     d.hooks.Put,
			launch:   d.kids.launch.Put,
			forget:   d.kids.again.Forget,
			remember: d.mem.write,
		})
	})
	parts.Go(func() { d.kids.run(ctx) })
	parts.Go(func() { d.hooks.Run(ctx) })
	parts.Go(func() { d.worker.Run(ctx) })
}

func (d *side) close() {
	d.kids.again.Close()
	d.units.Close()
}

// signed names the agent in a command of the core to the desktop.
func (d *side) signed(c any) any {
	switch c := c.(type) {
	case notify.Show:
		c.Notice.Agent = d.name
		return c
	case notify.Close:
		c.Agent = d.name
		return c
	}
	return c
}

// has reports whether the agent of the side has an instance, and inhibits launches of it.
func (d *side) has(instance string) (installed, inhibited bool) {
	p := d.agent.Places()
	if p.Root == "" {
		return false, false
	}
	_, err := os.Lstat(filepath.Join(p.Root, "current", instance))
	_, ierr := os.Lstat(runctl.InhibitedPath(p.RunDir, instance))
	return err == nil, ierr == nil
}

// sideOf returns the side that a launcher's call is about. Launchers name an instance, and
// both agents may have one of that name: then the one that inhibits launches is meant, or the
// system's.
func sideOf(sides []*side, instance string) *side {
	best, rank := sides[0], 0
	for _, d := range sides {
		installed, inhibited := d.has(instance)
		switch {
		case inhibited && rank < 2:
			best, rank = d, 2
		case installed && rank < 1:
			best, rank = d, 1
		}
	}
	return best
}

// presence counts the agents that are there.
type presence struct {
	mu     sync.Mutex // guards what follows
	agents map[string]bool
}

// set records that an agent has come or gone, and reports whether any is there.
func (p *presence) set(name string, yes bool) (any bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.agents == nil {
		p.agents = map[string]bool{}
	}
	p.agents[name] = yes
	for _, there := range p.agents {
		any = any || there
	}
	return any
}

// sessions reports the state of the user's sessions to all agents.
func sessions(sides []*side) func([]bus.HelperSession) {
	return func(list []bus.HelperSession) {
		for _, d := range sides {
			d.agent.SetSessions(list)
		}
	}
}
