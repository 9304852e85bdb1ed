package manager

import (
	"path/filepath"
	"testing"

	"github.com/lull/lull/agent/lib/storeid"
	"github.com/lull/lull/agent/state"
)

// TestIdentity: the identity is made once, with the revisions assigned before. The data
// directory of a user's own agent does not follow the environment later.
func TestIdentity(t *testing.T) {
	m := newManager(t, "schedule: {check: 0}\n")
	first, err := storeid.Read(m.Root)
	if err != nil || first.UserData != "" {
		t.Fatalf("%+v, %v; want no error and no user data", first, err)
	}
	if err := m.identify(); err != nil {
		t.Fatal(err)
	}
	if again, err := storeid.Read(m.Root); err != nil || again.ID != first.ID {
		t.Errorf("%+v, %v; want no error and %v", again, err, first.ID)
	}

	m.Root = t.TempDir()
	m.User = true
	data := t.TempDir()
	t.Setenv("XDG_DATA_HOME", data)
	if err := m.state.UpdateInstance("org.app", func(i *state.Instance) error { i.Last = 7; return nil }); err != nil {
		t.Fatal(err)
	}
	for _, later := range []string{data, t.TempDir(), "relative"} {
		t.Setenv("XDG_DATA_HOME", later)
		if err := m.identify(); err != nil {
			t.Fatal(err)
		}
		id, err := storeid.Read(m.Root)
		if err != nil || id.UserData != filepath.Join(data, "lull-user") || id.Adopt["org.app"] != 7 || id.ID == first.ID {
			t.Errorf("with %s: got %+v, %v; want user data %s, org.app at 7 and another ID than %s", later, id, err, filepath.Join(data, "lull-user"), first.ID)
		}
	}
	home := t.TempDir()
	t.Setenv("HOME", home)
	for _, unset := range []string{"", "relative"} {
		t.Setenv("XDG_DATA_HOME", unset)
		if dir, err := ownUserData(); err != nil || dir != filepath.Join(home, ".local/share/lull-user") {
			t.Errorf("%q: %s, %v; want no error and dir %v", unset, dir, err, filepath.Join(home, ".local/share/lull-user"))
		}
	}
}
