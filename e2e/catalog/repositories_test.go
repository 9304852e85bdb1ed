package catalog_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull/lull/agent/lib/errkind"
	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

// TestRepositoriesOnTheBus: a program adds repositories, changes the address of one, switches an
// installed package to another and removes one. A repository that cannot be read fails the
// update of its own packages alone.
func TestRepositoriesOnTheBus(t *testing.T) {
	require.Cgroups(t)
	require.Program(t, "dbus-daemon", "setpriv")
	w := rig.New(t, rig.Options{Tracker: "poll"})
	w.Configure("policy.yaml", rig.Quiet+rig.Asked)
	one, two := w.Path("one"), w.Path("two")
	for dir, version := range map[string]string{one: "1", two: "2"} {
		w.MustLull("repo", "init", dir)
		publish(w, dir, "stable", version)
	}
	w.StartAgent()
	ctx, m := t.Context(), bus.NewManagerProxy(w.Bus.Connect(), bus.AgentPath)
	add := func(name, dir string) {
		t.Helper()
		root, err := os.ReadFile(filepath.Join(dir, "root.json"))
		if err == nil {
			err = m.AddRepository(ctx, name, dir, root)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	addresses := func(want ...bus.RepositoryAddress) {
		t.Helper()
		got, err := m.GetRepositories(ctx)
		if err != nil || len(got) != len(want) {
			t.Fatalf("the repositories are %v, want %v; %v", got, want, err)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("the repositories are %v, want %v", got, want)
			}
		}
	}
	from := func(version, repository string) {
		t.Helper()
		p, _ := w.Bus.Watch().Package(name)
		if p.Str("Version") != version || p.Str("Repository") != repository {
			t.Errorf("it is version %s from %s, want %s from %s", p.Str("Version"), p.Str("Repository"), version, repository)
		}
	}
	add("one", one)
	w.MustLull("install", name)
	add("two", two)
	addresses(bus.RepositoryAddress{Name: "one", URL: one}, bus.RepositoryAddress{Name: "two", URL: two})
	from("1", "one")
	// A name that is bound to a repository is not resolved from another one.
	fds, err := bus.DialFDs(ctx, w.Bus.Address, true)
	if err != nil {
		t.Fatal(err)
	}
	defer fds.Close()
	dir, lease, _, version, err := bus.NewManagerProxy(fds, bus.AgentPath).Resolve(ctx, name, bus.ResolveOptions{})
	if version != "1" || err != nil {
		t.Errorf("version %q, %v; want 1, which one offers", version, err)
	} else if err := errors.Join(dir.Close(), lease.Close()); err != nil {
		t.Error(err)
	}
	if err := m.Switch(ctx, name, bus.SwitchOptions{Repository: "two"}); err != nil {
		t.Fatal(err)
	}
	if updates, failed, err := m.ListUpdates(ctx, nil, bus.ListUpdatesOptions{Read: true}); err != nil || len(failed) != 0 || len(updates) != 1 ||
		updates[0].Repository != "two" || updates[0].Version != "2" || updates[0].Fetch == 0 || updates[0].Write == 0 {
		t.Errorf("ListUpdates: got updates %+v, failed %+v and error %v; want version 2 of repository two, with its sizes, none failed and no error", updates, failed, err)
	}
	w.MustLull("refresh", name)
	from("2", "two")

	// The same repository at another address is taken, another one in its place is not.
	moved := w.Path("moved")
	if err := os.Rename(two, moved); err != nil {
		t.Fatal(err)
	}
	if err := m.SetRepositoryURL(ctx, "two", one); !errkind.Is(bus.FromBus(err), errkind.Untrusted) {
		t.Errorf("another repository is taken for it: got %v, want an error of kind %v", err, errkind.Untrusted)
	}
	addresses(bus.RepositoryAddress{Name: "one", URL: one}, bus.RepositoryAddress{Name: "two", URL: two})

	// While one is unreadable, each name has its own result.
	w.MustLull("install", "--repository", "one", "--key", "own", name)
	publish(w, one, "stable", "3")
	results, err := m.RefreshEach(ctx, nil, bus.RefreshEachOptions{})
	if err != nil || len(results) != 2 {
		t.Fatalf("got %+v %v, want no error and 2 results", results, err)
	}
	for _, r := range results {
		switch r.Instance {
		case name:
			if r.ErrorName != errkind.Prefix+string(errkind.Unavailable) || r.Refresh != "" || !strings.Contains(r.Error, "two") {
				t.Errorf("got %+v, want error %v, no refresh and %q in the error", r, errkind.Prefix+string(errkind.Unavailable), "two")
			}
		default:
			if r.ErrorName != "" || r.Refresh == "" {
				t.Errorf("got %+v, want no error and some refresh", r)
			}
		}
	}

	// A request to one repository is answered from there or not at all, although the same
	// name of another one is present.
	three := w.Path("three")
	w.MustLull("repo", "init", three)
	publish(w, three, "stable", "4")
	add("three", three)
	if err := os.RemoveAll(three); err != nil {
		t.Fatal(err)
	}
	if _, _, _, version, err := m.Resolve(ctx, name, bus.ResolveOptions{Repository: "three"}); !errkind.Is(bus.FromBus(err), errkind.Unavailable) {
		t.Errorf("it is version %q: %v; want an error of kind %v", version, err, errkind.Unavailable)
	}
	if err := m.RemoveRepository(ctx, "three"); err != nil {
		t.Error(err)
	}

	if err := m.SetRepositoryURL(ctx, "two", moved); err != nil {
		t.Error(err)
	}
	addresses(bus.RepositoryAddress{Name: "one", URL: one}, bus.RepositoryAddress{Name: "two", URL: moved})
	if err := m.RemoveRepository(ctx, "two"); err != nil {
		t.Error(err)
	}
	addresses(bus.RepositoryAddress{Name: "one", URL: one})
	if err := m.RemoveRepository(ctx, "two"); !errkind.Is(bus.FromBus(err), errkind.NotFound) {
		t.Errorf("got %v, want an error of kind %v", err, errkind.NotFound)
	}
	from("2", "two") // it stays, without updates
}
