package main

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/problem"
	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/dbus/bustest"
)

// fakeAgent is a Manager and a Space with canned answers, exported by the real
// server code on a private bus.
type fakeAgent struct {
	bus.Manager
	server  *bus.Server
	address string
	folder  string // of the package that Open opens
	space   fakeSpace

	mu       sync.Mutex
	script   script               // guarded by mu: of Install, Remove, Refresh, Revert
	pending  []bus.PendingRefresh // guarded by mu
	held     map[string]uint64    // guarded by mu
	opened   *os.File             // guarded by mu: the other end of the last lease
	repos    map[string]string    // guarded by mu
	manager  *bus.ManagerExport
	measured *bus.SpaceExport
	system   *bus.SystemExport
	packages map[string]*bus.PackageExport // guarded by mu
}

// script is what the verbs that start refreshes do.
type script func(verb, name string) (dbus.ObjectPath, error)

func (f *fakeAgent) play(s script) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.script = s
}

func (f *fakeAgent) start(verb, name string) (dbus.ObjectPath, error) {
	f.mu.Lock()
	s := f.script
	f.mu.Unlock()
	return s(verb, name)
}

type fakeSpace struct {
	bus.Space
	mu       sync.Mutex
	packages []bus.PackageUsage // guarded by mu
	findings []bus.Finding      // guarded by mu
}

func (s *fakeSpace) set(packages []bus.PackageUsage, findings []bus.Finding) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.packages, s.findings = packages, findings
}

func (s *fakeSpace) Plan(bus.Caller) ([]bus.PlannedBlob, []bus.PackageUsage, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var blobs []bus.PlannedBlob
	var bytes uint64
	for _, p := range s.packages {
		if p.KeptBy == "" {
			blobs = append(blobs, bus.PlannedBlob{Hash: p.Hash, Bytes: p.Exclusive})
			bytes += p.Exclusive
		}
	}
	return blobs, s.packages, bytes, nil
}

func (s *fakeSpace) Collect(_ bus.Caller, o bus.CollectOptions) (uint32, uint32, uint64, error) {
	if o.Free == 7_000_000 {
		return 1, 1, 7_500_000, nil
	}
	return 3, 2, 12_000_000, nil
}

func (s *fakeSpace) Verify(_ bus.Caller, o bus.VerifyOptions) (uint32, []bus.Finding, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := append([]bus.Finding(nil), s.findings...)
	for i := range found {
		found[i].Repaired = o.Repair
	}
	return 120, found, nil
}

func (f *fakeAgent) Install(_ bus.Caller, name string, o bus.InstallOptions) (dbus.ObjectPath, error) {
	if o.Key != "" {
		name += "_" + o.Key
	}
	return f.start("install", name)
}

func (f *fakeAgent) Remove(_ bus.Caller, name string, _ bus.RemoveOptions) (dbus.ObjectPath, error) {
	return f.start("remove", name)
}

func (f *fakeAgent) Revert(_ bus.Caller, name string, _ bus.RevertOptions) (dbus.ObjectPath, error) {
	return f.start("revert", name)
}

func (f *fakeAgent) Refresh(_ bus.Caller, names []string, o bus.RefreshOptions) ([]dbus.ObjectPath, error) {
	if !o.NoWait {
		return nil, problem.New(problem.Failed, "cannot be: the command asks without waiting")
	}
	var paths []dbus.ObjectPath
	if len(names) == 0 {
		names = []string{"*"}
	}
	for _, n := range names {
		p, err := f.start("refresh", n)
		if err != nil {
			return nil, err
		}
		if p != "" {
			paths = append(paths, p)
		}
	}
	return paths, nil
}

func (f *fakeAgent) Pending(bus.Caller) ([]bus.PendingRefresh, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pending, nil
}

func (f *fakeAgent) Self(bus.Caller) (string, string, error) { return "org.example.notes", "", nil }

func (f *fakeAgent) Hold(_ bus.Caller, name string, until uint64, _ string) (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if until == 0 {
		until = uint64(time.Now().Add(7 * 24 * time.Hour).UnixMicro())
	}
	if name == "org.none" {
		return 0, problem.New(problem.NotFound, "cannot hold org.none: it is not installed")
	}
	f.held[name] = until
	return until, nil
}

