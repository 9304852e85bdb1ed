package bus_test

import (
	"context"
	"encoding/xml"
	"errors"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"go.uber.org/goleak"

	"github.com/lull/lull/agent/problem"
	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/dbus/bustest"
	"github.com/lull/lull/e2e/need"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// agent is a Manager that answers without an agent behind it.
type agent struct {
	bus.Manager // methods that a test does not set panic, which must do no harm

	mu      sync.Mutex // guards all below
	install func(bus.Caller, string, bus.InstallOptions) (dbus.ObjectPath, error)
	open    func(string) (*os.File, *os.File, string, error)
	pending []bus.PendingRefresh
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
			t.Errorf("uid %d, %v", uid, err)
		}
		f, err := c.PIDFD()
		if err != nil {
			t.Errorf("pidfd: %v", err)
		} else {
			f.Close()
		}
		if !c.Interactive || name != "org.x.App" || o != (bus.InstallOptions{Channel: "edge"}) {
			t.Errorf("interactive %v, %q, %+v", c.Interactive, name, o)
		}
		return bus.RefreshPath("7"), nil
	}
	w.agent.mu.Unlock()
	path, err := w.proxy().Install(t.Context(), "org.x.App", bus.InstallOptions{Channel: "edge"})
	if err != nil || path != "/org/lull/Agent1/refresh/_37" {
		t.Fatalf("%q, %v", path, err)
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
		if !problem.Is(err, problem.Invalid) || !strings.Contains(err.Error(), "cannot use option chan") && !strings.Contains(err.Error(), `"chanel"`) {
			t.Errorf("%v: %v", options, err)
		}
	}
	err := bus.FromBus(w.client.Object(bus.AgentName, bus.AgentPath).Call(bus.ManagerInterface+".Install", 0, "org.x.App").Err)
	if !problem.Is(err, problem.Invalid) {
		t.Errorf("missing argument: %v", err)
	}
}

func TestErrorsKeepKindTextAndHint(t *testing.T) {
	w := start(t)
	w.agent.mu.Lock()
	w.agent.install = func(bus.Caller, string, bus.InstallOptions) (dbus.ObjectPath, error) {
		return "", problem.New(problem.NoSpace, "cannot install x: 3 MB missing\xff").WithHint("try `lull gc`")
	}
	w.agent.mu.Unlock()
	_, err := w.proxy().Install(t.Context(), "x", bus.InstallOptions{})
	if !problem.Is(err, problem.NoSpace) || err.Error() != "cannot install x: 3 MB missing\uFFFD" || problem.HintOf(err) != "try `lull gc`" {
		t.Fatalf("%v (%s), hint %q", err, problem.KindOf(err), problem.HintOf(err))
	}
}

