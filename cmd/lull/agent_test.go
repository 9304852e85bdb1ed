package main

import (
	"cmp"
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
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
	stalled  string               // guarded by mu: the method that calls stall first
	stall    func()               // guarded by mu
	script   script               // guarded by mu: of Install, Remove, Refresh, Revert
	pending  []bus.PendingRefresh // guarded by mu
	held     map[string]uint64    // guarded by mu
	opened   *os.File             // guarded by mu: the other end of the last lease
	repos    map[string]string    // guarded by mu
	sent     chan string          // guarded by mu: the last file that was sent, with its name
	change   string               // guarded by mu: a file that changes while it is sent
	withheld []bus.WithheldVersion
	offers   []bus.AvailablePackage
	updates  []bus.AvailableUpdate
	ended    []bus.EndedRefresh // nil means past()
	chains   []bus.Chain        // Why returns them in place of its own
	checks   []bus.Check        // Doctor returns them in place of its own
	inspects string             // Inspect returns it in place of its own
	manager  *bus.ManagerExport
	measured *bus.SpaceExport
	system   *bus.SystemExport
	packages map[string]*bus.PackageExport // guarded by mu
}

// script is the implementation of the verbs that start refreshes.
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

// stallAt makes a method call f first.
func (f *fakeAgent) stallAt(method string, stall func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stalled, f.stall = method, stall
}

func (f *fakeAgent) at(method string) {
	f.mu.Lock()
	stall := f.stall
	if f.stalled != method {
		stall = nil
	}
	f.mu.Unlock()
	if stall != nil {
		stall()
	}
}

func (f *fakeAgent) Install(_ bus.Caller, name string, o bus.InstallOptions) (dbus.ObjectPath, error) {
	f.at("Install")
	if o.Key != "" {
		name += "_" + o.Key
	}
	return f.start("install", name)
}

func (f *fakeAgent) Remove(_ bus.Caller, name string, _ bus.RemoveOptions) (dbus.ObjectPath, error) {
	f.at("Remove")
	return f.start("remove", name)
}

func (f *fakeAgent) Revert(_ bus.Caller, name string, _ bus.RevertOptions) (dbus.ObjectPath, error) {
	f.at("Revert")
	return f.start("revert", name)
}

