package userdata

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/agent/lib/storeid"
)

// machine is a store with an identity, and a home that it may share.
type machine struct {
	*testing.T
	Place
	home string
	last uint32 // the current revision
}

// newMachine makes a store; adopt is the highest revision that it had given out before
// it had an identity.
func newMachine(t *testing.T, home string, adopt uint32) *machine {
	t.Helper()
	root := t.TempDir()
	last := map[string]uint32{}
	if adopt > 0 {
		last[app] = adopt
	}
	_, _, err := storeid.Ensure(root, storeid.ID{Adopt: last})
	no(t, err)
	return &machine{T: t, Place: Of(root, home, app), home: home}
}

// install makes a revision of a package current.
func (m *machine) install(rev, from uint32, pkg string) {
	m.Helper()
	dir := filepath.Join(m.Root, "revisions", app)
	no(m.T, os.MkdirAll(dir, 0o755))
	no(m.T, os.Symlink("../../packages/"+pkg, filepath.Join(dir, number(rev))))
	if from != 0 {
		no(m.T, os.WriteFile(filepath.Join(dir, number(rev)+".from"), fmt.Appendln(nil, from), 0o644))
	}
	m.last = rev
}

// forget is what the agent does with a revision that policy does not keep.
func (m *machine) forget(rev uint32) {
	m.Helper()
	dir := filepath.Join(m.Root, "revisions", app)
	no(m.T, os.Remove(filepath.Join(dir, number(rev))))
	os.Remove(filepath.Join(dir, number(rev)+".from"))
}

// run launches: it reads the document, and writes a line behind it, if there is one.
func (m *machine) run(line string) (before string) {
	m.Helper()
	_, err := m.MakeCommon(m.Context(), Hooks{})
	no(m.T, err)
	d, err := m.Enter(m.Context(), m.last, Hooks{})
	no(m.T, err)
	no(m.T, d.Note)
	file := filepath.Join(d.Dir, "document")
	b, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		m.Fatal(err)
	}
	if line != "" {
		no(m.T, os.WriteFile(file, append(b, line+" "...), 0o600))
	}
	return strings.TrimSpace(string(b))
}

// shows fails unless a launch finds this document.
func (m *machine) shows(want string) {
	m.Helper()
	if got := m.run(""); got != want {
		m.Errorf("revision %d shows %q, want %q", m.last, got, want)
	}
}

// directories lists what is there, and that there is nothing half-made.
func directories(t *testing.T, base string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(base)
	no(t, err)
	for _, e := range entries {
		if _, ok := parseName(e.Name()); ok {
			list = append(list, e.Name())
		} else if e.Name() != "common" && e.Name() != ".lock" && e.Name() != records {
			t.Errorf("left: %s", e.Name())
		}
	}
	return list
}

// TestPurgedAndInstalledAgain: the numbers of a new store start over in a home that has
// the data of another. The newest is taken over, nothing is changed or removed.
func TestPurgedAndInstalledAgain(t *testing.T) {
	for _, samePackage := range []bool{false, true} {
		home := t.TempDir()
		old := newMachine(t, home, 0)
		for rev := uint32(1); rev <= 5; rev++ {
			old.install(rev, rev-1, fmt.Sprint("v", rev))
			old.run(fmt.Sprint(rev))
		}
		before := directories(t, old.Base)
		again := newMachine(t, home, 0)
		pkg := "v6"
		if samePackage {
			pkg = "v5"
		}
		again.install(1, 0, pkg)
		again.shows("1 2 3 4 5")
		again.run("6")
		for rev := uint32(2); rev <= 4; rev++ {
			again.install(rev, rev-1, fmt.Sprint("w", rev))
			again.run(fmt.Sprint(rev + 5))
		}
		again.shows("1 2 3 4 5 6 7 8 9")
		for i, want := range []string{"1", "1 2", "1 2 3", "1 2 3 4"} {
			b, err := os.ReadFile(filepath.Join(old.Base, before[i], "document"))
			if err != nil || strings.TrimSpace(string(b)) != want {
				t.Errorf("the data of %s has become %q (error %v), want %q", before[i], b, err, want)
			}
		}
	}
}

