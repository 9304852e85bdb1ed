package desktop

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	fdo "github.com/esiqveland/notify"
	"github.com/godbus/dbus/v5"
	"go.uber.org/goleak"

	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/dbus/bustest"
	"github.com/lull/lull/userd/notify"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is a notification server that can be made to misbehave.
type server struct {
	t    *testing.T
	conn *dbus.Conn
	caps []string
	name string

	mu     sync.Mutex
	next   uint32
	shown  map[uint32]fdo.Notification
	calls  []string
	hang   chan struct{} // Notify waits for it to be closed
	refuse bool
	answer func(id uint32) uint32 // what Notify returns
	early  bool                   // close each notice before Notify answers
	quiet  *bool                  // the property Inhibited; nil if it has none
	seen   chan struct{}
	mute   string // a method that answers with NoReply
	asked  int    // how often it has done so
}

func connect(t *testing.T, address string) *dbus.Conn {
	t.Helper()
	conn, err := dbus.Connect(address, dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func newServer(t *testing.T, address string, caps ...string) *server {
	t.Helper()
	s := &server{t: t, conn: connect(t, address), caps: caps, name: "hostile", next: 100, shown: map[uint32]fdo.Notification{}, seen: make(chan struct{}, 1)}
	if err := s.conn.Export(methods{s}, serverPath, serverName); err != nil {
		t.Fatal(err)
	}
	if err := s.conn.Export(props{s}, serverPath, properties); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *server) own() *server {
	s.t.Helper()
	r, err := s.conn.RequestName(serverName, dbus.NameFlagReplaceExisting|dbus.NameFlagAllowReplacement|dbus.NameFlagDoNotQueue)
	if err != nil || r != dbus.RequestNameReplyPrimaryOwner {
		s.t.Fatalf("got %v %v, want no error and %v", r, err, dbus.RequestNameReplyPrimaryOwner)
	}
	return s
}

func (s *server) did(what string) {
	s.calls = append(s.calls, what)
	select {
	case s.seen <- struct{}{}:
	default:
	}
}

type methods struct{ s *server }

// muted is the error of a method that is not to answer.
func (s *server) muted(method string) *dbus.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mute != method {
		return nil
	}
	s.asked++
	s.did("mute " + method)
	return dbus.NewError("org.freedesktop.DBus.Error.NoReply", []any{"not now"})
}

func (m methods) GetCapabilities() ([]string, *dbus.Error) {
	return m.s.caps, m.s.muted("GetCapabilities")
}

func (m methods) GetServerInformation() (string, string, string, string, *dbus.Error) {
	if err := m.s.muted("GetServerInformation"); err != nil {
		return "", "", "", "", err
	}
	return m.s.name, "nobody", "0.1", "1.2", nil
}

func (m methods) Notify(app string, replaces uint32, icon, summary, body string, actions []string, hints map[string]dbus.Variant, expire int32) (uint32, *dbus.Error) {
	s := m.s
	s.mu.Lock()
	hang := s.hang
	if hang != nil {
		s.did("hang")
	}
	s.mu.Unlock()
	if hang != nil {
		<-hang
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse {
		s.did("refuse")
		return 0, dbus.NewError("org.freedesktop.Notifications.Error.ExcessNotificationGeneration", []any{"too many"})
	}
	id := replaces
	if id == 0 {
		s.next++
		id = s.next
	}
	if s.answer != nil {
		id = s.answer(id)
	}
	n := fdo.Notification{AppName: app, ReplacesID: replaces, AppIcon: icon, Summary: summary, Body: body, Hints: hints,
		ExpireTimeout: time.Duration(expire) * time.Millisecond}
	for i := 0; i+1 < len(actions); i += 2 {
		n.Actions = append(n.Actions, fdo.Action{Key: actions[i], Label: actions[i+1]})
	}
	s.shown[id] = n
	s.did("show " + summary)
	if s.early {
		s.emit("ActionInvoked", id, notify.Later)
		s.emit("NotificationClosed", id, uint32(2))
		delete(s.shown, id)
	}
	return id, nil
}

func (m methods) CloseNotification(id uint32) *dbus.Error {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	n, ok := m.s.shown[id]
	if !ok {
		m.s.did("close nothing")
		return dbus.NewError("org.freedesktop.Notifications.Error.InvalidId", nil)
	}
	delete(m.s.shown, id)
	m.s.did("close " + n.Summary)
	m.s.emit("NotificationClosed", id, uint32(3))
	return nil
}

type props struct{ s *server }

func (p props) Get(iface, name string) (dbus.Variant, *dbus.Error) {
	if err := p.s.muted("Get"); err != nil {
		return dbus.MakeVariant(false), err
	}
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	if name == "Inhibited" && p.s.quiet != nil {
		return dbus.MakeVariant(*p.s.quiet), nil
	}
	return dbus.Variant{}, dbus.NewError("org.freedesktop.DBus.Error.UnknownProperty", nil)
}

func (s *server) emit(member string, args ...any) {
	s.conn.Emit(serverPath, serverName+"."+member, args...)
}

// until waits until what is shown and what was called satisfies cond.
func (s *server) until(what string, cond func() bool) {
	s.t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		s.mu.Lock()
		ok := cond()
		s.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-s.seen:
		case <-timeout:
			s.mu.Lock()
			defer s.mu.Unlock()
			s.t.Fatalf("waited in vain until %s; calls %q, shown %v", what, s.calls, s.shown)
		}
	}
}

