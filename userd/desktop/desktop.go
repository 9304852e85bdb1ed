package desktop

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/manifest"
	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/userd/notify"
	"github.com/lull/lull/userd/queue"
)

const (
	callTimeout = 10 * time.Second
	// exitTimeout bounds the withdrawal of all notices at the exit.
	exitTimeout = 2 * time.Second
)

// Options locate the desktop.
type Options struct {
	Address string // of the session bus; empty means that of the environment
	Version string
	Log     *slog.Logger
	// Hang is how long the server may take for a notice before it counts as
	// hung; zero means ten seconds. The call still waits for its answer.
	Hang time.Duration
}

// Commands of the desktop, besides notify.Show and notify.Close.
type (
	// AgentPresent is a property of org.lull.Session1.
	AgentPresent struct{ Yes bool }
	// SessionLocked is another one.
	SessionLocked struct{ Yes bool }
	// Call runs something that needs the session bus, in a goroutine.
	Call struct {
		Do func(context.Context, *dbus.Conn)
	}
	// launchWaits is a launcher's call, launchOver its departure from the bus.
	launchWaits struct{ launch, instance, why string }
	launchOver  struct{ launch string }
)

// Desktop connects to the session bus.
type Desktop struct {
	Options
	commands *queue.Box[any]
	event    func(notify.Event)
	server   *bus.Server
	conn     *dbus.Conn
	export   *bus.SessionExport
	signals  chan *dbus.Signal
	results  chan func()

	peer      peer      // the notification server
	startedAt time.Time // when the bus was last asked to start one

	wanted map[string]notify.Notice // by key
	posted map[string]*posting      // by key

	names    *bus.Names
	launches map[string]func() // by name on the bus: ends the watch, nil before there is one
}

