// Package agentclient is the helper's side of the agent's bus: it registers
// this session with the agent, passes on the agent's signals as events of
// package notify, and sends questions and answers to it.
//
// The agent may come, go, hang and be replaced; the bus may be lost and come
// back. Only the connection that owns the agent's name is believed.
//
// Concurrency: Run is the one goroutine that owns the connection; calls are
// made by goroutines that it starts and waits for, so that an agent that does
// not answer holds nothing up. Commands come through a mailbox; events are
// given to a function that may block.
package agentclient

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/dialer"
	"github.com/lull/lull/agent/lib/errkind"
	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/userd/notify"
	"github.com/lull/lull/userd/queue"
	"github.com/lull/lull/userd/sessionjobs"
)

const (
	callTimeout = 10 * time.Second
	firstRetry  = time.Second
	lastRetry   = time.Minute
)

// Options locate the agent.
type Options struct {
	Address string                  // of the agent's bus; empty means the system bus
	Version string                  // of the helper
	Work    func(sessionjobs.Order) // receives the agent's orders for the session; must not block
	Here    func(pid uint32) bool   // reports whether a process belongs to this session; nil means always
	// Look reports whether a process that a refresh of the instance waits for
	// still exists, and whether it is a foreign program, not of the package;
	// nil means that all exist and none is foreign.
	Look func(instance string, pid uint32) (there, other bool)
	// App returns the name of the application of the package that a process is, or "".
	App func(pid uint32) string
	// Translation returns what translates a text of the agent, with how it and its parts were
	// made, into the language of the moment. Nil, and what returns nil, mean English.
	Translation func() func(text string, made map[string]errkind.Sentence) string
	Log         *slog.Logger
}

// A Command is notify.Ask, notify.Answer, notify.PutOff, notify.Follow or WorkDone.
type Command any

// WorkDone answers an order.
type WorkDone struct {
	Order sessionjobs.Order
	Err   error
}

// Places are where the agent keeps its things, for the launcher.
type Places struct{ Root, RunDir string }

// Relay connects to the agent.
type Relay struct {
	Options
	commands *queue.Box[Command]
	event    func(notify.Event)

	mu       sync.Mutex // guards what follows
	places   Places
	sessions []bus.HelperSession
	news     uint // counts the changes of sessions
}

// New makes a relay; Run makes it work.
func New(o Options, event func(notify.Event)) *Relay {
	return &Relay{Options: o, commands: queue.New[Command](), event: event}
}

// Do has a command carried out. It does not block.
func (r *Relay) Do(c Command) { r.commands.Put(c) }

// sessionsChanged is a command of SetSessions.
type sessionsChanged struct{}

// SetSessions sends the state of the user's sessions to the agent, now and
// whenever an agent appears. It does not block.
func (r *Relay) SetSessions(list []bus.HelperSession) {
	r.mu.Lock()
	same := slices.Equal(r.sessions, list)
	if !same {
		r.sessions = slices.Clone(list)
		r.news++
	}
	r.mu.Unlock()
	if !same {
		r.commands.Put(sessionsChanged{})
	}
}

// registration is the first report to an agent, and the number of its state.
func (r *Relay) registration() (map[string]dbus.Variant, uint) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return map[string]dbus.Variant{"version": dbus.MakeVariant(r.Version), "sessions": dbus.MakeVariant(append([]bus.HelperSession{}, r.sessions...))}, r.news
}

// Places are those that the agent named last; empty before.
func (r *Relay) Places() Places {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.places
}

// Run serves until the context ends. It calls ready after the first attempt to
// find the agent, whether it succeeded or not.
func (r *Relay) Run(ctx context.Context, ready func()) error {
	defer ready()
	for pause := firstRetry; ; pause = min(2*pause, lastRetry) {
		dialing, cancel := context.WithTimeout(ctx, callTimeout)
		// A server that exports nothing: it refuses calls, and descriptors
		// that others send along with signals.
		server, err := bus.Serve(dialing, r.Address, true)
		cancel()
		if err == nil {
			conn := server.Conn()
			l := &link{Relay: r, conn: conn, manager: bus.NewManagerProxy(conn, bus.AgentPath), results: make(chan func())}
			err = l.serve(ctx, ready)
			if l.owner != "" {
				r.event(notify.AgentDown{})
			}
			if l.served {
				pause = firstRetry
			}
		}
		ready()
		if ctx.Err() != nil {
			return nil
		}
		r.Log.Warn("the agent's bus cannot be used", "error", err, "retry", pause)
		if !r.idle(ctx, pause) {
			return nil
		}
	}
}

