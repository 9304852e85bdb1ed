package refresh

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/e2e/require"
)

// TestUndoneDataThatStays: a service of the new revision has mounted something in its data.
// The undoing succeeds all the same, touches nothing in the mount, and what is left goes with
// a later refresh.
func TestUndoneDataThatStays(t *testing.T) {
	require.Root(t)
	root := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	places := func() []string {
		t.Helper()
		list, err := filepath.Glob(filepath.Join(root, "data/notes/2*/mounted"))
		must(err)
		return list
	}
	mounted := filepath.Join(root, "data/notes/2/mounted")
	must(os.MkdirAll(mounted, 0o755))
	must(unix.Mount("lull-test", mounted, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=1m"))
	unmount := func() {
		for _, path := range places() {
			if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && err != unix.EINVAL { // not mounted any more
				t.Error(err)
			}
		}
	}
	t.Cleanup(unmount)
	must(os.WriteFile(filepath.Join(mounted, "precious"), nil, 0o600))

	e := NewEngine(World{Root: root, Log: slog.New(slog.DiscardHandler)})
	if err := undoCopy(t.Context(), &task{e: e, r: plan.Refresh{Instance: "notes", To: 2}}); err != nil {
		t.Errorf("undoing the copy: got %v, want no error", err)
	}
	if _, err := os.Lstat(e.dataDir("notes", 2)); !os.IsNotExist(err) {
		t.Errorf("the data of revision 2: got %v, want that it is not there", err)
	}
	aside := places()
	if len(aside) != 1 {
		t.Fatalf("set aside are %v, want one directory", aside)
	}
	if _, err := os.Lstat(filepath.Join(aside[0], "precious")); err != nil {
		t.Errorf("what is in the mount: got %v, want that it is untouched", err)
	}
	if err := e.pruneData("notes", nil); err != nil {
		t.Errorf("while it is mounted: got %v, want no error", err)
	}
	unmount()
	must(e.pruneData("notes", []uint32{1, 2}))
	if left, err := os.ReadDir(filepath.Join(root, "data/notes")); err != nil || len(left) > 0 {
		t.Errorf("after it is unmounted there are %v, %v; want nothing", left, err)
	}
}
