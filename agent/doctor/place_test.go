package doctor

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lull/lull/e2e/require"
)

// TestPlace: a store on a noexec mount, below a home, and behind a
// symbolic link.
func TestPlace(t *testing.T) {
	require.Root(t)
	d := &Doctor{Root: t.TempDir()}
	expect := func(state, seen string) {
		t.Helper()
		d.checkPlace(func(_, got, text, advice string) {
			if got != state || !strings.Contains(text, seen) || (got == OK) != (advice == "") {
				t.Errorf("the doctor reports %s: %s (%s), want %s: %s", got, text, advice, state, seen)
			}
		})
	}
	root := d.Root
	expect(OK, root)

	top := t.TempDir()
	home := filepath.Join(top, "home")
	if err := os.MkdirAll(home+"/lull", 0o755); err != nil {
		t.Fatal(err)
	}
	d.Root = home + "/lull"
	expect(OK, d.Root)
	if err := os.Chown(home, 1234, 1234); err != nil {
		t.Fatal(err)
	}
	expect(Warn, "below "+home+", which belongs to user 1234")
	d.User = true
	expect(OK, d.Root)
	d.User = false

	link := filepath.Join(top, "link")
	if err := os.Symlink(home+"/lull", link); err != nil {
		t.Fatal(err)
	}
	d.Root = link
	expect(Warn, link+", by a symbolic link "+home+"/lull is below "+home)
	if err := os.Chown(home, 0, 0); err != nil {
		t.Fatal(err)
	}
	expect(OK, link+", by a symbolic link "+home+"/lull")
	if err := os.Chmod(home, 0o777); err != nil {
		t.Fatal(err)
	}
	expect(Warn, "which everybody can write to")

	if err := syscall.Mount("lull-test", home, "tmpfs", syscall.MS_NOEXEC, "size=64k"); err != nil {
		t.Fatal(err)
	}
	defer syscall.Unmount(home, syscall.MNT_DETACH)
	if err := os.Mkdir(home+"/lull", 0o755); err != nil {
		t.Fatal(err)
	}
	expect(Fail, "mounted noexec")
	d.Root = root
}