func TestPanicIsAnError(t *testing.T) {
	w := start(t)
	said := make(chan string, 1)
	w.server.OnPanic(func(method string, _ any, _ []byte) { said <- method })
	_, err := w.proxy().Inspect(t.Context())
	if err == nil || err.Error() != "internal error: Inspect has panicked" {
		t.Fatal(err)
	}
	if m := <-said; m != bus.ManagerInterface+".Inspect" {
		t.Fatal(m)
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
	if !problem.Is(err, problem.Unavailable) || !strings.HasPrefix(err.Error(), "cannot reach the agent: ") || !strings.HasPrefix(problem.HintOf(err), "is lulld running?") {
		t.Errorf("%v", err)
	}
	if _, err := bus.Subscribe(t.Context(), conn, bus.AgentName, bus.AgentPath); !problem.Is(err, problem.Unavailable) {
		t.Errorf("subscribe: %v", err)
	}
	conn.Close()
	_, err = bus.NewManagerProxy(conn, bus.AgentPath).Doctor(t.Context())
	if !problem.Is(err, problem.Unavailable) {
		t.Errorf("closed: %v", err)
	}
	if _, err := bus.Dial(t.Context(), "unix:path=/nonexistent/bus", true); !problem.Is(err, problem.Unavailable) {
		t.Errorf("no bus: %v", err)
	}
}

func TestNameIsTaken(t *testing.T) {
	w := start(t)
	s, err := bus.Serve(t.Context(), w.address, true)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.RequestName(bus.AgentName); !problem.Is(err, problem.Exists) || !strings.Contains(err.Error(), "process") {
		t.Fatal(err)
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
		t.Fatal(hash, err)
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
		t.Errorf("the lease is still open: %v", err)
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
		t.Errorf("%d descriptors before, %d after", before, after)
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
	p.Live(func(v *bus.PackageProperties) {
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
		t.Fatalf("%+v", added)
	}
	want := bus.PackageProperties{Instance: "org.x.App", Version: "1", Refresh: "/", Processes: []bus.Process{{PID: 1, UID: 2, Command: "a\uFFFDb"}},
		Apps: []string{}, Services: []bus.ServiceState{}, Revisions: []bus.RevisionInfo{}, Holds: []bus.Hold{}}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %+v\nwant %+v", got, want)
	}

	p.Update(func(v *bus.PackageProperties) {}) // says nothing
	p.Update(func(v *bus.PackageProperties) {
		v.Instance = "const"
		v.Version = "2"
		v.Apps = []string{"app"}
		v.Processes = []bus.Process{{PID: 3}}
	})
	c, ok := bus.ParseChanged(next(t, sub))
	if !ok || c.Interface != bus.PackageInterface || len(c.Values) != 2 || !slices.Equal(c.Invalidated, []string{"Processes"}) {
		t.Fatalf("%+v", c)
	}
	if err := got.Apply(c.Values); err != nil || got.Version != "2" || !slices.Equal(got.Apps, []string{"app"}) {
		t.Fatalf("%+v, %v", got, err)
	}

	proxy := bus.NewPackageProxy(w.client, path)
	if v, err := proxy.GetVersion(t.Context()); err != nil || v != "2" {
		t.Errorf("%q, %v", v, err)
	}
	all, err := proxy.Properties(t.Context())
	if err != nil || all.Version != "2" || all.Processes[0].PID != 1 {
		t.Errorf("%+v, %v", all, err)
	}
	objects, err := bus.ManagedObjects(t.Context(), w.client, bus.AgentName, bus.AgentPath)
	if err != nil || len(objects) != 1 || len(objects[path][bus.PackageInterface]) == 0 {
		t.Errorf("%v, %v", objects, err)
	}

	if err := w.server.Unexport(path); err != nil {
		t.Fatal(err)
	}
	if r, ok := bus.ParseRemoved(next(t, sub)); !ok || r.Path != path || !slices.Equal(r.Interfaces, []string{bus.PackageInterface}) {
		t.Errorf("%+v", r)
	}
	if _, err := proxy.Properties(t.Context()); !problem.Is(err, problem.NotFound) {
		t.Errorf("gone: %v", err)
	}
	p.Update(func(v *bus.PackageProperties) { v.Version = "3" }) // to nobody
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
		t.Errorf("%+v", got)
	}
	for _, s := range subs { // the unicast one has reached nobody else
		if got, ok := bus.ParseManagerRefreshFinished(next(t, s)); !ok || got != finished {
			t.Errorf("%+v", got)
		}
	}
	// Somebody else who sends the same is not believed.
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
		t.Errorf("%+v", got)
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
		t.Fatal(o)
	}
	leaver.Close()
	if o := <-owners; o != "" {
		t.Fatal(o)
	}
	// Who has left before the watch began is told of at once.
	stop2, err := names.Watch(t.Context(), ":1.99999", func(owner string) { owners <- "?" + owner })
	if err != nil {
		t.Fatal(err)
	}
	stop2()
	if o := <-owners; o != "?" {
		t.Fatal(o)
	}
}

// shape is an interface of introspection data, without order and comments.
type shape struct {
	XMLName xml.Name
	Attrs   []xml.Attr `xml:",any,attr"`
	Nodes   []shape    `xml:",any"`
}

func interfaces(t *testing.T, data string) map[string]shape {
	t.Helper()
	var root shape
	if err := xml.Unmarshal([]byte(data), &root); err != nil {
		t.Fatalf("%v\n%s", err, data)
	}
	m := map[string]shape{}
	for _, n := range root.Nodes {
		if n.XMLName.Local == "interface" {
			m[n.Attrs[0].Value] = n
		}
	}
	return m
}

