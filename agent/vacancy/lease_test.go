package vacancy

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/e2e/require"
)

// taken opens a seal over one file and returns the result of Take.
func taken(t *testing.T, l *Leases, path string) (granted bool, cause error) {
	t.Helper()
	s, err := l.Open("", []string{path})
	must(t, err)
	defer s.Close()
	r := s.Take()
	return r.Granted(), r.Cause
}

// proven is taken for a file system whose leases do not see mappings.
func proven(t *testing.T, l *Leases, path string) (bool, error) {
	t.Helper()
	s, err := l.Open("", []string{path})
	must(t, err)
	defer s.Close()
	r := s.Take()
	if len(r.Refused) != 1 {
		return false, nil
	}
	o, err := Scan(t.Context(), 0, Query{Files: map[Inode]bool{r.Refused[0].Inode: true}, Deep: true})
	must(t, err)
	return len(o.Holders) == 0 && o.Complete, nil
}

// TestHoldersAreSeen: on each file system, every way to use a file denies its lease, and
// the end of the use grants it within the package's patience.
func TestHoldersAreSeen(t *testing.T) {
	for _, fs := range fileSystems {
		t.Run(fs.name, func(t *testing.T) {
			dir := fs.mount(t)
			path := program(t, filepath.Join(dir, "program"))
			other := filepath.Join(dir, "other name")
			must(t, os.Link(path, other))
			l := NewLeases()
			if s, err := l.Open("", []string{path}); err != nil || s.Take().Granted() == (fs.name == "overlay") {
				t.Fatalf("without a holder: got %v, want no error, and the lease granted %v", err, fs.name != "overlay")
			} else {
				s.Close()
			}
			taken := taken
			if fs.name == "overlay" { // where Take reports itself that it is no proof
				taken = proven
			}
			for name, begin := range map[string]func() *holder{
				"exec":                    func() *holder { return executes(t, path) },
				"exec by another name":    func() *holder { return executes(t, other) },
				"mapping alone":           func() *holder { return holds(t, "map", path) },
				"descriptor alone":        func() *holder { return holds(t, "open", path) },
				"another pid namespace":   func() *holder { return holds(t, "open", path, "unshare", "--pid", "--fork", "--mount-proc") },
				"exec in a pid namespace": func() *holder { return executes(t, path, "unshare", "--pid", "--fork", "--mount-proc") },
				"another mount namespace": func() *holder {
					return holds(t, "map", "/mnt/program", "unshare", "--mount", "sh", "-c", `mount --bind "$0" /mnt && exec "$@"`, dir)
				},
				"deleted there, still linked here": func() *holder {
					third := filepath.Join(dir, "third name")
					must(t, os.Link(path, third))
					h := executes(t, third)
					must(t, os.Remove(third))
					return h
				},
			} {
				t.Run(name, func(t *testing.T) {
					h := begin()
					if ok, cause := taken(t, l, path); ok || cause != nil {
						t.Errorf("got granted %v and cause %v, want false and no cause", ok, cause)
					}
					h.end()
					if !Retry(func() bool { ok, _ := taken(t, l, path); return ok }) {
						t.Error("denied after the end")
					}
				})
			}
			t.Run("O_PATH is no use", func(t *testing.T) {
				if fs.name == "overlay" {
					t.Skip("a scan does not tell O_PATH from another descriptor")
				}
				defer holds(t, "path", path).end()
				if ok, cause := taken(t, l, path); !ok {
					t.Errorf("got denied (%v), want granted", cause)
				}
			})
		})
	}
}

// TestThroughOverlay: the package lies below an overlay that an application was given,
// as containers do.
func TestThroughOverlay(t *testing.T) {
	dir := t.TempDir()
	path := program(t, filepath.Join(dir, "program"))
	top := overlay(t, dir)
	l := NewLeases()
	for _, how := range []string{"map", "open"} {
		h := holds(t, how, filepath.Join(top, "program"))
		if ok, _ := taken(t, l, path); ok {
			t.Errorf("%s through the overlay: got granted, want denied", how)
		}
		h.end()
		if !Retry(func() bool { ok, _ := taken(t, l, path); return ok }) {
			t.Errorf("%s: denied after the end", how)
		}
	}
	h := executes(t, filepath.Join(top, "program"))
	if ok, _ := taken(t, l, path); ok {
		t.Error("an execution is not seen through the overlay")
	}
	h.end()
}

