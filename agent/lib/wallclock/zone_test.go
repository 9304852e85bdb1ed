package wallclock

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
)

// TestZone: the zone follows the file, whether a link to the database or a copy of one of its
// files, and stays while the file is missing or no zone.
func TestZone(t *testing.T) {
	const database = "/usr/share/zoneinfo/"
	require.File(t, database+"Asia/Kolkata")
	path := filepath.Join(t.TempDir(), "localtime")
	z := zone{path: path}
	at := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	shows := func(want string) {
		t.Helper()
		if got := at.In(z.now()).Format("15:04"); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	replace := func(make func(path string) error) {
		t.Helper()
		if err := make(path + ".new"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	shows(at.In(time.Local).Format("15:04"))
	replace(func(p string) error { return os.Symlink(database+"Asia/Kolkata", p) })
	shows("17:30")
	replace(func(p string) error { return os.Symlink(database+"America/New_York", p) })
	shows("08:00")
	replace(func(p string) error {
		b, err := os.ReadFile(database + "Europe/Berlin")
		if err != nil {
			return err
		}
		return os.WriteFile(p, b, 0o644)
	})
	shows("14:00")
	replace(func(p string) error { return os.WriteFile(p, []byte("no zone"), 0o644) })
	shows("14:00")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	shows("14:00")
}
