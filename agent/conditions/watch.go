package conditions

import (
	"context"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"
)

const (
	// callTimeout bounds each question: a service that is there answers at once.
	callTimeout = 10 * time.Second
	// firstLook is how long Watch waits for the first answers. State without
	// an answer by then is unknown.
	firstLook = 2 * time.Second
	// firstRetry and lastRetry bound the pauses before a lost bus is re-dialled.
	firstRetry = time.Second
	lastRetry  = time.Minute
	// maxReports is how many sessions a helper can speak of, and maxID how long
	// the name of one may be.
	maxReports = 32
	maxID      = 64
)

// Options are the settings of Watch.
type Options struct {
	Address string // of the bus; empty means the system bus
	UID     int    // only this user's sessions count; below 0 those of all users
	Log     *slog.Logger
	Changed func() // the state has changed; must not block
}

// Watcher follows the conditions.
type Watcher struct {
	Options
	cancel context.CancelFunc
	done   chan struct{}
	look   chan chan struct{} // requests to re-check sessions on terminals; each is closed when done

	mu        sync.Mutex // guards what follows
	power     Power
	network   Network
	logind    bool
	sessions  []Session
	terminals int               // of them: those that logind has to be asked about
	helpers   map[string]helper // by their names on the bus
	state     State             // of all these
}

// Watch begins. It returns when what can be known is known, or after two seconds.
func Watch(o Options) *Watcher {
	ctx, cancel := context.WithCancel(context.Background())
	w := &Watcher{Options: o, cancel: cancel, done: make(chan struct{}), look: make(chan chan struct{}),
		power: Unknown, network: Unknown, helpers: map[string]helper{}}
	w.state = State{Power: Unknown, Network: Unknown}
	ready := make(chan struct{})
	go w.run(ctx, sync.OnceFunc(func() { close(ready) }))
	timer := time.NewTimer(firstLook)
	defer timer.Stop()
	select {
	case <-ready:
	case <-timer.C:
	}
	return w
}

// Close ends it.
func (w *Watcher) Close() {
	w.cancel()
	<-w.done
}

// State is what is known now. It does not block.
func (w *Watcher) State() State {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.state
	s.Sessions = slices.Clone(s.Sessions)
	return s
}

// Fresh is State after a new check of sessions on terminals, because logind
// sends no signal when a user types there. Without any it does not block, and
// never for longer than one query of logind may take.
func (w *Watcher) Fresh() State {
	w.mu.Lock()
	terminal := w.terminals > 0
	w.mu.Unlock()
	if terminal {
		looked := make(chan struct{})
		limit := time.NewTimer(callTimeout)
		defer limit.Stop()
		select {
		case w.look <- looked:
			select {
			case <-looked:
			case <-limit.C:
			}
		case <-w.done:
		case <-limit.C:
		}
	}
	return w.State()
}

// Report takes the report of a user's helper, by its name on the bus, of the
// user's sessions, in place of its former one.
func (w *Watcher) Report(name string, uid uint32, user string, sessions []Report) {
	sessions = slices.DeleteFunc(slices.Clone(sessions), func(r Report) bool { return r.ID == "" || len(r.ID) > maxID })
	w.change(func() {
		w.helpers[name] = helper{uid, user, sessions[:min(len(sessions), maxReports)]}
	})
}

// Forget drops the report of a helper that has left.
func (w *Watcher) Forget(name string) { w.change(func() { delete(w.helpers, name) }) }

// change changes the state, and notifies the watchers if it differs.
func (w *Watcher) change(f func()) {
	w.mu.Lock()
	f()
	next := State{w.power, w.network, w.logind, merged(w.logind, w.sessions, w.helpers)}
	news := !reflect.DeepEqual(next, w.state)
	w.state = next
	w.mu.Unlock()
	if news && w.Changed != nil {
		w.Changed()
	}
}

// publishSessions publishes logind's sessions that count.
func (l *link) publishSessions() {
	list := slices.Collect(maps.Values(l.sessions))
	l.change(func() {
		l.logind, l.Watcher.sessions = l.owners[logindName] != "" && l.listed, nil
		l.terminals = 0
		for _, s := range list {
			if s.counts {
				l.Watcher.sessions = append(l.Watcher.sessions, s.Session)
				if s.terminal {
					l.terminals++
				}
			}
		}
	})
}