// TestSealKeepsOut: while a seal is held an open waits and O_NONBLOCK fails, by any
// name; afterwards it goes on. Seals of one process share what they both have.
func TestSealKeepsOut(t *testing.T) {
	dir := t.TempDir()
	path, tether := program(t, filepath.Join(dir, "program")), filepath.Join(dir, "tether")
	must(t, os.WriteFile(tether, nil, 0o444))
	l := NewLeases()
	first, err := l.Open(tether, []string{path, path, filepath.Join(dir, "gone")})
	must(t, err)
	defer first.Close()
	if len(first.Gone()) != 1 || len(first.Files()) != 1 {
		t.Errorf("gone %v, files %d; want 1 of them and 1 of them", first.Gone(), len(first.Files()))
	}
	if r := first.Take(); !r.Granted() {
		t.Fatalf("first seal: got %+v, want granted", r)
	}
	second, err := l.Open("", []string{path})
	must(t, err)
	defer second.Close()
	if r := second.Take(); !r.Granted() {
		t.Fatalf("second seal: got %+v, want granted", r)
	}
	nonblock := func(path string) error {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
	if err := nonblock(tether); err != unix.EAGAIN {
		t.Errorf("the tether: %v, want %v", err, unix.EAGAIN)
	}
	done := make(chan error, 1)
	go func() { done <- throughShell(path) }()
	first.Close()
	if err := nonblock(tether); err != nil {
		t.Errorf("the tether after the end: %v", err)
	}
	if err := nonblock(path); err != unix.EAGAIN {
		t.Errorf("what the second seal has: %v, want %v", err, unix.EAGAIN)
	}
	if err := second.Intact(); err != nil {
		t.Errorf("an open that waits has not broken anything yet: %v", err)
	}
	select {
	case err := <-done:
		t.Fatalf("it was executed: %v", err)
	default:
	}
	second.Close()
	must(t, <-done)
	if len(l.open) != 0 {
		t.Errorf("%d files stay open, want 0", len(l.open))
	}
}

// throughShell has a shell execute a program. Where Go executes a program that has to
// wait, everything of Go waits: on a machine with one processor, all of the test.
func throughShell(path string) error { return exec.Command("sh", "-c", `exec "$0" 0`, path).Run() }

// TestForcedBreak: the kernel revokes a lease for an open that has waited for
// fs.lease-break-time, and Intact reports that from a second before.
func TestForcedBreak(t *testing.T) {
	require.Root(t)
	require.NotShort(t)
	const setting = "/proc/sys/fs/lease-break-time"
	before, err := os.ReadFile(setting)
	must(t, err)
	if err := os.WriteFile(setting, []byte("3"), 0); err != nil {
		require.Missing(t, "needs to set %s: %v", setting, err)
	}
	t.Cleanup(func() { must(t, os.WriteFile(setting, before, 0)) })
	path := program(t, filepath.Join(t.TempDir(), "program"))
	s, err := NewLeases().Open("", []string{path})
	must(t, err)
	defer s.Close()
	if r := s.Take(); !r.Granted() {
		t.Fatalf("got %+v, want granted", r)
	}
	got := make(chan error, 1)
	go func() { got <- throughShell(path) }()
	must(t, <-got) // it blocks until the kernel lets it in
	var lost *Lost
	if err := s.Intact(); !errors.As(err, &lost) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want a lost lease of %s", err, path)
	}
}

// TestRefused: where leases are switched off a file is neither vacant nor busy.
func TestRefused(t *testing.T) {
	require.Root(t)
	const setting = "/proc/sys/fs/leases-enable"
	dir := t.TempDir()
	path := program(t, filepath.Join(dir, "program"))
	must(t, Probe(dir))
	if err := os.WriteFile(setting, []byte("0"), 0); err != nil {
		require.Missing(t, "needs to set %s: %v", setting, err)
	}
	t.Cleanup(func() { must(t, os.WriteFile(setting, []byte("1"), 0)) })
	if ok, cause := taken(t, NewLeases(), path); ok || cause == nil {
		t.Errorf("leases switched off: got granted %v and cause %v, want false and a cause", ok, cause)
	}
	if err := Probe(dir); err == nil || !strings.HasPrefix(err.Error(), "cannot take a lease in "+dir) {
		t.Errorf("probe: got %v, want an error and error that begins with %q", err, "cannot take a lease in "+dir)
	}
	if err := Probe(filepath.Join(dir, "none")); err == nil {
		t.Error("a directory that does not exist was probed")
	}
}
