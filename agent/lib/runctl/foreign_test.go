package runctl

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// holding starts a copy of this program that holds the lock until the test ends.
func holding(t *testing.T, d *Dir, program string) int {
	t.Helper()
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), "LULL_TEST_HOLD="+d.RunDir())
	in, err := cmd.StdinPipe()
	no(t, err)
	out, err := cmd.StdoutPipe()
	no(t, err)
	no(t, cmd.Start())
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	if _, err := out.Read(make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

// copied is a program of its own that does the same as this one.
func copied(t *testing.T, name string) string {
	t.Helper()
	self, err := os.ReadFile("/proc/self/exe")
	no(t, err)
	path := filepath.Join(t.TempDir(), name)
	no(t, os.WriteFile(path, self, 0o755))
	return path
}

// TestLockOfAStranger: a read lock of a program that is no launcher,
// regardless of its name, does not block the agent; nor does one that is older
// than a launch.
func TestLockOfAStranger(t *testing.T) {
	launcher := copied(t, "lull-run")
	t.Run("another program", func(t *testing.T) {
		d := create(t)
		pid := holding(t, d, copied(t, "lull-run"))
		if w, holders, err := d.TryWriteLock(app); w != nil || err != nil || !slices.Equal(holders, []int{pid}) {
			t.Fatalf("without rules: got lock %v, holders %v, error %v; want no lock, [%d] and no error", w, holders, err, pid)
		}
		var told []int
		d.CountOnly(Launchers{Path: launcher, Replaced: func(instance string, pids []int) { told = pids }})
		w, holders, err := d.TryWriteLock(app)
		if w == nil || err != nil {
			t.Fatalf("with rules: got no lock, holders %v, error %v; want a lock and no error", holders, err)
		}
		if !slices.Equal(told, []int{pid}) {
			t.Errorf("told of %v, want %d", told, pid)
		}
		// Launches notice: they wait for the new file's lock.
		got := make(chan error, 1)
		go func() {
			l, err := d.ReadLock(t.Context(), app)
			if err == nil {
				err = l.Unlock()
			}
			got <- err
		}()
		waiting(t, d)
		no(t, w.Unlock())
		no(t, <-got)
		if w, holders, err := d.TryWriteLock(app); w == nil || err != nil {
			t.Errorf("the new file after its lock was released: got no lock, holders %v, error %v; want a lock and no error", holders, err)
		} else {
			no(t, w.Unlock())
		}
	})
	t.Run("a launcher", func(t *testing.T) {
		d := create(t)
		d.CountOnly(Launchers{Path: launcher})
		pid := holding(t, d, launcher)
		synctest.Test(t, func(t *testing.T) {
			for range 2 {
				if w, holders, err := d.TryWriteLock(app); w != nil || err != nil || !slices.Equal(holders, []int{pid}) {
					t.Fatalf("got lock %v, holders %v, error %v; want no lock, [%d] and no error", w, holders, err, pid)
				}
				time.Sleep(MaxLaunch / 2)
			}
			w, holders, err := d.TryWriteLock(app)
			if w == nil || err != nil {
				t.Fatalf("after %v: got no lock, holders %v, error %v; want a lock and no error", MaxLaunch, holders, err)
			}
			no(t, w.Unlock())
		})
	})
	t.Run("a launcher that was upgraded", func(t *testing.T) {
		d := create(t)
		old := copied(t, "lull-run")
		d.CountOnly(Launchers{Path: old})
		pid := holding(t, d, old)
		no(t, os.Remove(old))
		no(t, os.WriteFile(old, []byte("new"), 0o755))
		if w, holders, err := d.TryWriteLock(app); w != nil || err != nil || !slices.Equal(holders, []int{pid}) {
			t.Fatalf("got lock %v, holders %v, error %v; want no lock, [%d] and no error", w, holders, err, pid)
		}
	})
	t.Run("this process", func(t *testing.T) {
		d := create(t)
		d.CountOnly(Launchers{Path: launcher})
		l, err := d.ReadLock(t.Context(), app)
		no(t, err)
		defer l.Unlock()
		synctest.Test(t, func(t *testing.T) {
			for range 3 {
				if w, holders, err := d.TryWriteLock(app); w != nil || err != nil || !slices.Equal(holders, []int{os.Getpid()}) {
					t.Fatalf("got lock %v, holders %v, error %v; want no lock, [%d] and no error", w, holders, err, os.Getpid())
				}
				time.Sleep(MaxLaunch)
			}
		})
	})
}

// TestLockUnderWay: a lock whose descriptor is in a socket, where no process has it,
// counts, with rules and without.
func TestLockUnderWay(t *testing.T) {
	for name, rules := range map[string]*Launchers{"without rules": nil, "with rules": {Path: copied(t, "lull-run")}} {
		t.Run(name, func(t *testing.T) {
			d := create(t)
			if rules != nil {
				d.CountOnly(*rules)
			}
			fd, err := unix.Open(d.LockPath(app), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			no(t, err)
			no(t, setlk(fd, unix.F_OFD_SETLK, unix.F_RDLCK))
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			no(t, err)
			no(t, unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(fd), nil, 0))
			no(t, unix.Close(fd))
			w, holders, err := d.TryWriteLock(app)
			if w != nil || len(holders) > 0 || err != nil {
				t.Errorf("a lock in a socket: got lock %v, holders %v, error %v; want no lock, no holders and no error", w, holders, err)
			}
			no(t, errors.Join(unix.Close(pair[0]), unix.Close(pair[1])))
			if w, holders, err = d.TryWriteLock(app); w == nil || err != nil {
				t.Fatalf("after the socket was closed: got no lock, holders %v, error %v; want a lock and no error", holders, err)
			}
			no(t, w.Unlock())
		})
	}
}