// TestWithoutRecords: what was there before there were records belongs to the store
// that had given the numbers out by then; to another one it is foreign.
func TestWithoutRecords(t *testing.T) {
	for _, c := range []struct {
		name    string
		adopt   uint32
		rev     uint32
		from    uint32
		want    string
		dirs    []string
		adopted bool
	}{
		{"upgraded", 3, 3, 2, "of 3", []string{"1", "2", "3"}, true},
		{"upgraded, then refreshed", 3, 4, 3, "of 3", []string{"1", "2", "3", "4"}, false},
		{"purged and installed again", 0, 1, 0, "of 3", []string{"1", "1.", "2", "3"}, false},
		{"upgraded, and the home has seen another store", 2, 2, 1, "of 2", []string{"1", "2", "3"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			home := t.TempDir()
			m := newMachine(t, home, c.adopt)
			for rev := 1; rev <= 3; rev++ {
				dir := filepath.Join(m.Base, fmt.Sprint(rev))
				no(t, os.MkdirAll(dir, 0o700))
				no(t, os.WriteFile(dir+"/document", fmt.Appendf(nil, "of %d", rev), 0o600))
				// By the clock the first is the newest.
				no(t, os.Chtimes(dir, time.Now(), time.Now().Add(-time.Duration(rev)*time.Hour)))
			}
			m.install(c.rev, c.from, "p")
			m.shows(c.want)
			got := directories(t, m.Base)
			for i := range got {
				if i < len(c.dirs) && strings.HasSuffix(c.dirs[i], ".") {
					got[i] = strings.TrimSuffix(got[i], m.short())
				}
			}
			if !slices.Equal(got, c.dirs) {
				t.Errorf("there are %q, want %q", got, c.dirs)
			}
			if _, err := readRecord(m.Base, number(c.rev)); (err == nil) != (c.adopted || c.rev == 4) {
				t.Errorf("the record of revision %d: got error %v, want one to exist: %v", c.rev, err, c.adopted || c.rev == 4)
			}
		})
	}
}

// TestTwoMachinesOneHome: they alternate, refresh at different times, and each shows
// what was done last, on whichever of them.
func TestTwoMachinesOneHome(t *testing.T) {
	home := t.TempDir()
	a, b := newMachine(t, home, 0), newMachine(t, home, 7)
	a.install(1, 0, "p1")
	a.run("a1")
	b.install(8, 0, "p1")
	if got := b.run("b1"); got != "a1" {
		t.Errorf("b shows %q, want a1", got)
	}
	if got := a.run("a2"); got != "a1 b1" {
		t.Errorf("a shows %q, want a1 b1", got)
	}
	if d := directories(t, a.Base); len(d) != 1 {
		t.Errorf("one package has %q; want 1 of them", d)
	}
	// Only b refreshes. Each has its version's data, and no launch changes the other's.
	b.install(9, 8, "p2")
	if got := b.run("b2"); got != "a1 b1 a2" {
		t.Errorf("b shows %q, want a1 b1 a2", got)
	}
	a.shows("a1 b1 a2")
	a.run("a3")
	b.shows("a1 b1 a2 b2")
	// a refreshes to the same: what b has is the newest, and of the same package.
	a.install(2, 1, "p2")
	a.shows("a1 b1 a2 b2")
	// b does not keep its revision 8 any more; a needs its data still.
	b.forget(8)
	b.run("")
	b.run("")
	a.last = 1
	a.shows("a1 b1 a2 a3")
}

// TestCloned: two machines made of one image with one identity give the same number to
// different packages.
func TestCloned(t *testing.T) {
	home := t.TempDir()
	a := newMachine(t, home, 0)
	a.install(1, 0, "p1")
	a.run("1")
	clone := &machine{T: t, Place: Place{Root: t.TempDir(), Base: a.Base, Instance: app, store: a.store}, home: home}
	clone.install(1, 0, "p1")
	clone.shows("1")
	a.install(2, 1, "p2")
	a.run("a2")
	clone.install(2, 1, "q2")
	if got := clone.run("c2"); strings.Contains(got, "a2") && got != "1 a2" || !strings.HasPrefix(got, "1") {
		t.Errorf("the clone shows %q, want data that begins with 1, and a2 only as %q", got, "1 a2")
	}
	a.shows("1 a2")
	clone.install(3, 2, "q3")
	clone.shows("1 c2")
	if d := directories(t, a.Base); !slices.Contains(d, "2") || !slices.Contains(d, "2."+a.short()) {
		t.Errorf("there are %q, want 2 and %q among them", d, "2."+a.short())
	}
}

