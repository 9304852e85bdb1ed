package leases

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/store/index"
)

const patience = time.Minute

var pkg = digest.Of([]byte("a package"))

// world is a Dir with the indices, and a signal at each of their changes.
type world struct {
	*Dir
	ix      *index.Indices
	changed chan struct{}
}

func open(t *testing.T, dir string) world {
	t.Helper()
	w := world{ix: index.New(), changed: make(chan struct{}, 1)}
	w.ix.OnChange(func(string) {
		select {
		case w.changed <- struct{}{}:
		default:
		}
	})
	var err error
	if w.Dir, err = Open(dir, w.ix, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

// grant makes a lease as the agent does for a client.
func (w world) grant(t *testing.T) *os.File {
	t.Helper()
	s, err := w.Reserve(1000, false)
	if err != nil {
		t.Fatal(err)
	}
	end, err := s.Grant(w.ix.Lease(pkg, "a client", os.Getpid()), "a client", os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	return end
}

// until waits for the open index to have n roots.
func (w world) until(t *testing.T, n int) {
	t.Helper()
	end := time.After(patience)
	for len(w.ix.Of(index.OpenIndex)) != n {
		select {
		case <-w.changed:
		case <-end:
			t.Fatalf("%d are open, want %d", len(w.ix.Of(index.OpenIndex)), n)
		}
	}
}

func files(t *testing.T, dir string) int {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "leases"))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestOutlives: leases go on while no agent runs, with what is known of them, and end
// with their descriptors, before or after the next agent has started.
func TestOutlives(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir)
	stays, goes, ends := first.grant(t), first.grant(t), first.grant(t)
	second, err := unix.Dup(int(stays.Fd())) // as a client hands it down
	if err != nil {
		t.Fatal(err)
	}
	stays.Close()
	first.until(t, 3)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	goes.Close()
	next := open(t, dir)
	roots := next.ix.Of(index.OpenIndex)
	if len(roots) != 2 || files(t, dir) != 2 {
		t.Fatalf("%v and %d files are left", roots, files(t, dir))
	}
	for _, r := range roots {
		if r.Package != pkg || r.Holder != "a client" || r.PID != os.Getpid() {
			t.Errorf("it has become %+v; want package %v, holder %q and pid %v", r, pkg, "a client", os.Getpid())
		}
	}
	ends.Close()
	next.until(t, 1)
	unix.Close(second)
	next.until(t, 0)
	if n := files(t, dir); n != 0 {
		t.Errorf("%d files are left, want 0", n)
	}
}

// TestRests: files that are no lease of a live client protect nothing and go; a lease
// whose record is damaged protects its package all the same.
func TestRests(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir)
	end := first.grant(t)
	defer end.Close()
	first.Close()
	names, err := filepath.Glob(filepath.Join(dir, "leases", "*"))
	if err != nil || len(names) != 1 {
		t.Fatal(names, err)
	}
	for _, name := range []string{digest.Of([]byte("another")).String() + ".0123456789abcdef", "foreign"} {
		if err := os.WriteFile(filepath.Join(dir, "leases", name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(names[0], []byte(`{"uid":`), 0o600); err != nil {
		t.Fatal(err)
	}
	roots := open(t, dir).ix.Of(index.OpenIndex)
	if len(roots) != 1 || roots[0].Package != pkg || roots[0].PID != 0 {
		t.Errorf("open are %+v; want 1 roots, package %v and pid 0", roots, pkg)
	}
	if n := files(t, dir); n != 2 {
		t.Errorf("%d files are left, want 2", n)
	}
}

// TestReaders: a process of root that reads the file neither ends the lease nor keeps it.
func TestReaders(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir)
	end := w.grant(t)
	if _, err := os.ReadFile(end.Name()); err != nil {
		t.Fatal(err)
	}
	reader, err := os.Open(end.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	w.until(t, 1)
	end.Close()
	w.until(t, 0)
}

// TestLimit counts live leases of a user across agents, and no others.
func TestLimit(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir)
	var ends []*os.File
	for range maxOfUser {
		ends = append(ends, first.grant(t))
	}
	defer func() {
		for _, f := range ends {
			f.Close()
		}
	}()
	first.Close()
	w := open(t, dir)
	if _, err := w.Reserve(1000, false); !errkind.Is(err, errkind.LimitsExceeded) || !strings.Contains(err.Error(), "1024") {
		t.Errorf("one more: got %v, want an error of kind %v and %q in the error", err, errkind.LimitsExceeded, "1024")
	}
	for _, other := range []struct {
		uid       uint32
		unbounded bool
	}{{1000, true}, {1001, false}} {
		s, err := w.Reserve(other.uid, other.unbounded)
		if err != nil {
			t.Fatalf("%+v: %v", other, err)
		}
		s.Cancel()
		s.Cancel()
	}
	ends[0].Close()
	w.until(t, maxOfUser-1)
	var s *Slot
	for deadline := time.Now().Add(patience); ; {
		var err error
		if s, err = w.Reserve(1000, false); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("Reserve after one lease has ended: got %v after %v, want no error", err, patience)
		}
	}
	s.Cancel()
}

// TestClosed: nothing of the directory can be opened by other users.
func TestClosed(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir)
	end := w.grant(t)
	defer end.Close()
	for path, want := range map[string]os.FileMode{filepath.Dir(end.Name()): os.ModeDir | 0o700, end.Name(): 0o600} {
		if st, err := os.Stat(path); err != nil || st.Mode() != want {
			t.Errorf("%s: %v, want %v, %v", path, st.Mode(), want, err)
		}
	}
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(end.Fd(), unix.F_OFD_SETLK, &lock); !errors.Is(err, unix.EBADF) {
		t.Errorf("a client can take a write lock: got %v, want the error %v", err, unix.EBADF)
	}
}