// idle waits. Questions get the answer that there is none.
func (r *Relay) idle(ctx context.Context, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return true
		case <-ctx.Done():
			return false
		case <-r.commands.C():
			for _, c := range r.commands.Take() {
				switch c := c.(type) {
				case notify.Ask:
					r.event(notify.AskFailed{})
				case notify.Follow:
					r.unfollowed(c)
				}
			}
		}
	}
}

// link is the agent as seen over one connection.
type link struct {
	*Relay
	conn    *dbus.Conn
	manager bus.ManagerProxy
	owner   string // unique name of the agent; empty if absent
	served  bool
	listed  bool // the agent sends its signals to this session
	told    uint // the number of the session state that was reported last
	telling bool // a report is under way
	follow  follows
	lists   uint        // counts the lists of failures
	results chan func() // what the goroutines of calls want done here
}

const (
	busDaemon        = "org.freedesktop.DBus"
	nameOwnerChanged = busDaemon + ".NameOwnerChanged"
)

var errLost = errors.New("the connection is lost")

func (l *link) serve(ctx context.Context, ready func()) error {
	var calls sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer calls.Wait()
	defer l.conn.Close()
	defer cancel()

	signals := make(chan *dbus.Signal, 16)
	l.conn.Signal(signals)
	if err := l.match(ctx, dbus.WithMatchSender(busDaemon), dbus.WithMatchInterface(busDaemon),
		dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, bus.AgentName)); err != nil {
		return err
	}
	// The Helper's signals come to this connection alone and need no rule;
	// this one is a broadcast.
	if err := l.match(ctx, dbus.WithMatchSender(bus.AgentName), dbus.WithMatchObjectPath(bus.AgentPath),
		dbus.WithMatchInterface(bus.ManagerInterface), dbus.WithMatchMember("RefreshFinished")); err != nil {
		return err
	}
	owner, err := l.ask(ctx)
	if err != nil {
		return err
	}
	l.served = true
	l.adopt(ctx, &calls, owner)
	if owner == "" {
		ready()
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case f := <-l.results:
			f()
			ready()
		case s, ok := <-signals:
			if !ok {
				return errLost
			}
			l.heard(ctx, &calls, s)
		case <-l.commands.C():
			for _, c := range l.commands.Take() {
				l.command(ctx, &calls, c)
			}
		}
	}
}

// ask asks the bus who the agent is.
func (l *link) ask(ctx context.Context) (owner string, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return dialer.OwnerOf(ctx, l.conn, bus.AgentName)
}

func (l *link) match(ctx context.Context, options ...dbus.MatchOption) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return l.conn.AddMatchSignalContext(ctx, options...)
}

// call makes a call in a goroutine of its own and has the function that it
// returns run by the owner of the link, unless that has ended.
func (l *link) call(ctx context.Context, calls *sync.WaitGroup, f func(context.Context) func()) {
	calls.Go(func() {
		bounded, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		then := f(bounded)
		select {
		case l.results <- then:
		case <-ctx.Done():
		}
	})
}

// adopt makes owner the agent that is believed, and registers with it.
func (l *link) adopt(ctx context.Context, calls *sync.WaitGroup, owner string) {
	if l.owner != "" {
		l.event(notify.AgentDown{})
	}
	l.owner, l.listed, l.telling = owner, false, false
	if owner == "" {
		return
	}
	l.call(ctx, calls, func(bounded context.Context) func() {
		session, news := l.registration()
		err := l.manager.RegisterHelper(bounded, session)
		p, perr := l.manager.Properties(bounded)
		return func() {
			if l.owner != owner {
				return
			}
			l.registered(ctx, calls, news, err)
			if perr == nil {
				l.mu.Lock()
				l.places = Places{p.Root, p.RunDir}
				l.mu.Unlock()
			}
			l.event(notify.AgentUp{})
		}
	})
}

func (l *link) registered(ctx context.Context, calls *sync.WaitGroup, news uint, err error) {
	l.listed = err == nil
	if err != nil {
		l.Log.Warn("cannot register with the agent", "error", err)
		return
	}
	l.told, l.telling = news, false
	l.tellSessions(ctx, calls)
}

// tellSessions reports the changes in the sessions that the agent does not
// have yet, one after the other.
func (l *link) tellSessions(ctx context.Context, calls *sync.WaitGroup) {
	l.mu.Lock()
	list, news := slices.Clone(l.sessions), l.news
	l.mu.Unlock()
	if !l.listed || l.telling || news == l.told {
		return
	}
	l.telling = true
	owner := l.owner
	l.call(ctx, calls, func(bounded context.Context) func() {
		err := l.manager.SetSessions(bounded, append([]bus.HelperSession{}, list...))
		return func() {
			if l.owner != owner {
				return
			}
			if err != nil {
				l.Log.Warn("cannot report the state of the sessions to the agent", "error", err)
			}
			l.telling, l.told = false, news
			l.tellSessions(ctx, calls)
		}
	})
}