// TestClockBack: what is the newest does not depend on times.
func TestClockBack(t *testing.T) {
	home := t.TempDir()
	old := newMachine(t, home, 0)
	for rev := uint32(1); rev <= 3; rev++ {
		old.install(rev, rev-1, fmt.Sprint("v", rev))
		old.run(fmt.Sprint(rev))
		when := time.Now().AddDate(-int(rev), 0, 0)
		for _, path := range []string{number(rev), number(rev) + "/document", ".lull/" + number(rev) + ".json"} {
			no(t, os.Chtimes(filepath.Join(old.Base, path), when, when))
		}
	}
	again := newMachine(t, home, 0)
	again.install(1, 0, "x")
	again.shows("1 2 3")
}

// TestRevertedDataIsNoAncestor: a launch after a revert makes the older data the newest;
// without one, the chain of the store still determines the next data.
func TestRevertedDataIsNoAncestor(t *testing.T) {
	for _, launched := range []bool{true, false} {
		m := newMachine(t, t.TempDir(), 0)
		m.install(1, 0, "p1")
		m.run("1")
		m.install(2, 1, "p2")
		m.run("2")
		m.last = 1
		want := "1"
		if launched {
			m.run("back")
			want = "1 back"
		}
		m.install(3, 1, "p3")
		m.shows(want)
	}
}

// TestAgentOfOnesOwn: it has its own directory, and takes over what it had shared with
// the system's agent before, without touching that.
func TestAgentOfOnesOwn(t *testing.T) {
	home, apart := t.TempDir(), filepath.Join(t.TempDir(), "data", "lull-user")
	system := newMachine(t, home, 0)
	for _, path := range []string{"2/document", "common/settings"} { // the rootless agent's, without records
		no(t, os.MkdirAll(filepath.Dir(filepath.Join(system.Base, path)), 0o700))
		no(t, os.WriteFile(filepath.Join(system.Base, path), []byte("rootless "), 0o600))
	}
	system.install(1, 0, "p1")
	system.run("system") // takes over what is there, as it did before
	root := t.TempDir()
	_, _, err := storeid.Ensure(root, storeid.ID{UserData: apart, Adopt: map[string]uint32{app: 2}})
	no(t, err)
	own := &machine{T: t, Place: Of(root, home, app), home: home}
	own.install(2, 1, "p1")
	own.shows("rootless")
	own.run("own")
	own.install(3, 2, "p3")
	own.shows("rootless own")
	system.shows("rootless system")
	if got := directories(t, filepath.Join(apart, app)); !slices.Equal(got, []string{"2", "3"}) {
		t.Errorf("there are %q; want %v", got, []string{"2", "3"})
	}
	if b, err := os.ReadFile(filepath.Join(apart, app, "common/settings")); err != nil || string(b) != "rootless " {
		t.Errorf("%q, %v; want no error and content %q", b, err, "rootless ")
	}
	// One that had nothing there takes nothing.
	root = t.TempDir()
	_, _, err = storeid.Ensure(root, storeid.ID{UserData: t.TempDir()})
	no(t, err)
	fresh := &machine{T: t, Place: Of(root, home, app), home: home}
	fresh.install(1, 0, "p1")
	fresh.shows("")
}

// TestDamagedRecord: a record that cannot be read makes a directory a foreign one: it
// is copied, and never lost.
func TestDamagedRecord(t *testing.T) {
	for _, text := range []string{"", "{", "{}", "null", strings.Repeat("x", maxRecord+1)} {
		m := newMachine(t, t.TempDir(), 0)
		m.install(1, 0, "p1")
		m.run("1")
		no(t, os.WriteFile(recordPath(m.Base, "1"), []byte(text), 0o600))
		m.shows("1")
		m.install(2, 1, "p2")
		m.shows("1")
		if b, err := os.ReadFile(m.Base + "/1/document"); err != nil || string(b) != "1 " {
			t.Errorf("%q: %q, %v; want no error and content %q", text, b, err, "1 ")
		}
	}
}

// TestRecordsOfOthers: what another program has put in the place of records harms
// nothing.
func FuzzRecord(f *testing.F) {
	b, err := json.Marshal(record{ID: "1", Uses: []Use{{"s", 1}}, Counter: 1, Complete: true, Missing: []Missing{{"a", "b", "../../c"}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		m := newMachine(t, t.TempDir(), 0)
		m.install(1, 0, "p1")
		m.run("1")
		no(t, os.WriteFile(recordPath(m.Base, "1"), b, 0o600))
		m.install(2, 1, "p2")
		if _, err := m.Enter(t.Context(), 2, Hooks{}); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(m.Base + "/1/document"); err != nil || string(b) != "1 " {
			t.Fatalf("%q, %v; want no error and content %q", b, err, "1 ")
		}
	})
}
