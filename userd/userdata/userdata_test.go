package userdata

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/e2e/require"
)

const app = "org.lull.app"

// place is one with revisions (revision → from; 0 if it took nothing over), and data of some.
func place(t *testing.T, home string, chain map[uint32]uint32, has ...uint32) Place {
	t.Helper()
	root := t.TempDir()
	p := Of(root, home, app)
	dir := filepath.Join(root, "revisions", app)
	no(t, os.MkdirAll(dir, 0o755))
	for rev, from := range chain {
		name := filepath.Join(dir, strconv.Itoa(int(rev)))
		no(t, os.Symlink("../../packages/x", name))
		if from != 0 {
			no(t, os.WriteFile(name+".from", fmt.Appendln(nil, from), 0o644))
		}
	}
	no(t, os.MkdirAll(p.Common(), 0o700))
	for _, rev := range has {
		no(t, os.Mkdir(dirOf(p, rev), 0o700))
		no(t, os.WriteFile(dirOf(p, rev)+"/file", fmt.Appendf(nil, "of %d", rev), 0o600))
	}
	return p
}

func dirOf(p Place, rev uint32) string { return filepath.Join(p.Base, number(rev)) }

func has(p Place, rev uint32) bool {
	_, err := os.Lstat(dirOf(p, rev))
	return err == nil
}

func no(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, p Place, rev uint32) string {
	t.Helper()
	b, err := os.ReadFile(dirOf(p, rev) + "/file")
	no(t, err)
	return string(b)
}

// hidden lists what is there beside revisions and common.
func hidden(t *testing.T, p Place) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(p.Base)
	no(t, err)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names
}