func (f *fakeAgent) Refresh(_ bus.Caller, names []string, o bus.RefreshOptions) ([]dbus.ObjectPath, error) {
	f.at("Refresh")
	if !o.NoWait {
		return nil, errkind.New(errkind.Failed, "cannot be: the command asks without waiting")
	}
	var paths []dbus.ObjectPath
	if len(names) == 0 {
		return nil, errkind.New(errkind.Failed, "cannot be: the command asks for each by itself")
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
	f.at("Pending")
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pending, nil
}

// History returns the completed changes, or one of each kind with a wording of its own in the
// command line.
func (f *fakeAgent) History(_ bus.Caller, o bus.HistoryOptions) (list []bus.EndedRefresh, err error) {
	f.at("History")
	all := f.ended
	if all == nil {
		all = past()
	}
	for _, c := range all {
		if o.Instance == "" || c.Instance == o.Instance || f.ended != nil {
			list = append(list, c)
		}
	}
	return list, nil
}

// ListAvailable returns the offers of the repository local.
func (f *fakeAgent) ListAvailable(_ bus.Caller, o bus.ListAvailableOptions) (list []bus.AvailablePackage, failed []bus.ListFailure, err error) {
	f.at("ListAvailable")
	if f.offers != nil {
		return f.offers, []bus.ListFailure{filled[bus.ListFailure](nil)}, nil
	}
	for _, p := range []bus.AvailablePackage{
		{Name: "org.example.notes", Channel: "edge", Version: "2.0-rc1", Size: 41_000_000, Notes: "Faster", Published: micro(monday)},
		{Name: "org.example.notes", Channel: "stable", Version: "1.1", Size: 40_000_000, Offered: true, Installed: []string{"org.example.notes"}},
		{Name: "org.example.mousepad", Channel: "stable", Version: "0.6", Size: 3_000_000, Offered: true, Notes: "An editor", Summary: "Edits plain text"},
		{Name: "org.example.Editor", Channel: "stable", Version: "3", Size: 5_000_000, Offered: true},
		{Name: "net.example.editor", Channel: "stable", Version: "4", Size: 6_000_000, Offered: true},
	} {
		p.Repository, p.Hash = "local", hashOf('e')
		if o.Repository == "" || o.Repository == p.Repository {
			list = append(list, p)
		}
	}
	return list, []bus.ListFailure{{Name: "remote", Error: errkind.Prefix + string(errkind.Unavailable), Text: "it does not answer"}}, nil
}

func (f *fakeAgent) ListUpdates(_ bus.Caller, names []string, _ bus.ListUpdatesOptions) (list []bus.AvailableUpdate, failed []bus.ListFailure, err error) {
	f.at("ListUpdates")
	all := f.updates
	if all == nil {
		all = []bus.AvailableUpdate{
			{Instance: "org.example.busy", FromVersion: "2.0", Version: "2.1", Size: 9_000_000, Refresh: bus.RefreshPath("8")},
			{Instance: "org.example.notes", FromVersion: "1.0", Version: "1.1", Size: 40_000_000, Fetch: 2_000_000, Urgency: "security", Withheld: "rollout"},
		}
	}
	for _, u := range all {
		if len(names) == 0 || f.updates != nil || slices.Contains(names, u.Instance) {
			list = append(list, u)
		}
	}
	return list, nil, nil
}

func (f *fakeAgent) Switch(_ bus.Caller, instance string, o bus.SwitchOptions) error {
	f.at("Switch")
	f.mu.Lock()
	e := f.packages[instance]
	f.mu.Unlock()
	if e == nil {
		return errkind.New(errkind.NotFound, "cannot find %s: it is not installed", instance)
	}
	e.Update(func(p *bus.PackageProperties) { p.Channel = o.Channel })
	return nil
}

// past is a history, the oldest change first.
func past() []bus.EndedRefresh {
	at := func(back time.Duration) uint64 { return micro(monday.Add(-back)) }
	return []bus.EndedRefresh{
		{ID: "11", Kind: "install", Instance: "org.example.busy", ToVersion: "2.0", ToRevision: 1, Result: "done", Ended: at(50 * time.Hour), Undo: "remove"},
		{ID: "12", Kind: "refresh", Instance: "org.example.notes", FromVersion: "0.9", ToVersion: "1.0", FromRevision: 2, ToRevision: 3, Result: "done",
			Asked: true, UID: 1000, User: "ann", Began: at(48 * time.Hour), Ended: at(48*time.Hour - 75*time.Second), Undo: "revert"},
		{ID: "13", Kind: "refresh", Instance: "org.example.notes", FromVersion: "1.0", ToVersion: "1.1", FromRevision: 3, ToRevision: 4, Result: "undone",
			Error: "cannot refresh org.example.notes: its health check failed:\n\x1b[31mexit status 3", Began: at(30 * time.Hour), Ended: at(27 * time.Hour), Blocked: 2_500_000},
		{ID: "14", Kind: "remove", Instance: "org.example.old_work", FromVersion: "3.1", Repository: "local", Channel: "edge", Result: "done",
			Asked: true, UID: 0, User: "root", Began: at(time.Hour), Ended: at(time.Hour - 300*time.Millisecond), Undo: "install"},
	}
}

func (f *fakeAgent) Self(bus.Caller) (string, string, error) { return "org.example.notes", "", nil }

func (f *fakeAgent) Hold(_ bus.Caller, name string, until uint64, _ string) (uint64, error) {
	f.at("Hold")
	f.mu.Lock()
	defer f.mu.Unlock()
	if until == 0 {
		until = uint64(time.Now().Add(7 * 24 * time.Hour).UnixMicro())
	}
	if name == "org.none" {
		return 0, errkind.New(errkind.NotFound, "cannot hold org.none: it is not installed")
	}
	f.held[name] = until
	return until, nil
}

func (f *fakeAgent) Unhold(_ bus.Caller, name string) (uint64, string, error) {
	f.at("Unhold")
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.held[name] == 0 {
		return 0, "", nil
	}
	delete(f.held, name)
	return 0, "", nil
}

func (f *fakeAgent) Why(_ bus.Caller, what string) ([]bus.Chain, error) {
	f.at("Why")
	if what == "unknown" {
		return nil, nil
	}
	if f.chains != nil {
		return f.chains, nil
	}
	return []bus.Chain{
		{Index: "installed", Package: hashOf('a'), Through: hashOf('b'), Holder: "org.example.notes revision 3"},
		{Index: "open", Package: hashOf('a'), Holder: "run of org.example.notes", PID: 4711},
	}, nil
}

// Reload alternately refuses and accepts.
func (f *fakeAgent) Reload(bus.Caller) error {
	f.at("Reload")
	text := ""
	f.manager.Update(func(p *bus.ManagerProperties) {
		if p.PolicyError == "" {
			text = "/etc/lull/policy.yaml:7: cannot use this"
		}
		p.PolicyError = text
	})
	if text != "" {
		return errkind.New(errkind.BadPolicy, "%s", text).WithHint("mend it")
	}
	return nil
}

func (f *fakeAgent) Doctor(bus.Caller) ([]bus.Check, error) {
	f.at("Doctor")
	if f.checks != nil {
		return f.checks, nil
	}
	return []bus.Check{
		{Name: "tracker", State: "ok", Seen: "freezer, by inotify"},
		{Name: "repositories", State: "warn", Seen: "none", Advice: "add one with `lull repo add`"},
	}, nil
}

func (f *fakeAgent) Inspect(bus.Caller) (string, error) {
	f.at("Inspect")
	return cmp.Or(f.inspects, `{"runs":[],"indices":{}}`), nil
}

// ListInstalled lists what the objects show.
func (f *fakeAgent) ListInstalled(c bus.Caller) (list []bus.InstalledPackage, refreshes []dbus.ObjectPath, err error) {
	f.at("ListInstalled")
	all, err := bus.ManagedObjects(context.Background(), f.server.Conn(), bus.AgentName, bus.AgentPath)
	for path, object := range all {
		var r bus.RefreshProperties
		if object[bus.RefreshInterface] != nil && r.Apply(object[bus.RefreshInterface]) == nil && !output.Over(r.State) {
			refreshes = append(refreshes, path)
		}
		var v bus.PackageProperties
		if object[bus.PackageInterface] == nil || v.Apply(object[bus.PackageInterface]) != nil {
			continue
		}
		p := bus.InstalledPackage{Instance: v.Instance, Title: v.Title, Summary: v.Summary, Version: v.Version, Revision: v.Revision, Channel: v.Channel,
			Apps: v.Apps, Running: v.Running, Refresh: v.Refresh, HeldUntil: v.HeldUntil, UndoneVersion: v.UndoneVersion, NextTry: v.NextTry}
		for _, s := range v.Services {
			if s.State == "failed" {
				p.FailedServices = append(p.FailedServices, s.Name)
			}
		}
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b bus.InstalledPackage) int { return cmp.Compare(a.Instance, b.Instance) })
	return list, refreshes, err
}

