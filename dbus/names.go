package bus

import (
	"context"
	"errors"
	"sync"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/dialer"
)

// Names follows the owners of names on the bus. It subscribes to the watched names alone,
// so a busy bus does not wake it.
type Names struct {
	conn *dbus.Conn
	in   chan *dbus.Signal
	quit chan struct{}
	done chan struct{}
	// closing closes quit, once.
	closing func()

	mu      sync.Mutex
	watches map[string][]*nameWatch // guarded by mu

	rules    sync.Mutex      // held while the bus is asked to change rules
	narrow   map[string]bool // guarded by rules: the names with a rule of their own
	wide     map[string]bool // guarded by rules: the names that the rule for all is for
	watching map[string]int  // guarded by rules: watches, by name
}

// maxRules bounds the match rules for single names. A bus takes 512 rules from one
// connection, and every client can cause one here. Beyond this bound, one rule for all
// names serves the rest; it wakes this process more often.
const maxRules = 64

type nameWatch struct {
	call func(owner string)
	mu   sync.Mutex
	last string // guarded by mu
	told bool   // guarded by mu
	over bool   // guarded by mu
}

// NewNames starts to watch names on conn, until Close or the end of the connection.
func NewNames(conn *dbus.Conn) *Names {
	n := &Names{conn: conn, in: make(chan *dbus.Signal, 16), quit: make(chan struct{}), done: make(chan struct{}),
		watches: map[string][]*nameWatch{}, narrow: map[string]bool{}, wide: map[string]bool{}, watching: map[string]int{}}
	n.closing = sync.OnceFunc(func() { close(n.quit) })
	conn.Signal(n.in)
	go n.run()
	return n
}

func (n *Names) run() {
	defer close(n.done)
	for {
		select {
		case <-n.quit:
			return
		case <-n.conn.Context().Done():
			return
		case sig, ok := <-n.in:
			if !ok {
				return
			}
			var name, old, owner string
			if sig.Name != nameOwnerChanged || sig.Sender != busDaemon || store(sig.Body, &name, &old, &owner) != nil {
				continue
			}
			n.mu.Lock()
			watches := append([]*nameWatch(nil), n.watches[name]...)
			n.mu.Unlock()
			for _, w := range watches {
				w.tell(owner, false)
			}
		}
	}
}

// tell calls back if the owner has changed. The reply to the first request (first) must
// not overtake a signal that came after it.
func (w *nameWatch) tell(owner string, first bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over || w.told && (first || w.last == owner) {
		return
	}
	w.told, w.last = true, owner
	w.call(owner)
}

// Watch calls call with the unique name that owns name, or "" if none does: once before
// Watch returns, and then at each change, from one goroutine. A watched unique name is
// reported when it leaves the bus. Call must not call stop.
func (n *Names) Watch(ctx context.Context, name string, call func(owner string)) (stop func(), err error) {
	w := &nameWatch{call: call}
	n.mu.Lock()
	n.watches[name] = append(n.watches[name], w)
	n.mu.Unlock()
	drop := func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		for i, other := range n.watches[name] {
			if other == w {
				n.watches[name] = append(n.watches[name][:i:i], n.watches[name][i+1:]...)
			}
		}
		if len(n.watches[name]) == 0 {
			delete(n.watches, name)
		}
	}
	if err := n.follow(ctx, name); err != nil {
		drop()
		return nil, FromBus(err)
	}
	owner, err := dialer.OwnerOf(ctx, n.conn, name)
	stop = sync.OnceFunc(func() {
		w.mu.Lock()
		w.over = true
		w.mu.Unlock()
		drop()
		n.unfollow(name)
	})
	if err != nil {
		stop()
		return nil, FromBus(err)
	}
	w.tell(owner, true)
	return stop, nil
}

func nameRule(name string) []dbus.MatchOption {
	rule := []dbus.MatchOption{dbus.WithMatchSender(busDaemon), dbus.WithMatchMember("NameOwnerChanged")}
	if name != "" {
		rule = append(rule, dbus.WithMatchArg(0, name))
	}
	return rule
}

// follow subscribes to the changes of a name. All watches of a name share one rule.
func (n *Names) follow(ctx context.Context, name string) error {
	n.rules.Lock()
	defer n.rules.Unlock()
	if n.watching[name] > 0 {
		n.watching[name]++
		return nil
	}
	switch {
	case len(n.narrow) < maxRules:
		if err := n.conn.AddMatchSignalContext(ctx, nameRule(name)...); err != nil {
			return err
		}
		n.narrow[name] = true
	case len(n.wide) == 0:
		if err := n.conn.AddMatchSignalContext(ctx, nameRule("")...); err != nil {
			return err
		}
		fallthrough
	default:
		n.wide[name] = true
	}
	n.watching[name] = 1
	return nil
}

// unfollow undoes follow.
func (n *Names) unfollow(name string) {
	n.rules.Lock()
	defer n.rules.Unlock()
	if n.watching[name]--; n.watching[name] > 0 {
		return
	}
	delete(n.watching, name)
	var rule []dbus.MatchOption
	if n.narrow[name] {
		delete(n.narrow, name)
		rule = nameRule(name)
	} else if delete(n.wide, name); len(n.wide) == 0 {
		rule = nameRule("")
	}
	if rule != nil && n.conn.Connected() {
		_ = n.conn.RemoveMatchSignal(rule...)
	}
}

// WaitForOwner returns when a connection owns name. It does not start what the bus could
// start.
func WaitForOwner(ctx context.Context, conn *dbus.Conn, name string) error {
	n := NewNames(conn)
	defer n.Close()
	owned := make(chan struct{}, 1)
	stop, err := n.Watch(ctx, name, func(owner string) {
		if owner != "" {
			select {
			case owned <- struct{}{}:
			default:
			}
		}
	})
	if err != nil {
		return err
	}
	defer stop()
	select {
	case <-owned:
		return nil
	case <-ctx.Done():
		return FromBus(ctx.Err())
	case <-conn.Context().Done():
		return unreachable(errors.New("the bus is gone"))
	}
}

// Close ends all watches. It does not call back.
func (n *Names) Close() {
	n.conn.RemoveSignal(n.in)
	n.mu.Lock()
	n.watches = map[string][]*nameWatch{}
	n.mu.Unlock()
	n.closing()
	<-n.done
}