// TestAncestor walks the chain of .from files and its gaps.
func TestAncestor(t *testing.T) {
	for _, c := range []struct {
		name  string
		chain map[uint32]uint32
		has   []uint32
		rev   uint32
		want  uint32
	}{
		{"the one before", map[uint32]uint32{1: 0, 2: 1}, []uint32{1}, 2, 1},
		{"none", map[uint32]uint32{1: 0}, nil, 1, 0},
		{"a fresh start", map[uint32]uint32{5: 0}, []uint32{3}, 5, 0},
		{"skipped revisions", map[uint32]uint32{1: 0, 2: 1, 3: 2, 4: 3}, []uint32{1}, 4, 1},
		{"past a reverted one", map[uint32]uint32{1: 0, 2: 1, 3: 1}, []uint32{1, 2}, 3, 1},
		{"forgotten revisions", map[uint32]uint32{9: 8, 8: 7}, []uint32{2, 3}, 9, 3},
		{"forgotten, but younger data of a reverted one", map[uint32]uint32{9: 5}, []uint32{3, 7}, 9, 3},
		{"a loop", map[uint32]uint32{3: 2, 2: 3}, []uint32{1}, 3, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := place(t, t.TempDir(), c.chain, c.has...).scan()
			no(t, err)
			got := uint32(0)
			if d := s.ancestor(c.rev); d != nil {
				got = d.revision
			}
			if got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

// TestNothingAppearsBeforeItIsSure: a precopy, and a copy that is called off at
// its very end, leave no directory of the revision; the next copy has the newest.
func TestNothingAppearsBeforeItIsSure(t *testing.T) {
	p := place(t, t.TempDir(), map[uint32]uint32{1: 0, 2: 1}, 1)
	no(t, p.Precopy(t.Context(), 2))
	off := errors.New("called off")
	if err := p.Migrate(t.Context(), 2, nil, func() error { return off }); !errors.Is(err, off) {
		t.Errorf("got %v; want the error %v", err, off)
	}
	if has(p, 2) {
		t.Fatal("the folder is there")
	}
	no(t, os.WriteFile(dirOf(p, 1)+"/file", []byte("newer"), 0o600))
	no(t, p.Migrate(t.Context(), 2, nil, func() error { return nil }))
	if got := content(t, p, 2); got != "newer" {
		t.Errorf("got %q, want newer", got)
	}
	if left := hidden(t, p); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	no(t, p.Migrate(t.Context(), 2, nil, func() error { return off })) // nothing to do
	no(t, p.Precopy(t.Context(), 2))
}

func TestSweep(t *testing.T) {
	p := place(t, t.TempDir(), map[uint32]uint32{1: 0, 2: 1, 3: 1}, 1)
	no(t, p.Precopy(t.Context(), 2))
	no(t, os.WriteFile(p.Base+"/.2.partial.index.new", nil, 0o600))
	no(t, os.WriteFile(p.Base+"/.mine.partial", nil, 0o600))
	no(t, p.Precopy(t.Context(), 3))
	if got := hidden(t, p); !slices.Equal(got, []string{".3.partial", ".3.partial.index", ".mine.partial"}) {
		t.Errorf("after a precopy of 3: got %q, want %v", got, []string{".3.partial", ".3.partial.index", ".mine.partial"})
	}
	no(t, p.Sweep(0))
	if got := hidden(t, p); !slices.Equal(got, []string{".mine.partial"}) {
		t.Errorf("after a sweep: got %q, want %v", got, []string{".mine.partial"})
	}
	if content(t, p, 1) != "of 1" {
		t.Error("data was touched")
	}
}

// TestFullDisk: on a file system without the room for a copy, the data stays as
// it is, nothing takes the last of the room, and the error says what to do.
func TestFullDisk(t *testing.T) {
	require.Root(t)
	home := t.TempDir()
	no(t, syscall.Mount("lull-test", home, "tmpfs", syscall.MS_NOSUID, "size=1m"))
	t.Cleanup(func() {
		if err := syscall.Unmount(home, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	p := place(t, home, map[uint32]uint32{1: 0, 2: 1}, 1)
	no(t, os.WriteFile(dirOf(p, 1)+"/large", make([]byte, 700<<10), 0o600))
	for name, f := range map[string]func() error{
		"precopy": func() error { return p.Precopy(t.Context(), 2) },
		"bring":   func() error { return p.Migrate(t.Context(), 2, nil, nil) },
	} {
		err := f()
		if !errkind.Is(err, errkind.NoSpace) || !strings.Contains(errkind.HintOf(err), "lull revert "+app) || !strings.Contains(err.Error(), "revision 1") {
			t.Errorf("%s: got error %v, hint %q; want no space beside revision 1, and the hint lull revert %s", name, err, errkind.HintOf(err), app)
		}
		if left := hidden(t, p); len(left) > 0 || has(p, 2) {
			t.Errorf("%s left %q", name, left)
		}
	}
	if st, err := os.Stat(dirOf(p, 1) + "/large"); err != nil {
		t.Error(err)
	} else if got := content(t, p, 1); st.Size() != 700<<10 || got != "of 1" {
		t.Errorf("the data of revision 1 has changed: got %q and a large file of %d bytes, want %q and %d bytes", got, st.Size(), "of 1", 700<<10)
	}
}

// TestLock: a waiter is reported, can be cancelled, and does not keep the lock.
func TestLock(t *testing.T) {
	p := place(t, t.TempDir(), nil)
	unlock, err := p.Lock(t.Context(), func() { t.Error("it waits for nobody") })
	no(t, err)
	ctx, cancel := context.WithCancelCause(t.Context())
	off := errors.New("called off")
	if _, err := p.Lock(ctx, func() { cancel(off) }); !errors.Is(err, off) {
		t.Errorf("got %v; want the error %v", err, off)
	}
	waits := make(chan struct{})
	got := make(chan func())
	go func() {
		unlock, err := p.Lock(t.Context(), func() { close(waits) })
		if err != nil {
			t.Error(err)
		}
		got <- unlock
	}()
	<-waits
	unlock()
	select {
	case unlock := <-got:
		unlock()
	case <-time.After(30 * time.Second):
		t.Fatal("the lock is lost")
	}
	if _, err := Of(t.TempDir(), t.TempDir(), app).Lock(t.Context(), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a lock on nothing: got %v, want the error %v", err, os.ErrNotExist)
	}
}
