package conditions

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/dialer"
	"github.com/lull/lull/agent/lib/sessionclass"
)

const (
	busDaemon  = "org.freedesktop.DBus"
	properties = "org.freedesktop.DBus.Properties"

	upowerName  = "org.freedesktop.UPower"
	networkName = "org.freedesktop.NetworkManager"
	logindName  = "org.freedesktop.login1"

	logindManager = logindName + ".Manager"
	logindSession = logindName + ".Session"
)

// The object of each service; those of UPower and NetworkManager have an interface
// of the service's name.
var paths = map[string]dbus.ObjectPath{
	upowerName: "/org/freedesktop/UPower", networkName: "/org/freedesktop/NetworkManager", logindName: "/org/freedesktop/login1",
}

var services = []string{upowerName, networkName, logindName}

// run keeps a connection until the context ends. It calls ready when all first
// answers have arrived, or when there is no bus.
func (w *Watcher) run(ctx context.Context, ready func()) {
	defer close(w.done)
	defer ready()
	for pause := firstRetry; ; pause = min(2*pause, lastRetry) {
		conn, err := dialer.Open(w.Address, true, dialer.None, dbus.WithContext(ctx),
			dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
		if err == nil {
			l := &link{Watcher: w, conn: conn, results: make(chan func()), owners: map[string]string{}, asking: map[string]bool{}, again: map[string]bool{}}
			err = l.serve(ctx, ready)
			if l.served {
				pause = firstRetry
			}
			w.change(func() { w.power, w.network, w.logind, w.sessions, w.terminals = Unknown, Unknown, false, nil, 0 })
		}
		ready()
		if ctx.Err() != nil {
			return
		}
		w.Log.Debug("no bus to ask about the machine", "error", err, "retry", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// link is the services as seen over one connection. All of it belongs to the
// goroutine of serve.
type link struct {
	*Watcher
	conn    *dbus.Conn
	served  bool
	owners  map[string]string // by service: its unique name; "" if it is absent
	results chan func()       // what the goroutines that ask want done here
	calls   sync.WaitGroup
	asking  map[string]bool // what is being asked for: a service, or the path of a session
	again   map[string]bool // of those: it has changed meanwhile

	listed   bool // logind has listed all sessions
	sessions map[dbus.ObjectPath]seen
}

// seen is a session that logind lists.
type seen struct {
	Session
	counts   bool // it is of class user, and of a user who counts
	terminal bool // logind sends no signal when it becomes idle
}

var errLost = errors.New("the connection is lost")

func (l *link) serve(ctx context.Context, ready func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer l.calls.Wait()
	defer l.conn.Close()
	defer cancel()
	signals := make(chan *dbus.Signal, 16)
	l.conn.Signal(signals)
	for _, name := range services {
		if err := l.match(ctx, dbus.WithMatchSender(busDaemon), dbus.WithMatchInterface(busDaemon),
			dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, name)); err != nil {
			return err
		}
	}
	changed := []dbus.MatchOption{dbus.WithMatchInterface(properties), dbus.WithMatchMember("PropertiesChanged")}
	for _, rule := range [][]dbus.MatchOption{
		append(slices.Clone(changed), dbus.WithMatchSender(upowerName), dbus.WithMatchObjectPath(paths[upowerName]), dbus.WithMatchArg(0, upowerName)),
		append(slices.Clone(changed), dbus.WithMatchSender(networkName), dbus.WithMatchObjectPath(paths[networkName]), dbus.WithMatchArg(0, networkName)),
		append(slices.Clone(changed), dbus.WithMatchSender(logindName), dbus.WithMatchPathNamespace(paths[logindName]+"/session")),
		{dbus.WithMatchSender(logindName), dbus.WithMatchInterface(logindManager), dbus.WithMatchMember("SessionNew")},
		{dbus.WithMatchSender(logindName), dbus.WithMatchInterface(logindManager), dbus.WithMatchMember("SessionRemoved")},
	} {
		if err := l.match(ctx, rule...); err != nil {
			return err
		}
	}
	for _, name := range services {
		owner, err := l.ownerOf(ctx, name)
		if err != nil {
			return err
		}
		l.adopt(ctx, name, owner)
	}
	l.served = true
	var looking []chan struct{} // who waits for the answers under way
	answered := func() {
		for _, c := range looking {
			close(c)
		}
		looking = nil
	}
	defer answered()
	for {
		if len(l.asking) == 0 {
			ready()
		}
		if !l.askingLogind() {
			answered()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case f := <-l.results:
			f()
		case s, ok := <-signals:
			if !ok {
				return errLost
			}
			l.heard(ctx, s)
		case c := <-l.look:
			looking = append(looking, c)
			for path, s := range l.sessions {
				if s.terminal && s.counts {
					l.ask(ctx, string(path))
				}
			}
		}
	}
}

// askingLogind reports whether an answer of logind is under way.
func (l *link) askingLogind() bool {
	for what := range l.asking {
		if what != upowerName && what != networkName {
			return true
		}
	}
	return false
}

// adopt makes owner the service that is believed.
func (l *link) adopt(ctx context.Context, name, owner string) {
	l.owners[name] = owner
	switch name {
	case upowerName:
		l.change(func() { l.power = Unknown })
	case networkName:
		l.change(func() { l.network = Unknown })
	case logindName:
		l.listed, l.sessions = false, map[dbus.ObjectPath]seen{}
		l.publishSessions()
	}
	if owner != "" {
		l.ask(ctx, name)
	}
}

// heard handles a signal, if it is from the right sender.
func (l *link) heard(ctx context.Context, s *dbus.Signal) {
	if s.Sender == busDaemon && s.Name == busDaemon+".NameOwnerChanged" {
		var who, was, is string
		if dbus.Store(s.Body, &who, &was, &is) == nil && slices.Contains(services, who) && is != l.owners[who] {
			l.adopt(ctx, who, is)
		}
		return
	}
	changed := s.Name == properties+".PropertiesChanged"
	switch s.Sender {
	case "":
	case l.owners[upowerName]:
		if changed && s.Path == paths[upowerName] && mentions(s, "OnBattery") {
			l.ask(ctx, upowerName)
		}
	case l.owners[networkName]:
		if changed && s.Path == paths[networkName] && mentions(s, "Metered") {
			l.ask(ctx, networkName)
		}
	case l.owners[logindName]:
		_, known := l.sessions[s.Path]
		switch {
		case s.Name == logindManager+".SessionNew", s.Name == logindManager+".SessionRemoved":
			l.ask(ctx, logindName)
		case changed && known:
			l.ask(ctx, string(s.Path))
		}
	}
}

// mentions reports whether a change is one of a property.
func mentions(s *dbus.Signal, property string) bool {
	var of string
	var changed map[string]dbus.Variant
	var gone []string
	if dbus.Store(s.Body, &of, &changed, &gone) != nil {
		return false
	}
	_, ok := changed[property]
	return ok || slices.Contains(gone, property)
}

// ask queries a service, or logind about one session by its path, without
// waiting. If a query is under way, it is repeated after that.
func (l *link) ask(ctx context.Context, what string) {
	if l.asking[what] {
		l.again[what] = true
		return
	}
	l.asking[what] = true
	name := what
	if paths[what] == "" {
		name = logindName
	}
	owner := l.owners[name]
	l.calls.Go(func() {
		bounded, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		take, err := l.question(bounded, owner, what)
		then := func() {
			delete(l.asking, what)
			switch {
			case l.owners[name] != owner: // gone meanwhile; its successor was asked, or is now
				delete(l.again, what)
				if what == name && l.owners[name] != "" {
					l.ask(ctx, what)
				}
				return
			case err != nil && ctx.Err() == nil:
				l.Log.Warn("cannot learn about the machine", "from", what, "error", err)
			case err == nil:
				take()
			}
			if l.again[what] {
				delete(l.again, what)
				l.ask(ctx, what)
			}
		}
		select {
		case l.results <- then:
		case <-ctx.Done():
		}
	})
}

// question asks, and returns what takes the answer over.
func (l *link) question(ctx context.Context, owner, what string) (take func(), err error) {
	switch what {
	case upowerName:
		var battery bool
		err = l.property(ctx, owner, what, "OnBattery", &battery)
		return func() {
			l.change(func() { l.power = map[bool]Power{true: OnBattery, false: OnMains}[battery] })
		}, err
	case networkName:
		var metered uint32
		err = l.property(ctx, owner, what, "Metered", &metered)
		return func() { l.change(func() { l.network = meteredWord(metered) }) }, err
	case logindName:
		all, err := l.listSessions(ctx, owner)
		return func() {
			l.listed, l.sessions = true, all
			l.publishSessions()
		}, err
	}
	path := dbus.ObjectPath(what)
	s, err := l.session(ctx, owner, path)
	if err != nil {
		return func() {}, nil // it has just ended, which has a signal
	}
	return func() {
		if _, ok := l.sessions[path]; ok {
			l.sessions[path] = s
			l.publishSessions()
		}
	}, nil
}

// meteredWord reads NMMetered: unknown, yes, no, guess-yes, guess-no.
func meteredWord(v uint32) Network {
	switch v {
	case 1, 3:
		return Metered
	case 2, 4:
		return Unmetered
	}
	return Unknown
}

func (l *link) property(ctx context.Context, owner, name, property string, into any) error {
	var v dbus.Variant
	if err := l.conn.Object(owner, paths[name]).CallWithContext(ctx, properties+".Get", dbus.FlagNoAutoStart, name, property).Store(&v); err != nil {
		return err
	}
	return v.Store(into)
}

func (l *link) listSessions(ctx context.Context, owner string) (map[dbus.ObjectPath]seen, error) {
	var list []struct {
		ID   string
		UID  uint32
		User string
		Seat string
		Path dbus.ObjectPath
	}
	if err := l.conn.Object(owner, paths[logindName]).CallWithContext(ctx, logindManager+".ListSessions", dbus.FlagNoAutoStart).Store(&list); err != nil {
		return nil, err
	}
	all := map[dbus.ObjectPath]seen{}
	for _, x := range list {
		if s, err := l.session(ctx, owner, x.Path); err == nil { // else it has just ended
			all[x.Path] = s
		}
	}
	return all, ctx.Err()
}

// terminalIdle is after how long logind takes a terminal for idle.
const terminalIdle = 5 * time.Minute

func (l *link) session(ctx context.Context, owner string, path dbus.ObjectPath) (s seen, err error) {
	if !path.IsValid() {
		return s, errors.New("no path")
	}
	var p map[string]dbus.Variant
	if err := l.conn.Object(owner, path).CallWithContext(ctx, properties+".GetAll", dbus.FlagNoAutoStart, logindSession).Store(&p); err != nil {
		return s, err
	}
	var user struct {
		UID  uint32
		Path dbus.ObjectPath
	}
	if v, ok := p["User"]; ok {
		if err := v.Store(&user); err != nil {
			return s, err
		}
	}
	s.Session = Session{ID: value[string](p, "Id"), UID: user.UID, User: value[string](p, "Name"), Active: value[bool](p, "Active"),
		Locked: value[bool](p, "LockedHint"), Idle: value[bool](p, "IdleHint"), LoggingOut: value[string](p, "State") == "closing"}
	s.counts = sessionclass.IsPerson(value[string](p, "Class")) && (l.UID < 0 || user.UID == uint32(l.UID))
	switch value[string](p, "Type") {
	case "x11", "wayland", "mir":
	default:
		s.terminal = true
		if since := value[uint64](p, "IdleSinceHint"); since > 0 && since < uint64(1)<<62 {
			s.IdleAt = time.UnixMicro(int64(since)).Add(terminalIdle + time.Second)
		}
	}
	return s, nil
}

func value[T any](props map[string]dbus.Variant, key string) T {
	v, _ := props[key].Value().(T)
	return v
}

func (l *link) ownerOf(ctx context.Context, name string) (owner string, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return dialer.OwnerOf(ctx, l.conn, name)
}

func (l *link) match(ctx context.Context, options ...dbus.MatchOption) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return l.conn.AddMatchSignalContext(ctx, options...)
}