// heard passes a signal on if it is the agent's.
func (l *link) heard(ctx context.Context, calls *sync.WaitGroup, s *dbus.Signal) {
	if s.Name == nameOwnerChanged && s.Sender == busDaemon {
		var who, was, is string
		if dbus.Store(s.Body, &who, &was, &is) == nil && who == bus.AgentName && is != l.owner {
			l.adopt(ctx, calls, is)
		}
		return
	}
	if l.owner == "" || s.Sender != l.owner {
		return
	}
	if s.Path != bus.AgentPath {
		l.moved(s)
		return
	}
	if _, ok := bus.ParseHelperPending(s); ok {
		l.event(notify.Changed{})
	} else if w, ok := bus.ParseHelperWithdrawn(s); ok {
		l.event(notify.Withdrawn{ID: w.ID, Reason: w.Reason})
	} else if u, ok := bus.ParseHelperUpdated(s); ok {
		l.event(notify.Updated{Done: done(u.Refresh)})
	} else if a, ok := bus.ParseHelperRestart(s); ok {
		l.event(notify.Invoked{Instance: a.Instance, Action: notify.RestartNow})
	} else if f, ok := bus.ParseHelperFailing(s); ok {
		l.failing(ctx, calls, failing(f.Failures))
	} else if d, ok := bus.ParseHelperDownloads(s); ok {
		l.event(notify.Downloads{List: downloads(d.Downloads)})
	} else if d, ok := bus.ParseHelperShuttingDown(s); ok {
		l.event(notify.ShuttingDown{Names: d.Names, Left: time.Duration(min(d.Left, maxStop)) * time.Microsecond})
	} else if w, ok := bus.ParseHelperWork(s); ok {
		l.Work(order(w))
	} else if f, ok := bus.ParseManagerRefreshFinished(s); ok {
		l.event(notify.Finished{Instance: f.Instance, Result: f.Result})
	}
}

func (l *link) command(ctx context.Context, calls *sync.WaitGroup, c Command) {
	switch c := c.(type) {
	case sessionsChanged:
		l.tellSessions(ctx, calls)
	case notify.Ask:
		if l.owner == "" {
			l.event(notify.AskFailed{})
			return
		}
		owner, listed := l.owner, l.listed
		l.call(ctx, calls, func(bounded context.Context) func() {
			var late error
			var news uint
			if !listed { // it did not answer when it appeared
				var session map[string]dbus.Variant
				session, news = l.registration()
				late = l.manager.RegisterHelper(bounded, session)
			}
			list, err := l.manager.Pending(bounded)
			return func() {
				if !listed && l.owner == owner {
					l.registered(ctx, calls, news, late)
				}
				if err != nil {
					l.Log.Warn("cannot ask the agent what is pending", "error", err)
					l.event(notify.AskFailed{})
					return
				}
				l.event(notify.Listed{List: l.pendings(list)})
			}
		})
	case notify.Follow:
		l.followed(ctx, calls, c)
	case notify.Answer:
		l.call(ctx, calls, func(ctx context.Context) func() {
			err := l.manager.Answer(ctx, c.ID, c.Action)
			return func() {
				if err != nil {
					l.Log.Warn("cannot send the user's answer to the agent", "refresh", c.ID, "action", c.Action, "error", err)
				}
			}
		})
	case notify.PutOff:
		l.call(ctx, calls, func(ctx context.Context) func() {
			_, err := l.manager.Hold(ctx, c.Instance, uint64(c.Until.UnixMicro()), c.Reason)
			return func() {
				if err != nil {
					l.Log.Warn("cannot put a download off", "instance", c.Instance, "until", c.Until, "error", err)
				}
			}
		})
	case WorkDone:
		if l.owner == "" {
			return // the next agent has no such order
		}
		text := ""
		if c.Err != nil {
			text = c.Err.Error()
		}
		l.call(ctx, calls, func(ctx context.Context) func() {
			err := l.manager.WorkDone(ctx, c.Order.ID, c.Order.Instance, c.Order.Phase, text)
			return func() {
				if err != nil { // it may have given the refresh up since, or be gone
					l.Log.Debug("the agent does not want the answer", "phase", c.Order.Phase, "instance", c.Order.Instance, "error", err)
				}
			}
		})
	}
}