// withholds sets the omitted versions.
func (f *fakeAgent) withholds(list ...bus.WithheldVersion) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.withheld = list
}

// repositories returns the addresses by name. The given ones replace them.
func (f *fakeAgent) repositories(replace map[string]string) map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if replace != nil {
		f.repos = replace
	}
	return maps.Clone(f.repos)
}

func (f *fakeAgent) AddAptRepository(_ bus.Caller, name, _ string, _ []byte, _ []string) error {
	f.at("AddAptRepository")
	return nil
}

func (f *fakeAgent) AddWatchedDirectory(_ bus.Caller, name, dir string) error {
	f.at("AddWatchedDirectory")
	f.mu.Lock()
	defer f.mu.Unlock()
	f.repos[name] = dir
	return nil
}

func (f *fakeAgent) AddRepository(_ bus.Caller, name, url string, _ []byte) error {
	f.at("AddRepository")
	f.mu.Lock()
	defer f.mu.Unlock()
	f.repos[name] = url
	return nil
}

func (f *fakeAgent) RemoveRepository(_ bus.Caller, name string) error {
	f.at("RemoveRepository")
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.repos[name] == "" {
		return errkind.New(errkind.NotFound, "cannot find repository %q", name)
	}
	delete(f.repos, name)
	return nil
}

