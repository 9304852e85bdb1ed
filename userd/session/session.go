// Package session watches through logind whether this user is at the screen:
// the sessions of a person's class (sessionclass.IsPerson), and which of them
// are active,
// locked, idle or about to end. A login screen or a background service is no session
// in this sense.
//
// Words: the user is *away* when there are such sessions and each of them is
// locked or in the background. Without logind, or without such a session (a
// test, a rescue shell), this is unknown, and the user counts as present.
//
// Concurrency: Run is the one goroutine that owns the connection. State is
// given to a function that may block.
package session

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/dialer"
	"github.com/lull/lull/agent/lib/sessionclass"
	bus "github.com/lull/lull/dbus"
)

const (
	name      = "org.freedesktop.login1"
	path      = dbus.ObjectPath("/org/freedesktop/login1")
	manager   = "org.freedesktop.login1.Manager"
	sessionIf = "org.freedesktop.login1.Session"
	busDaemon = "org.freedesktop.DBus"

	callTimeout = 10 * time.Second
	firstRetry  = time.Second
	lastRetry   = time.Minute
)

// State is what is known of the user's sessions.
type State struct {
	Known  bool // logind is there, and the user has a session
	Seen   bool // one of them is in the foreground and not locked
	Locked bool // every graphical one is locked (or, without any, every one)
	Woke   bool // the machine has just come back from sleep

	Sessions []Session // all of the user, by id
}

// Session is one of them.
type Session struct {
	ID         string
	Active     bool // in the foreground
	Locked     bool
	Idle       bool
	LoggingOut bool
}

// Away reports whether a notice would be seen by no user, or by the wrong one.
func (s State) Away() bool { return s.Known && !s.Seen }

// Unused reports whether the user has sessions, and works in none of them: each is idle,
// locked or in the background.
func (s State) Unused() bool {
	for _, x := range s.Sessions {
		if x.Active && !x.Locked && !x.Idle {
			return false
		}
	}
	return s.Known && len(s.Sessions) > 0
}

// Run watches logind on the bus at address (or on the system bus where that is
// empty) until the context ends. It calls changed with each new state, first
// with the present one.
func Run(ctx context.Context, address string, log *slog.Logger, changed func(State)) error {
	first := true
	report := func(s State) {
		first = false
		changed(s)
	}
	for pause := firstRetry; ; pause = min(2*pause, lastRetry) {
		dialing, cancel := context.WithTimeout(ctx, callTimeout)
		server, err := bus.Serve(dialing, address, true) // exports nothing, refuses calls and descriptors
		cancel()
		if err == nil {
			w := &watch{conn: server.Conn(), report: report, log: log}
			err = w.serve(ctx)
			server.Close()
			if w.served {
				pause = firstRetry
			}
			if ctx.Err() == nil && (w.last.Known || len(w.last.Sessions) > 0) {
				report(State{})
			}
		} else if first {
			report(State{})
		}
		if ctx.Err() != nil {
			return nil
		}
		log.Debug("no bus to find logind on", "error", err, "retry", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

// watch is logind as seen over one connection.
type watch struct {
	conn   *dbus.Conn
	report func(State)
	log    *slog.Logger
	owner  string
	served bool
	told   bool
	last   State
	mine   []dbus.ObjectPath // sessions of the user
}

var errLost = errors.New("the connection is lost")

func (w *watch) serve(ctx context.Context) error {
	signals := make(chan *dbus.Signal, 16)
	w.conn.Signal(signals)
	if err := w.match(ctx, dbus.WithMatchSender(busDaemon), dbus.WithMatchInterface(busDaemon),
		dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, name)); err != nil {
		return err
	}
	// The bus resolves the name to its owner; the sender is checked all the
	// same, for signals that are sent to this connection alone.
	for _, rule := range [][]dbus.MatchOption{
		{dbus.WithMatchInterface(manager), dbus.WithMatchObjectPath(path)},
		{dbus.WithMatchInterface("org.freedesktop.DBus.Properties"), dbus.WithMatchPathNamespace(path + "/session")},
	} {
		if err := w.match(ctx, append(rule, dbus.WithMatchSender(name))...); err != nil {
			return err
		}
	}
	if err := w.find(ctx); err != nil {
		return err
	}
	w.served = true
	w.read(ctx)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case s, ok := <-signals:
			if !ok {
				return errLost
			}
			w.heard(ctx, s)
		}
	}
}