func TestIntrospectionIsTheXML(t *testing.T) {
	w := start(t)
	if err := w.server.Export(bus.PackagePath("a"), bus.ExportPackage(bus.PackageProperties{})); err != nil {
		t.Fatal(err)
	}
	if err := w.server.Export(bus.RefreshPath("1"), bus.ExportRefresh(nil, bus.RefreshProperties{})); err != nil {
		t.Fatal(err)
	}
	if err := w.server.Export("/org/lull/update_monitor/1_1/t1", bus.ExportUpdateMonitor(nil)); err != nil {
		t.Fatal(err)
	}
	if err := w.server.Export(bus.SessionPath, bus.ExportSession(nil, bus.SessionProperties{})); err != nil {
		t.Fatal(err)
	}
	live := map[string]shape{}
	for path, own := range map[dbus.ObjectPath]int{bus.AgentPath: 5, bus.PackagePath("a"): 1, bus.RefreshPath("1"): 1, bus.SessionPath: 1, "/org/lull/update_monitor/1_1/t1": 1} {
		found := 0
		for name, s := range interfaces(t, introspect(t, w.client, path)) {
			if strings.HasPrefix(name, "org.lull.") {
				live[name] = s
				found++
			}
		}
		if found != own {
			t.Errorf("%s has %d interfaces of ours, want %d", path, found, own)
		}
	}
	written := map[string]shape{}
	for _, data := range bus.XML() {
		for name, s := range interfaces(t, string(data)) {
			written[name] = s
		}
	}
	if !reflect.DeepEqual(live, written) {
		t.Errorf("live\n%+v\nwritten\n%+v", live, written)
	}
	// Folders lead there, and what is not there is said to be so.
	for path, child := range map[dbus.ObjectPath]string{"/": `<node name="org"/>`, "/org/lull": `<node name="Agent1"/>`, "/org/lull/Agent1/package": `<node name="a"/>`} {
		if text := introspect(t, w.client, path); !strings.Contains(text, child) {
			t.Errorf("%s: %s", path, text)
		}
	}
	err := bus.FromBus(w.client.Object(bus.AgentName, "/org/none").Call("org.freedesktop.DBus.Introspectable.Introspect", 0).Err)
	if !problem.Is(err, problem.NotFound) {
		t.Error(err)
	}
}

// Every method of the XML is one that a server has to have in order to compile,
// and nothing else is.
func TestServersMustImplementTheXML(t *testing.T) {
	servers := map[string]reflect.Type{
		bus.ManagerInterface: reflect.TypeFor[bus.Manager](), bus.SpaceInterface: reflect.TypeFor[bus.Space](),
		bus.RetainedInterface: reflect.TypeFor[bus.Retained](), bus.RefreshInterface: reflect.TypeFor[bus.Refresh](),
		bus.SessionInterface: reflect.TypeFor[bus.Session](), bus.SystemInterface: reflect.TypeFor[bus.System](),
		bus.UpdateMonitorInterface: reflect.TypeFor[bus.UpdateMonitor](),
	}
	for _, data := range bus.XML() {
		for name, i := range interfaces(t, string(data)) {
			var want, got []string
			for _, n := range i.Nodes {
				if n.XMLName.Local == "method" {
					want = append(want, n.Attrs[0].Value)
				}
			}
			if s := servers[name]; s != nil {
				for m := range s.NumMethod() {
					got = append(got, s.Method(m).Name)
				}
			}
			slices.Sort(want)
			if !slices.Equal(want, got) {
				t.Errorf("%s: the XML has %v, the server interface %v", name, want, got)
			}
		}
	}
}

func introspect(t *testing.T, conn *dbus.Conn, path dbus.ObjectPath) (s string) {
	t.Helper()
	if err := conn.Object(bus.AgentName, path).Call("org.freedesktop.DBus.Introspectable.Introspect", 0).Store(&s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestBusctlReadsIt(t *testing.T) {
	need.Program(t, "busctl")
	w := start(t)
	if err := w.server.Export(bus.PackagePath("org.x.App"), bus.ExportPackage(bus.PackageProperties{Version: "1.2"})); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		"/org/lull/Agent1/package/org_2ex_2eApp": {"tree", bus.AgentName},
		`.Version`:                               {"introspect", bus.AgentName, string(bus.PackagePath("org.x.App"))},
		".JoinRun":                               {"introspect", bus.AgentName, string(bus.AgentPath)},
		`"b"`:                                    {"call", bus.AgentName, string(bus.AgentPath), bus.ManagerInterface, "Doctor"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		out, err := exec.CommandContext(ctx, "busctl", append([]string{"--address=" + w.address}, args...)...).CombinedOutput()
		cancel()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("busctl %v: %v\n%s", args, err, out)
		}
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