func (f *fakeAgent) SetRepositoryURL(_ bus.Caller, name, url string) error {
	f.at("SetRepositoryURL")
	f.mu.Lock()
	defer f.mu.Unlock()
	f.repos[name] = url
	return nil
}

func (f *fakeAgent) Withheld(_ bus.Caller, names []string) (list []bus.WithheldVersion, err error) {
	f.at("Withheld")
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range f.withheld {
		if len(names) == 0 || slices.Contains(names, w.Instance) {
			list = append(list, w)
		}
	}
	return list, nil
}

func (f *fakeAgent) Open(_ bus.Caller, name string) (*os.File, *os.File, string, error) {
	f.at("Open")
	if name == "org.none" {
		return nil, nil, "", errkind.New(errkind.NotFound, "cannot open org.none: it is not installed").WithHint("`lull list` shows what is")
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

// monday is the time in tests whose output has times.
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
	f.space.at = f.at
	var err error
	f.server, err = bus.Serve(t.Context(), f.address, true)
	f.space.server = f.server
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
	f.system = bus.ExportSystem(fakeSystem{f: f}, bus.SystemProperties{State: "idle"})
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
func (c cancellable) Retry(bus.Caller) error  { return nil }

// begin makes a refresh object and applies steps to it, in order, after its method has
// returned.
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
		f.at("Cancel")
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
		if p := e.Values(); output.Over(p.State) {
			_ = f.server.Emit(bus.AgentPath, bus.ManagerRefreshFinished{Refresh: path, Instance: p.Instance, Result: p.State, Error: p.ErrorText})
			_ = f.server.Unexport(path)
		}
	}()
	return path, nil
}

// notes is the application that the tests use.
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

// usual is the course of most refreshes.
func (f *fakeAgent) usual(verb, name string) (dbus.ObjectPath, error) {
	set := func(change func(*bus.RefreshProperties)) func(*bus.RefreshProperties) { return change }
	waiting := []bus.Process{{PID: 123, UID: 64999, Command: "notes"}}
	first := bus.RefreshProperties{Kind: verb, Instance: name, State: "preparing", Step: "resolve", FromVersion: "1.0", ToVersion: "1.1"}
	switch verb + " " + name {
	case "install mousepad", "install editor", "install org.example.mousepd":
		return "", errkind.New(errkind.NotFound, "cannot install %s: no repository has it", name)
	case "install org.example.full":
		return "", errkind.New(errkind.NoSpace, "cannot install org.example.full: needs 5 GB, free are 2 GB, freeable 1 GB").WithHint("try `lull gc`")
	case "install org.example.broken":
		return f.begin("9", first, set(func(p *bus.RefreshProperties) {
			p.State, p.ErrorName = "undone", errkind.Prefix+string(errkind.Untrusted)
			p.ErrorText = "cannot install org.example.broken: its content is not what was signed"
		}))
	case "refresh org.example.busy", "remove org.example.busy":
		f.mu.Lock()
		f.pending = []bus.PendingRefresh{{ID: "8", AtDeadline: "side-by-side"}}
		f.mu.Unlock()
		return f.begin("8", first, set(func(p *bus.RefreshProperties) {
			p.State, p.Step, p.Waiting, p.Deadline = "waiting", "wait", waiting, micro(monday.Add(14*24*time.Hour))
		}))
	case "refresh org.example.current":
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