// find is id for a test that does not hold the lock.
func (s *server) find(summary string) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id(summary)
}

// id is that of the notice with the summary, or 0.
func (s *server) id(summary string) uint32 {
	for id, n := range s.shown {
		if n.Summary == summary {
			return id
		}
	}
	return 0
}

// desk is a Desktop under test.
type desk struct {
	*Desktop
	t      *testing.T
	events chan notify.Event
	props  *dbus.Conn
	stop   func() error
}

func newDesk(t *testing.T, address string, o Options) *desk {
	t.Helper()
	d := &desk{t: t, events: make(chan notify.Event, 256), props: connect(t, address)}
	o.Address = address
	o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	ctx, cancel := context.WithCancel(context.Background())
	var err error
	d.Desktop, err = Connect(ctx, o, func(e notify.Event) {
		select {
		case d.events <- e:
		case <-ctx.Done():
		}
	})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	d.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() { d.stop() })
	return d
}

// wait returns the next event of type E.
func wait[E notify.Event](d *desk) E {
	d.t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		select {
		case e := <-d.events:
			if e, ok := e.(E); ok {
				return e
			}
		case <-timeout:
			var e E
			d.t.Fatalf("no %T", e)
		}
	}
}

// none checks that no event of type E has arrived. It makes a call on the bus
// first, so that everything sent before has been received.
func none[E notify.Event](d *desk) {
	d.t.Helper()
	d.properties()
	for {
		select {
		case e := <-d.events:
			if e, ok := e.(E); ok {
				d.t.Errorf("the signal of a stranger was believed: got %#v, want no event of this type", e)
			}
		case <-time.After(20 * time.Millisecond):
			return
		}
	}
}

func (d *desk) properties() bus.SessionProperties {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	p, err := bus.NewSessionProxy(d.props, bus.SessionPath).Properties(ctx)
	if err != nil {
		d.t.Fatal(err)
	}
	return p
}

// eventually waits for a property, whose changes the test does not listen to.
func (d *desk) eventually(what string, cond func(bus.SessionProperties) bool) {
	d.t.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(d.properties()); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			d.t.Fatalf("waited in vain until %s: %+v", what, d.properties())
		}
	}
}

func notice(instance string, serial uint64) notify.Notice {
	return notify.Notice{
		Serial: serial, Kind: notify.Ready, Refresh: "r-" + instance, Instance: instance, Summary: instance + " is ready",
		Body:    "Close it & wait.",
		Buttons: []notify.Button{{Action: notify.RestartNow, Label: "Restart now"}, {Action: notify.Later, Label: "Later"}, {Action: notify.Default, Label: "OK"}},
	}
}

var allCaps = []string{"actions", "body", "body-markup"}

func start(t *testing.T) string { return bustest.Start(t) }
