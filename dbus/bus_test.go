package bus_test

import (
	"context"
	"errors"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"go.uber.org/goleak"

	"github.com/lull/lull/agent/lib/errkind"
	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/dbus/bustest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// agent is a Manager that answers without an agent behind it.
type agent struct {
	bus.Manager // methods that a test does not set panic, which must do no harm

	mu      sync.Mutex // guards all below
	install func(bus.Caller, string, bus.InstallOptions) (dbus.ObjectPath, error)
	open    func(string) (*os.File, *os.File, string, error)
	pending []bus.PendingRefresh
	doctor  func()
}

func (a *agent) Install(c bus.Caller, name string, o bus.InstallOptions) (dbus.ObjectPath, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.install(c, name, o)
}

func (a *agent) Open(_ bus.Caller, p string) (*os.File, *os.File, string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.open(p)
}

func (a *agent) Pending(bus.Caller) ([]bus.PendingRefresh, error) { return a.pending, nil }

func (a *agent) Doctor(bus.Caller) ([]bus.Check, error) {
	a.mu.Lock()
	called := a.doctor
	a.mu.Unlock()
	if called != nil {
		called()
	}
	return []bus.Check{{Name: "a", State: "ok", Seen: "b"}}, nil
}

type space struct{ bus.Space }

type retained struct{ bus.Retained }

type system struct{ bus.System }

func (retained) Set(bus.Caller, []string) error { return nil }

// world is a bus with a server and a client on it.
type world struct {
	address string
	server  *bus.Server
	client  *dbus.Conn
	agent   *agent
	manager *bus.ManagerExport
}

func start(t *testing.T) *world {
	t.Helper()
	w := &world{address: bustest.Start(t), agent: &agent{}}
	var err error
	if w.server, err = bus.Serve(t.Context(), w.address, true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.server.Close() })
	w.server.Manage(bus.AgentPath)
	w.manager = bus.ExportManager(w.agent, bus.ManagerProperties{Version: "1", LastCheck: 7})
	err = w.server.Export(bus.AgentPath, w.manager,
		bus.ExportSpace(&space{}, bus.SpaceProperties{}), bus.ExportRetained(retained{}, bus.RetainedProperties{}),
		bus.ExportSystem(system{}, bus.SystemProperties{}), bus.ExportHelper())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.server.RequestName(bus.AgentName); err != nil {
		t.Fatal(err)
	}
	w.client = w.dial(t)
	return w
}

