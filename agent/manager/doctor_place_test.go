package manager

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lull/lull/e2e/require"
)

// TestDoctorLooksAtThePlace: a store on a noexec mount, below a home, and behind a
// symbolic link.
func TestDoctorLooksAtThePlace(t *testing.T) {
	require.Root(t)
	m := newManager(t, "schedule: {check: 0}\n")
	expect := func(state, seen string) {
		t.Helper()
		if c := verdict(t, m, "place"); c.State != state || !strings.Contains(c.Seen, seen) {
			t.Errorf("%+v, want %s %s", c, state, seen)
		}
	}
	root := m.Root
	expect(checkOK, root)

	top := t.TempDir()
	home := filepath.Join(top, "home")
	if err := os.MkdirAll(home+"/lull", 0o755); err != nil {
		t.Fatal(err)
	}
	m.Root = home + "/lull"
	expect(checkOK, m.Root)
	if err := os.Chown(home, 1234, 1234); err != nil {
		t.Fatal(err)
	}
	expect(checkWarn, "below "+home+", which belongs to user 1234")
	m.User = true
	expect(checkOK, m.Root)
	m.User = false

	link := filepath.Join(top, "link")
	if err := os.Symlink(home+"/lull", link); err != nil {
		t.Fatal(err)
	}
	m.Root = link
	expect(checkWarn, link+", by a symbolic link "+home+"/lull is below "+home)
	if err := os.Chown(home, 0, 0); err != nil {
		t.Fatal(err)
	}
	expect(checkOK, link+", by a symbolic link "+home+"/lull")
	if err := os.Chmod(home, 0o777); err != nil {
		t.Fatal(err)
	}
	expect(checkWarn, "which everybody can write to")

	if err := syscall.Mount("lull-test", home, "tmpfs", syscall.MS_NOEXEC, "size=64k"); err != nil {
		t.Fatal(err)
	}
	defer syscall.Unmount(home, syscall.MNT_DETACH)
	if err := os.Mkdir(home+"/lull", 0o755); err != nil {
		t.Fatal(err)
	}
	expect(checkFail, "mounted noexec")
	m.Root = root
}