func (w *watch) heard(ctx context.Context, s *dbus.Signal) {
	if s.Name == busDaemon+".NameOwnerChanged" && s.Sender == busDaemon {
		var who, was, is string
		if dbus.Store(s.Body, &who, &was, &is) == nil && who == name && is != w.owner {
			w.owner = is
			w.read(ctx)
		}
		return
	}
	if w.owner == "" || s.Sender != w.owner {
		return
	}
	switch s.Name {
	case manager + ".SessionNew", manager + ".SessionRemoved":
		w.read(ctx)
	case manager + ".PrepareForSleep":
		var down bool
		if dbus.Store(s.Body, &down) == nil && !down {
			// Timers have stood still: time has jumped.
			woke := w.last
			woke.Woke = true
			w.report(woke)
		}
	case "org.freedesktop.DBus.Properties.PropertiesChanged":
		if slices.Contains(w.mine, s.Path) {
			w.read(ctx)
		}
	}
}

// read gets the sessions from logind, and reports changes.
func (w *watch) read(ctx context.Context) {
	state := State{}
	if w.owner != "" {
		var err error
		if state, err = w.sessions(ctx); err != nil && ctx.Err() == nil {
			w.log.Warn("cannot ask logind for the user's sessions", "error", err)
		}
	}
	if !w.told || !reflect.DeepEqual(state, w.last) {
		w.told, w.last = true, state
		w.report(state)
	}
}

func (w *watch) sessions(ctx context.Context) (State, error) {
	var list []struct {
		ID   string
		UID  uint32
		User string
		Seat string
		Path dbus.ObjectPath
	}
	w.mine = nil
	if err := w.call(ctx, w.conn.Object(w.owner, path), manager+".ListSessions").Store(&list); err != nil {
		return State{}, err
	}
	var all, graphical group
	var sessions []Session
	for _, l := range list {
		if int(l.UID) != os.Getuid() || !l.Path.IsValid() {
			continue
		}
		w.mine = append(w.mine, l.Path)
		var props map[string]dbus.Variant
		err := w.call(ctx, w.conn.Object(w.owner, l.Path), "org.freedesktop.DBus.Properties.GetAll", sessionIf).Store(&props)
		if err != nil {
			continue // it has just ended
		}
		if !sessionclass.IsPerson(value[string](props, "Class")) {
			continue
		}
		closing := value[string](props, "State") == "closing"
		sessions = append(sessions, Session{ID: l.ID, Active: value[bool](props, "Active"), Locked: value[bool](props, "LockedHint"),
			Idle: value[bool](props, "IdleHint"), LoggingOut: closing})
		if closing {
			continue
		}
		all.add(props)
		switch value[string](props, "Type") {
		case "x11", "wayland", "mir":
			graphical.add(props)
		}
	}
	g := all
	if graphical.count > 0 {
		g = graphical
	}
	slices.SortFunc(sessions, func(a, b Session) int { return cmp.Compare(a.ID, b.ID) })
	return State{Known: g.count > 0, Seen: g.seen > 0, Locked: g.count > 0 && g.locked == g.count, Sessions: sessions}, nil
}

// group counts sessions.
type group struct{ count, seen, locked int }

func (g *group) add(props map[string]dbus.Variant) {
	g.count++
	locked := value[bool](props, "LockedHint")
	if locked {
		g.locked++
	}
	if value[bool](props, "Active") && !locked {
		g.seen++
	}
}

func value[T any](props map[string]dbus.Variant, key string) T {
	v, _ := props[key].Value().(T)
	return v
}

func (w *watch) call(ctx context.Context, o dbus.BusObject, method string, args ...any) *dbus.Call {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return o.CallWithContext(ctx, method, dbus.FlagNoAutoStart, args...)
}

// find sees who logind is.
func (w *watch) find(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	w.owner, err = dialer.OwnerOf(ctx, w.conn, name)
	return err
}

func (w *watch) match(ctx context.Context, options ...dbus.MatchOption) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return w.conn.AddMatchSignalContext(ctx, options...)
}
