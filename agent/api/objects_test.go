package api

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lull/lull/agent/authz"
	"github.com/lull/lull/agent/current"
	"github.com/lull/lull/agent/lib/runctl"
	"github.com/lull/lull/agent/manager"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/storetest"
	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/dbus/bustest"
	"github.com/lull/lull/e2e/isolate"
	"github.com/lull/lull/e2e/require"
)

func TestMain(m *testing.M) { os.Exit(isolate.Main(isolate.Unified, m.Run)) }

// passes counts the readings of a tracker.
type passes struct {
	runs.Tracker
	snapshots, single atomic.Int64
}

func (p *passes) Snapshot() (*runs.Snapshot, error) {
	p.snapshots.Add(1)
	return p.Tracker.Snapshot()
}

func (p *passes) Busy(instance string) ([]runs.Process, error) {
	p.single.Add(1)
	return p.Tracker.Busy(instance)
}

// TestOnePass: the cgroups are read once for all packages, at the start and at each
// GetManagedObjects, at most once at a change of some or all, and never for ListInstalled.
// The latter two read no file of a package.
func TestOnePass(t *testing.T) {
	require.Unified(t)
	const count = 20
	root, run := t.TempDir(), t.TempDir()
	install(t, root, count)
	ctl, err := runctl.Create(run)
	if err != nil {
		t.Fatal(err)
	}
	tracker, err := runs.Choose(runs.Options{RunDir: run, Want: "subtree", Log: slog.Default()})
	if err != nil {
		t.Fatal(err)
	}
	defer tracker.Close()
	counted := &passes{Tracker: tracker}
	o := NewObserver(func() {})
	m, err := manager.New(manager.Config{Root: root, Conf: t.TempDir(), RunDir: run, Launcher: "/bin/true", Runctl: ctl, Tracker: counted, Log: slog.Default()}, o)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	server, err := bus.Serve(t.Context(), bustest.Start(t), false)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	server.Manage(bus.AgentPath)
	unreadable := func() {
		if err := os.Rename(filepath.Join(root, "packages"), filepath.Join(root, "elsewhere")); err != nil {
			t.Error(err)
		}
	}
	s := &Service{m: m, server: server, auth: authz.New(server.Conn(), 0), log: slog.Default(), ctx: t.Context()}
	w := newObjects(s)
	for _, c := range []struct {
		what  string
		least int64
		most  int64
		do    func()
	}{
		{"the start", 1, 1, func() { w.packages(map[string]bool{"": true}) }},
		{"a change of all", 0, 1, func() { w.packages(map[string]bool{"": true, "org.lull.p3": true}) }},
		{"a change of some", 0, 1, func() { w.packages(map[string]bool{"org.lull.p1": true, "org.lull.p3": true}) }},
		{"all objects", 1, 1, func() {
			unreadable()
			all, err := bus.ManagedObjects(t.Context(), server.Conn(), server.Conn().Names()[0], bus.AgentPath)
			if err != nil || len(all) != count {
				t.Errorf("%d objects: %v; want no error and %v all", len(all), err, count)
			}
		}},
		{"a list", 0, 0, func() {
			for _, state := range []string{"waiting", "done", "undone", "failed", "cancelled"} {
				w.refreshes[state] = bus.ExportRefresh(nil, bus.RefreshProperties{State: state})
			}
			list, refreshes := w.list()
			if len(list) != count || len(refreshes) != 1 || refreshes[0] != bus.RefreshPath("waiting") || list[0].Instance != "org.lull.p0" || list[0].Version != "1" || list[0].Refresh != "/" {
				t.Errorf("got %d packages, beginning with %+v, and refreshes %v; want %d, beginning with org.lull.p0 of version 1 without a refresh, and %s alone", len(list), list[:min(1, len(list))], refreshes, count, bus.RefreshPath("waiting"))
			}
		}},
	} {
		counted.snapshots.Store(0)
		counted.single.Store(0)
		c.do()
		if n, single := counted.snapshots.Load(), counted.single.Load(); n < c.least || n > c.most || single != 0 {
			t.Errorf("%s: got %d readings of all cgroups and %d of one, want %d to %d and none", c.what, n, single, c.least, c.most)
		}
	}
}

// install makes current one revision of each of several packages.
func install(t *testing.T, root string, count int) {
	s, err := store.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	links, err := current.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	db, err := state.Open(filepath.Join(root, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	r := storetest.New()
	for i := range count {
		name := fmt.Sprintf("org.lull.p%d", i)
		pkg := r.Package(t, storetest.Spec{Name: name})
		r.Put(t, s, pkg)
		err := links.Add(name, 1, pkg, 0)
		if err == nil {
			err = links.Swap(name, 1)
		}
		if err == nil {
			err = db.UpdateInstance(name, func(i *state.Instance) error {
				i.Last, i.Revisions = 1, []state.Revision{{Number: 1, Package: pkg, Version: "1", Made: time.Now()}}
				return nil
			})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