// Connect owns the name org.lull.Session1 on the session bus. If another
// helper owns it, Connect fails: two would both notify.
func Connect(ctx context.Context, o Options, event func(notify.Event)) (*Desktop, error) {
	if o.Hang == 0 {
		o.Hang = callTimeout
	}
	d := &Desktop{
		Options: o, event: event, commands: queue.New[any](),
		signals: make(chan *dbus.Signal, 16), results: make(chan func()),
		wanted: map[string]notify.Notice{}, posted: map[string]*posting{}, launches: map[string]func(){},
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	server, err := bus.Serve(ctx, o.Address, false)
	if err != nil {
		return nil, err
	}
	d.server, d.conn = server, server.Conn()
	d.conn.Signal(d.signals)
	d.names = bus.NewNames(d.conn)
	d.export = bus.ExportSession(session{d}, bus.SessionProperties{Version: o.Version})
	err = server.Export(bus.SessionPath, d.export)
	if err == nil {
		err = d.watch(ctx)
	}
	if err == nil {
		err = server.RequestName(bus.SessionName)
	}
	if err != nil {
		d.names.Close()
		server.Close()
		return nil, err
	}
	return d, nil
}

// key identifies the one notice of an instance. Two agents may have an instance of one name.
func key(agent, instance string) string { return agent + "/" + instance }

// Do has a command carried out. It does not block.
func (d *Desktop) Do(c any) { d.commands.Put(c) }

// session serves the methods of org.lull.Session1.
type session struct{ d *Desktop }

// Show implements bus.Session.
func (s session) Show(bus.Caller) error {
	s.d.event(notify.ShowAll{})
	return nil
}

// LaunchWaits implements bus.Session.
func (s session) LaunchWaits(c bus.Caller, instance, why string) error {
	if err := manifest.ValidInstance(instance); err != nil {
		return err
	}
	s.d.Do(launchWaits{c.Sender, instance, why})
	return nil
}

// DataIncomplete implements bus.Session.
func (s session) DataIncomplete(_ bus.Caller, instance, name string, count uint32, first, directory string) error {
	if err := manifest.ValidInstance(instance); err != nil {
		return err
	}
	s.d.event(notify.DataIncomplete{Instance: instance, Name: name, Count: count, First: first, Directory: directory})
	return nil
}

// ErrLost reports the loss of the session bus: the session has ended.
var ErrLost = errors.New("the session bus is gone")

// Run serves until the context ends or the session does, and takes all notices
// down.
func (d *Desktop) Run(ctx context.Context) error {
	// Calls outlive ctx to withdraw the notices; they end with the connection.
	calling, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var calls sync.WaitGroup
	defer calls.Wait()
	defer d.server.Close()
	defer d.names.Close()
	defer cancel()
	defer func() { d.peer.stop() }()
	l := &loop{Desktop: d, ctx: calling, calls: &calls}
	l.adopt(l.peer.owner)
	for {
		select {
		case <-ctx.Done():
			l.farewell()
			return nil
		case f := <-d.results:
			f()
		case s, ok := <-d.signals:
			if !ok {
				return ErrLost
			}
			l.heard(s)
		case <-d.commands.C():
			for _, c := range d.commands.Take() {
				l.command(c)
			}
		case <-l.retry():
			l.again()
		case <-l.peer.wake():
			l.inquireAgain()
		}
		l.reconcile()
		l.publish()
	}
}

// loop is Desktop while it runs.
type loop struct {
	*Desktop
	ctx   context.Context
	calls *sync.WaitGroup
}

func (l *loop) command(c any) {
	switch c := c.(type) {
	case notify.Show:
		l.wanted[key(c.Notice.Agent, c.Notice.Instance)] = c.Notice
	case notify.Close:
		k := key(c.Agent, c.Instance)
		delete(l.wanted, k)
		if p := l.posted[k]; p != nil {
			p.obsolete = !c.Keep
		}
	case AgentPresent:
		l.export.Update(func(p *bus.SessionProperties) { p.AgentPresent = c.Yes })
	case SessionLocked:
		l.export.Update(func(p *bus.SessionProperties) { p.Locked = c.Yes })
	case launchWaits:
		l.watchLaunch(c)
	case launchOver:
		if stop, ok := l.launches[c.launch]; ok {
			delete(l.launches, c.launch)
			if stop != nil {
				l.calls.Go(stop) // it asks the bus
			}
			l.event(notify.LaunchOver{Launch: c.launch})
		}
	case Call:
		l.calls.Go(func() {
			ctx, cancel := context.WithTimeout(l.ctx, callTimeout)
			defer cancel()
			c.Do(ctx, l.conn)
		})
	}
}

// maxLaunches bounds the launchers that are listened to at a time.
const maxLaunches = 32

// watchLaunch passes on that a launch waits, until its launcher has left the bus.
func (l *loop) watchLaunch(c launchWaits) {
	_, known := l.launches[c.launch]
	if !known && len(l.launches) == maxLaunches {
		return
	}
	l.event(notify.LaunchWaits{Launch: c.launch, Instance: c.instance, Why: c.why})
	if known {
		return
	}
	l.launches[c.launch] = nil
	l.call(func(ctx context.Context) func() {
		stop, err := l.names.Watch(ctx, c.launch, func(owner string) {
			if owner == "" {
				l.Do(launchOver{c.launch})
			}
		})
		return func() {
			_, waits := l.launches[c.launch]
			switch {
			case err != nil:
				l.Log.Warn("cannot watch for the end of a launch", "instance", c.instance, "error", err)
				l.Do(launchOver{c.launch})
			case waits:
				l.launches[c.launch] = stop
			default: // it was over at once
				l.calls.Go(stop)
			}
		}
	})
}

// call makes a call in a goroutine of its own and has the function that it
// returns run by the owner of the connection, unless that has ended.
func (l *loop) call(f func(context.Context) func()) {
	l.calls.Go(func() {
		ctx, cancel := context.WithTimeout(l.ctx, callTimeout)
		defer cancel()
		then := f(ctx)
		select {
		case l.results <- then:
		case <-l.ctx.Done():
		}
	})
}

// publish sets the property of the shown notices.
func (l *loop) publish() {
	notices := []bus.Notice{}
	for _, k := range l.keys() {
		if p := l.posted[k]; p != nil && p.up {
			notices = append(notices, bus.Notice{Refresh: p.notice.Refresh, Instance: p.notice.Instance, ID: p.id, Text: text(p.notice)})
		}
	}
	l.export.Update(func(p *bus.SessionProperties) {
		p.NotificationServer = l.peer.String()
		if len(notices) > 0 || len(p.Notices) > 0 {
			p.Notices = notices
		}
	})
}

// farewell withdraws all notices. It does not wait for the server, only for
// the bus to accept the requests.
func (l *loop) farewell() {
	if l.peer.owner == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), exitTimeout)
	defer cancel()
	if l.peer.busy {
		// A notice may be on its way to the screen: its id is needed.
		for l.peer.busy && ctx.Err() == nil {
			select {
			case f := <-l.results:
				f()
			case <-ctx.Done():
			}
		}
	}
	ids := l.peer.stray
	for _, p := range l.posted {
		if p.id != 0 {
			ids = append(ids, p.id)
		}
	}
	for _, id := range ids {
		l.conn.Object(l.peer.owner, serverPath).Call(serverName+".CloseNotification", dbus.FlagNoReplyExpected|dbus.FlagNoAutoStart, id)
	}
	_ = l.conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.Peer.Ping", 0).Err
}
