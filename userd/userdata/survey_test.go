package userdata

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestSurvey: each directory has its kind and size, and Clean removes what is superseded
// and cut, and nothing else.
func TestSurvey(t *testing.T) {
	m := newMachine(t, t.TempDir(), 0)
	link := func(rev uint32) {
		no(t, os.MkdirAll(filepath.Join(m.Root, "current"), 0o755))
		os.Remove(filepath.Join(m.Root, "current", app))
		no(t, os.Symlink("../revisions/"+app+"/"+number(rev), filepath.Join(m.Root, "current", app)))
	}
	for rev := uint32(1); rev <= 4; rev++ {
		m.install(rev, rev-1, fmt.Sprint("v", rev))
		m.run(fmt.Sprint(rev))
	}
	link(4)
	no(t, os.WriteFile(filepath.Join(m.Base, "1", "large"), make([]byte, 100_000), 0o600))
	no(t, os.Mkdir(filepath.Join(m.Base, "9"), 0o700))
	no(t, os.Mkdir(filepath.Join(m.Base, ".5.partial"), 0o700))
	m.forget(1)
	m.forget(2)
	expect := func(want map[string]Kind) {
		t.Helper()
		list, err := Survey(t.Context(), m.Root, m.home)
		no(t, err)
		got := map[string]Kind{}
		for _, d := range list {
			got[filepath.Base(d.Path)] = d.Kind
			if d.Instance != app || filepath.Base(d.Path) == "1" && (d.Bytes < 100_000 || d.Bytes > 150_000) {
				t.Errorf("got %+v, want the instance %s, and 100000 to 150000 bytes for the data of revision 1", d, app)
			}
		}
		for name, kind := range want {
			if got[name] != kind {
				t.Errorf("%s is %q, want %q", name, got[name], kind)
			}
		}
		if len(got) != len(want) {
			t.Errorf("got %v, want %v of them", got, len(want))
		}
	}
	all := map[string]Kind{"1": Superseded, "2": Superseded, "3": Kept, "4": InUse, "9": Foreign, "common": InUse, ".5.partial": Unfinished}
	expect(all)
	freed, err := Clean(t.Context(), m.Root, m.home)
	no(t, err)
	if freed < 100_000 {
		t.Errorf("freed %d bytes, want at least 100000", freed)
	}
	delete(all, "1")
	delete(all, "2")
	delete(all, ".5.partial")
	expect(all)
	// Of a revision that has not run, nothing is superseded yet.
	m.install(5, 4, "v5")
	link(5)
	m.forget(3)
	unlock, err := m.Lock(t.Context(), nil)
	no(t, err)
	no(t, m.Migrate(t.Context(), 5, nil, nil))
	unlock()
	if freed, err := Clean(t.Context(), m.Root, m.home); err != nil || freed != 0 {
		t.Errorf("freed %d, want 0, %v", freed, err)
	}
	no(t, os.Remove(filepath.Join(m.Root, "current", app)))
	expect(map[string]Kind{"3": Left, "4": Left, "5": Left, "9": Foreign, "common": Left})
	if list, err := Survey(t.Context(), m.Root, t.TempDir()); err != nil || len(list) != 0 {
		t.Errorf("a home without data: %v, %v", list, err)
	}
}
