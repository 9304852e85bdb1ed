package bus

import (
	"context"
	"sync"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/dbus/dialer"
)

// Names tells who joins and leaves the bus. It asks for the names it was told
// of alone: a busy bus does not wake it.
type Names struct {
	conn *dbus.Conn
	in   chan *dbus.Signal
	quit chan struct{}
	done chan struct{}
	// closing closes quit, once.
	closing func()

	mu      sync.Mutex
	watches map[string][]*nameWatch // guarded by mu
}

type nameWatch struct {
	call func(owner string)
	mu   sync.Mutex
	last string // guarded by mu
	told bool   // guarded by mu
	over bool   // guarded by mu
}

// NewNames starts watching on conn. Close it, or the connection, to end.
func NewNames(conn *dbus.Conn) *Names {
	n := &Names{conn: conn, in: make(chan *dbus.Signal, 16), quit: make(chan struct{}), done: make(chan struct{}),
		watches: map[string][]*nameWatch{}}
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

// tell calls back if the owner is news. What was asked for (first) must not
// overtake what has been signalled since.
func (w *nameWatch) tell(owner string, first bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over || w.told && (first || w.last == owner) {
		return
	}
	w.told, w.last = true, owner
	w.call(owner)
}

// Watch has call called with the unique name that owns name, "" for nobody:
// once now, before Watch returns, and then at each change, from one goroutine.
// A unique name is watched for its leaving. Call must not call stop.
func (n *Names) Watch(ctx context.Context, name string, call func(owner string)) (stop func(), err error) {
	w := &nameWatch{call: call}
	n.mu.Lock()
	n.watches[name] = append(n.watches[name], w)
	n.mu.Unlock()
	rule := []dbus.MatchOption{
		dbus.WithMatchSender(busDaemon), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, name),
	}
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
	if err := n.conn.AddMatchSignalContext(ctx, rule...); err != nil {
		drop()
		return nil, FromBus(err)
	}
	owner, err := dialer.OwnerOf(ctx, n.conn, name)
	stop = sync.OnceFunc(func() {
		w.mu.Lock()
		w.over = true
		w.mu.Unlock()
		drop()
		if n.conn.Connected() {
			_ = n.conn.RemoveMatchSignal(rule...)
		}
	})
	if err != nil {
		stop()
		return nil, FromBus(err)
	}
	w.tell(owner, true)
	return stop, nil
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