func (f *fakeAgent) Unhold(_ bus.Caller, name string) (uint64, string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.held[name] == 0 {
		return 0, "", problem.New(problem.NotFound, "cannot release %s: nobody holds it", name)
	}
	delete(f.held, name)
	return 0, "", nil
}

func (f *fakeAgent) Why(_ bus.Caller, what string) ([]bus.Chain, error) {
	if what == "unknown" {
		return nil, nil
	}
	return []bus.Chain{
		{Index: "installed", Package: hashOf('a'), Through: hashOf('b'), Holder: "org.example.notes revision 3"},
		{Index: "open", Package: hashOf('a'), Holder: "run of org.example.notes", PID: 4711},
	}, nil
}

// Reload refuses and accepts in turn.
func (f *fakeAgent) Reload(bus.Caller) error {
	text := ""
	f.manager.Update(func(p *bus.ManagerProperties) {
		if p.PolicyError == "" {
			text = "/etc/lull/policy.yaml:7: cannot use this"
		}
		p.PolicyError = text
	})
	if text != "" {
		return problem.New(problem.BadPolicy, "%s", text).WithHint("mend it")
	}
	return nil
}

func (f *fakeAgent) Doctor(bus.Caller) ([]bus.Check, error) {
	return []bus.Check{
		{Name: "tracker", State: "ok", Seen: "freezer, by inotify"},
		{Name: "repositories", State: "warn", Seen: "none", Advice: "add one with `lull repo add`"},
	}, nil
}

func (f *fakeAgent) Inspect(bus.Caller) (string, error) { return `{"runs":[],"indices":{}}`, nil }

func (f *fakeAgent) AddRepository(_ bus.Caller, name, url string, _ []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.repos[name] = url
	return nil
}

func (f *fakeAgent) Open(_ bus.Caller, name string) (*os.File, *os.File, string, error) {
	if name == "org.none" {
		return nil, nil, "", problem.New(problem.NotFound, "cannot open org.none: it is not installed").WithHint("`lull list` shows what is")
	}
	dir, err := os.Open(f.folder)
	if err != nil {
		return nil, nil, "", err
	}
	r, lease, err := os.Pipe()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opened = r
	return dir, lease, hashOf('c'), err
}

func hashOf(c byte) string {
	b := make([]byte, 64)
	for i := range b {
		b[i] = c
	}
	return string(b)
}

// monday is the time in tests that say when something happens.
var monday = time.Date(2030, 5, 6, 12, 0, 0, 0, time.Local)

func micro(t time.Time) uint64 { return uint64(t.UnixMicro()) }