func (w *world) dial(t *testing.T) *dbus.Conn {
	t.Helper()
	conn, err := bus.DialFDs(t.Context(), w.address, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func (w *world) proxy() bus.ManagerProxy { return bus.NewManagerProxy(w.client, bus.AgentPath) }

// next waits for a signal.
func next(t *testing.T, s *bus.Subscription) *dbus.Signal {
	t.Helper()
	select {
	case sig, ok := <-s.C:
		if !ok {
			t.Fatal("the subscription has ended")
		}
		return sig
	case <-time.After(10 * time.Second):
		t.Fatal("no signal")
	}
	return nil
}

func TestCall(t *testing.T) {
	w := start(t)
	w.agent.mu.Lock()
	w.agent.install = func(c bus.Caller, name string, o bus.InstallOptions) (dbus.ObjectPath, error) {
		uid, err := c.UID()
		if err != nil || int(uid) != os.Getuid() {
			t.Errorf("UID of the caller: got %d and %v, want %d and no error", uid, err, os.Getuid())
		}
		f, err := c.PIDFD()
		if err != nil {
			t.Errorf("pidfd: %v", err)
		} else {
			f.Close()
		}
		if c.Interactive != (o.Channel == "edge") || name != "org.x.App" || o.Now {
			t.Errorf("channel %q: got interactive %v, name %q, now %v; want interactive only for edge, org.x.App and false", o.Channel, c.Interactive, name, o.Now)
		}
		return bus.RefreshPath("7"), nil
	}
	w.agent.mu.Unlock()
	for channel, ctx := range map[string]context.Context{"edge": t.Context(), "unattended": bus.Unattended(t.Context())} {
		path, err := w.proxy().Install(ctx, "org.x.App", bus.InstallOptions{Channel: channel})
		if err != nil || path != "/org/lull/Agent1/refresh/_37" {
			t.Fatalf("%s: %q, want /org/lull/Agent1/refresh/_37, %v", channel, path, err)
		}
	}
}

func TestOptionsAreStrict(t *testing.T) {
	w := start(t)
	for _, options := range []map[string]dbus.Variant{
		{"chanel": dbus.MakeVariant("edge")},
		{"channel": dbus.MakeVariant(uint32(1))},
	} {
		err := bus.FromBus(w.client.Object(bus.AgentName, bus.AgentPath).
			Call(bus.ManagerInterface+".Install", 0, "org.x.App", options).Err)
		if !errkind.Is(err, errkind.Invalid) || !strings.Contains(err.Error(), "cannot use option chan") && !strings.Contains(err.Error(), `"chanel"`) {
			t.Errorf("options %v: got %v, want an error of kind Invalid that names the option", options, err)
		}
	}
	err := bus.FromBus(w.client.Object(bus.AgentName, bus.AgentPath).Call(bus.ManagerInterface+".Install", 0, "org.x.App").Err)
	if !errkind.Is(err, errkind.Invalid) {
		t.Errorf("missing argument: got %v, want an error of kind %s", err, errkind.Invalid)
	}
}

func TestErrorsKeepKindTextAndHint(t *testing.T) {
	w := start(t)
	w.agent.mu.Lock()
	w.agent.install = func(bus.Caller, string, bus.InstallOptions) (dbus.ObjectPath, error) {
		return "", errkind.New(errkind.NoSpace, "cannot install x: 3 MB missing\xff").WithHint("try `lull gc`")
	}
	w.agent.mu.Unlock()
	_, err := w.proxy().Install(t.Context(), "x", bus.InstallOptions{})
	if !errkind.Is(err, errkind.NoSpace) || err.Error() != "cannot install x: 3 MB missing\uFFFD" || errkind.HintOf(err) != "try `lull gc`" {
		t.Fatalf("got %q of kind %s with hint %q, want %q of kind %s with hint %q", err, errkind.KindOf(err), errkind.HintOf(err), "cannot install x: 3 MB missing\uFFFD", errkind.NoSpace, "try `lull gc`")
	}
}

func TestPanicIsAnError(t *testing.T) {
	w := start(t)
	said := make(chan string, 1)
	w.server.OnPanic(func(method string, _ any, _ []byte) { said <- method })
	_, err := w.proxy().Inspect(t.Context())
	if err == nil || err.Error() != "internal error: Inspect has panicked" {
		t.Fatalf("got %v, want \"internal error: Inspect has panicked\"", err)
	}
	if m := <-said; m != bus.ManagerInterface+".Inspect" {
		t.Fatalf("got a log of %s, want %s.Inspect", m, bus.ManagerInterface)
	}
	if _, err := w.proxy().Doctor(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestNobodyThere(t *testing.T) {
	address := bustest.Start(t)
	conn, err := bus.Dial(t.Context(), address, true)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = bus.NewManagerProxy(conn, bus.AgentPath).Doctor(t.Context())
	if !errkind.Is(err, errkind.Unavailable) || !strings.HasPrefix(err.Error(), "cannot reach the agent: ") || !strings.HasPrefix(errkind.HintOf(err), "is lulld running?") {
		t.Errorf("no agent: got %v (%s, hint %q), want \"cannot reach the agent: …\" of kind Unavailable with hint \"is lulld running?\"", err, errkind.KindOf(err), errkind.HintOf(err))
	}
	if _, err := bus.Subscribe(t.Context(), conn, bus.AgentName, bus.AgentPath); !errkind.Is(err, errkind.Unavailable) {
		t.Errorf("subscribe: got %v, want an error of kind %v", err, errkind.Unavailable)
	}
	conn.Close()
	_, err = bus.NewManagerProxy(conn, bus.AgentPath).Doctor(t.Context())
	if !errkind.Is(err, errkind.Unavailable) {
		t.Errorf("closed: got %v, want an error of kind %v", err, errkind.Unavailable)
	}
	if _, err := bus.Dial(t.Context(), "unix:path=/nonexistent/bus", true); !errkind.Is(err, errkind.Unavailable) {
		t.Errorf("no bus: got %v, want an error of kind %s", err, errkind.Unavailable)
	}
}

func TestNameIsTaken(t *testing.T) {
	w := start(t)
	s, err := bus.Serve(t.Context(), w.address, true)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.RequestName(bus.AgentName); !errkind.Is(err, errkind.Exists) || !strings.Contains(err.Error(), "process") {
		t.Fatalf("a second owner of the name: got %v, want an error of kind %s with its process", err, errkind.Exists)
	}
}

func TestDescriptors(t *testing.T) {
	w := start(t)
	ends := make(chan *os.File, 1)
	w.agent.mu.Lock()
	w.agent.open = func(string) (*os.File, *os.File, string, error) {
		d, err := os.Open(t.TempDir())
		if err != nil {
			return nil, nil, "", err
		}
		r, lease, err := os.Pipe()
		ends <- r
		return d, lease, "abc", err
	}
	w.agent.mu.Unlock()
	dir, lease, hash, err := w.proxy().Open(t.Context(), "x")
	if err != nil || hash != "abc" {
		t.Fatalf("got hash %q (%v), want \"abc\" and no error", hash, err)
	}
	given := <-ends
	defer given.Close()
	if _, err := dir.Readdirnames(-1); err != nil {
		t.Error(err)
	}
	dir.Close()
	lease.Close()
	// The server's own end is closed, too, else this would wait for ever.
	given.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := given.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the lease: got %v, want its other end closed", err)
	}
}

// TestUnwantedDescriptorsAreClosed: what comes with descriptors is dropped on the
// way in, before anything of ours sees it; see package dialer.
func TestUnwantedDescriptorsAreClosed(t *testing.T) {
	w := start(t)
	count := func() int {
		names, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	call := func() {
		r, p, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		agent := w.client.Object(bus.AgentName, bus.AgentPath)
		c := agent.Call("org.freedesktop.DBus.Peer.Ping", dbus.FlagNoReplyExpected, dbus.UnixFD(r.Fd()), []any{dbus.MakeVariant(dbus.UnixFD(p.Fd()))})
		if c.Err != nil {
			t.Fatal(c.Err)
		}
		r.Close()
		p.Close()
		if c := agent.CallWithContext(t.Context(), "org.freedesktop.DBus.Peer.Ping", 0); c.Err != nil { // calls keep their order
			t.Fatal(c.Err)
		}
	}
	call()
	before := count()
	for range 20 {
		call()
	}
	if after := count(); after > before+2 {
		t.Errorf("after 20 calls: got %d descriptors, want at most 2 more than the %d before", after, before)
	}
}

func TestProperties(t *testing.T) {
	w := start(t)
	sub, err := bus.Subscribe(t.Context(), w.client, bus.AgentName, bus.AgentPath)
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()

	p := bus.ExportPackage(bus.PackageProperties{Instance: "org.x.App", Version: "1"})
	var computed atomic.Int32
	p.Live(func(_ *bus.Reading, v *bus.PackageProperties) {
		computed.Add(1)
		v.Processes = []bus.Process{{PID: 1, UID: 2, Command: "a\x00b"}}
		v.Version = "not announced"
	})
	path := bus.PackagePath("org.x.App")
	if err := w.server.Export(path, p); err != nil {
		t.Fatal(err)
	}
	added, ok := bus.ParseAdded(next(t, sub))
	var got bus.PackageProperties
	if !ok || added.Path != path || got.Apply(added.Interfaces[bus.PackageInterface]) != nil {
		t.Fatalf("got signal %+v, want the interfaces that were added at %s", added, path)
	}
	want := bus.PackageProperties{Instance: "org.x.App", Version: "1", Refresh: "/", Processes: []bus.Process{{PID: 1, UID: 2, Command: "a\uFFFDb"}},
		Apps: []string{}, Services: []bus.ServiceState{}, Revisions: []bus.RevisionInfo{}, Holds: []bus.Hold{}}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %+v\nwant %+v", got, want)
	}

	p.Update(func(v *bus.PackageProperties) {}) // sends nothing
	p.Update(func(v *bus.PackageProperties) {
		v.Instance = "const"
		v.Version = "2"
		v.Apps = []string{"app"}
		v.Processes = []bus.Process{{PID: 3}}
	})
	c, ok := bus.ParseChanged(next(t, sub))
	if !ok || c.Interface != bus.PackageInterface || len(c.Values) != 2 || !slices.Equal(c.Invalidated, []string{"Processes"}) {
		t.Fatalf("got %+v, want two values of %s changed and Processes invalidated", c, bus.PackageInterface)
	}
	if err := got.Apply(c.Values); err != nil || got.Version != "2" || !slices.Equal(got.Apps, []string{"app"}) {
		t.Fatalf("%+v, %v; want no error, version %q and apps %v", got, err, "2", []string{"app"})
	}

	proxy := bus.NewPackageProxy(w.client, path)
	before := computed.Load()
	if v, err := proxy.GetVersion(t.Context()); err != nil || v != "2" || computed.Load() != before {
		t.Errorf("Version: got %q, %v and %d readings, want \"2\", no error and none", v, err, computed.Load()-before)
	}
	all, err := proxy.Properties(t.Context())
	if err != nil || all.Version != "2" || all.Processes[0].PID != 1 {
		t.Errorf("%+v, %v; want no error, version %q and pid 1", all, err, "2")
	}
	objects, err := bus.ManagedObjects(t.Context(), w.client, bus.AgentName, bus.AgentPath)
	if err != nil || len(objects) != 1 || len(objects[path][bus.PackageInterface]) == 0 {
		t.Errorf("ManagedObjects: got %v, %v; want %s alone and no error", objects, err, path)
	}

	if err := w.server.Unexport(path); err != nil {
		t.Fatal(err)
	}
	if r, ok := bus.ParseRemoved(next(t, sub)); !ok || r.Path != path || !slices.Equal(r.Interfaces, []string{bus.PackageInterface}) {
		t.Errorf("got signal %+v, want %s removed from %s", r, bus.PackageInterface, path)
	}
	if _, err := proxy.Properties(t.Context()); !errkind.Is(err, errkind.NotFound) {
		t.Errorf("gone: got %v, want an error of kind %v", err, errkind.NotFound)
	}
	p.Update(func(v *bus.PackageProperties) { v.Version = "3" }) // to no one
}

func TestSignals(t *testing.T) {
	w := start(t)
	other := w.dial(t)
	subs := map[*dbus.Conn]*bus.Subscription{}
	for _, c := range []*dbus.Conn{w.client, other} {
		s, err := bus.Subscribe(t.Context(), c, bus.AgentName, bus.AgentPath)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		subs[c] = s
	}
	pending := bus.HelperPending{Refresh: bus.PendingRefresh{ID: "1", Refresh: bus.RefreshPath("1"), Processes: []bus.Process{{PID: 1, Command: "x"}}}}
	if err := w.server.SendTo(other.Names()[0], bus.AgentPath, pending); err != nil {
		t.Fatal(err)
	}
	finished := bus.ManagerRefreshFinished{Refresh: "/a", Instance: "i", Result: "done"}
	if err := w.server.Emit(bus.AgentPath, finished); err != nil {
		t.Fatal(err)
	}
	if got, ok := bus.ParseHelperPending(next(t, subs[other])); !ok || !reflect.DeepEqual(got, pending) {
		t.Errorf("got HelperPending %+v, want %+v", got, pending)
	}
	for _, s := range subs { // the unicast one has reached no other client
		if got, ok := bus.ParseManagerRefreshFinished(next(t, s)); !ok || got != finished {
			t.Errorf("got RefreshFinished %+v, want %+v", got, finished)
		}
	}
	// The same from another sender is not accepted.
	forger, err := bus.Serve(t.Context(), w.address, true)
	if err != nil {
		t.Fatal(err)
	}
	defer forger.Close()
	forged := bus.ManagerRefreshFinished{Refresh: "/forged"}
	if err := forger.SendTo(w.client.Names()[0], bus.AgentPath, forged); err != nil {
		t.Fatal(err)
	}
	// The forger's own goodbye is the proof that what it sent was there.
	if err := w.server.Emit(bus.AgentPath, finished); err != nil {
		t.Fatal(err)
	}
	if got, ok := bus.ParseManagerRefreshFinished(next(t, subs[w.client])); !ok || got != finished {
		t.Errorf("got RefreshFinished %+v, want %+v, nothing of the forger", got, finished)
	}
	w.server.Close()
	for range subs[w.client].C {
		t.Error("a signal after the end")
	}
}

func TestNames(t *testing.T) {
	w := start(t)
	names := bus.NewNames(w.server.Conn())
	defer names.Close()
	leaver := w.dial(t)
	owners := make(chan string, 10)
	stop, err := names.Watch(t.Context(), leaver.Names()[0], func(owner string) { owners <- owner })
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if o := <-owners; o != leaver.Names()[0] {
		t.Fatalf("got owner %q, want %q", o, leaver.Names()[0])
	}
	leaver.Close()
	if o := <-owners; o != "" {
		t.Fatalf("got owner %q, want none", o)
	}
	// A peer that has left before the watch began is reported at once.
	stop2, err := names.Watch(t.Context(), ":1.99999", func(owner string) { owners <- "?" + owner })
	if err != nil {
		t.Fatal(err)
	}
	stop2()
	if o := <-owners; o != "?" {
		t.Fatalf("got owner %q, want \"?\"", o)
	}
}

func TestEscapeLabel(t *testing.T) {
	for in, want := range map[string]string{"": "_", "a": "a", "1a1": "_31a1", "org.x-y_z": "org_2ex_2dy_5fz"} {
		if got := bus.EscapeLabel(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestOnBroker(t *testing.T) { bustest.OnBroker(t) }