// startAgent puts a fake agent on a bus of its own.
func startAgent(t *testing.T) *fakeAgent {
	t.Helper()
	f := &fakeAgent{address: bustest.Start(t), held: map[string]uint64{}, repos: map[string]string{}, packages: map[string]*bus.PackageExport{}}
	f.folder = filepath.Join(t.TempDir(), "package")
	if err := os.Mkdir(f.folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(f.folder, "hello"), []byte("hello from the package\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	f.script = f.usual
	var err error
	f.server, err = bus.Serve(t.Context(), f.address, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.server.Close()
		if f.opened != nil {
			f.opened.Close()
		}
	})
	f.server.Manage(bus.AgentPath)
	f.manager = bus.ExportManager(f, bus.ManagerProperties{
		Version: "1.2.3", Root: "/var/lib/lull", RunDir: "/run/lull", Tracker: "freezer", TrackerEvents: "inotify",
		LastCheck: micro(time.Now().Add(-3 * time.Hour)), Repositories: []bus.RepositoryAddress{{Name: "local", URL: "/srv/repo"}},
	})
	f.measured = bus.ExportSpace(&f.space, bus.SpaceProperties{Used: 52_000_000, Free: 9_000_000_000})
	f.system = bus.ExportSystem(struct{ bus.System }{}, bus.SystemProperties{State: "idle"})
	err = f.server.Export(bus.AgentPath, f.manager, f.measured, f.system)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.server.RequestName(bus.AgentName); err != nil {
		t.Fatal(err)
	}
	return f
}

// add installs a package.
func (f *fakeAgent) add(t *testing.T, p bus.PackageProperties) *bus.PackageExport {
	t.Helper()
	e := bus.ExportPackage(p)
	if err := f.server.Export(bus.PackagePath(p.Instance), e); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.packages[p.Instance] = e
	return e
}

// cancellable is the implementation of a refresh object.
type cancellable struct{ cancel func() error }

func (c cancellable) Cancel(bus.Caller) error { return c.cancel() }

// begin makes a refresh object and lets steps happen to it, in order, after
// its method has returned.
func (f *fakeAgent) begin(id string, first bus.RefreshProperties, steps ...func(*bus.RefreshProperties)) (dbus.ObjectPath, error) {
	now := make(chan struct{})
	close(now)
	return f.beginLater(now, id, first, steps...)
}

// beginLater is begin with steps that wait for a channel to be closed.
func (f *fakeAgent) beginLater(ready <-chan struct{}, id string, first bus.RefreshProperties, steps ...func(*bus.RefreshProperties)) (dbus.ObjectPath, error) {
	path := bus.RefreshPath(id)
	first.ID = id
	var e *bus.RefreshExport
	e = bus.ExportRefresh(cancellable{func() error {
		e.Update(func(p *bus.RefreshProperties) { p.State = "cancelled" })
		return nil
	}}, first)
	if err := f.server.Export(path, e); err != nil {
		return "", err
	}
	go func() {
		<-ready
		for _, step := range steps {
			e.Update(step)
		}
		if p := e.Values(); over(p.State) {
			_ = f.server.Emit(bus.AgentPath, bus.ManagerRefreshFinished{Refresh: path, Instance: p.Instance, Result: p.State, Error: p.ErrorText})
			_ = f.server.Unexport(path)
		}
	}()
	return path, nil
}

// notes is an application as the tests use it.
func notes() bus.PackageProperties {
	return bus.PackageProperties{
		Instance: "org.example.notes", Name: "org.example.notes", Title: "Notes", Summary: "Write things down", Version: "1.0", Revision: 3,
		Hash: hashOf('a'), Repository: "local", Channel: "stable", Apps: []string{"notes"},
		Revisions: []bus.RevisionInfo{
			{Revision: 3, Hash: hashOf('a'), Version: "1.0", Since: micro(time.Now().Add(-48 * time.Hour)), State: "current"},
			{Revision: 2, Hash: hashOf('b'), Version: "0.9", Since: micro(time.Now().Add(-500 * time.Hour)), State: "previous"},
		},
	}
}

// usual is how most refreshes go.
func (f *fakeAgent) usual(verb, name string) (dbus.ObjectPath, error) {
	set := func(change func(*bus.RefreshProperties)) func(*bus.RefreshProperties) { return change }
	waiting := []bus.Process{{PID: 123, UID: 64999, Command: "notes"}}
	first := bus.RefreshProperties{Kind: verb, Instance: name, State: "preparing", Step: "resolve", FromVersion: "1.0", ToVersion: "1.1"}
	switch verb + " " + name {
	case "install org.example.full":
		return "", problem.New(problem.NoSpace, "cannot install org.example.full: needs 5 GB, free are 2 GB, freeable 1 GB").WithHint("try `lull gc`")
	case "install org.example.broken":
		return f.begin("9", first, set(func(p *bus.RefreshProperties) {
			p.State, p.ErrorName = "undone", problem.Prefix+string(problem.Untrusted)
			p.ErrorText = "cannot install org.example.broken: its content is not what was signed"
		}))
	case "refresh org.example.busy", "remove org.example.busy":
		f.mu.Lock()
		f.pending = []bus.PendingRefresh{{ID: "8", AtDeadline: "side-by-side"}}
		f.mu.Unlock()
		return f.begin("8", first, set(func(p *bus.RefreshProperties) {
			p.State, p.Step, p.Waiting, p.Deadline = "waiting", "wait", waiting, micro(monday.Add(14*24*time.Hour))
		}))
	case "refresh *":
		return "", nil
	}
	first.BytesTotal = 4096
	steps := []func(*bus.RefreshProperties){
		set(func(p *bus.RefreshProperties) { p.Step = "fetch" }),
		set(func(p *bus.RefreshProperties) { p.BytesDone = 4096 }),
		set(func(p *bus.RefreshProperties) { p.State, p.Step = "critical", "link" }),
		set(func(p *bus.RefreshProperties) { p.State, p.Step = "done", "finish" }),
	}
	if verb == "install" {
		first.FromVersion = ""
	}
	return f.begin("7", first, steps...)
}
