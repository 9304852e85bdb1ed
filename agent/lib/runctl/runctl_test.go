package runctl

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/inotify"
	"github.com/lull/lull/agent/lib/inotify/inotifytest"
	"github.com/lull/lull/e2e/require"
)

const app = "org.x.App"

func TestMain(m *testing.M) {
	if dir := os.Getenv("LULL_TEST_HOLD"); dir != "" {
		hold(dir)
	}
	goleak.VerifyTestMain(m)
}

// hold takes the read lock in a process of its own, until its input ends.
func hold(dir string) {
	d, err := Open(dir)
	if err != nil {
		panic(err)
	}
	l, err := d.ReadLock(context.Background(), app)
	if err != nil {
		panic(err)
	}
	os.Stdout.WriteString("held\n")
	os.Stdin.Read(make([]byte, 1))
	l.Unlock()
	os.Exit(0)
}

func create(t *testing.T) *Dir {
	t.Helper()
	d, err := Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	no(t, d.CreateInstance(app))
	return d
}

func no(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestMarkers(t *testing.T) {
	d := create(t)
	no(t, d.CreateInstance(app)) // repeated
	no(t, d.CreateInstance("b.lock"))
	no(t, d.CreateInstance("b"))
	if got, err := d.Instances(); err != nil || !slices.Equal(got, []string{"b", "b.lock", app}) {
		t.Errorf("instances are %q: %v; want no error and %v", got, err, []string{"b", "b.lock", app})
	}
	st, err := os.Stat(d.LockPath(app))
	no(t, err)
	if want := filepath.Join(d.RunDir(), "runctl", "lull.org.x.App.lock"); st.Mode() != 0o644 || d.LockPath(app) != want {
		t.Errorf("lock file: got %s with mode %v, want %s with %v", d.LockPath(app), st.Mode(), want, fs.FileMode(0o644))
	}

	if there, err := d.Running(app); there || err != nil {
		t.Errorf("Running before SetRunning: got %v, %v; want false and no error", there, err)
	}
	no(t, d.SetRunning(app))
	no(t, d.SetRunning(app))
	if there, err := d.Running(app); !there || err != nil {
		t.Errorf("Running after SetRunning: got %v, %v; want true and no error", there, err)
	}
	if got, _ := d.AllRunning(); !slices.Equal(got, []string{app}) {
		t.Errorf("running are %q; want %v", got, []string{app})
	}
	no(t, d.ClearRunning(app))
	no(t, d.ClearRunning(app))

	if since, err := d.InhibitedSince(app); !since.IsZero() || err != nil {
		t.Errorf("InhibitedSince before SetInhibited: got %v, %v; want the zero time and no error", since, err)
	}
	for _, word := range []string{RefreshPending, RefreshInProgress, RefreshStarting} {
		no(t, d.SetInhibited(app, word))
		if got, err := d.Inhibited(app); got != word || err != nil {
			t.Errorf("inhibited is %q, want %q: %v", got, word, err)
		}
	}
	if since, err := d.InhibitedSince(app); time.Since(since) > time.Minute || err != nil {
		t.Errorf("InhibitedSince after SetInhibited: got %v, %v; want less than a minute ago and no error", since, err)
	}
	if d.SetInhibited(app, "because") == nil {
		t.Error("any word will do")
	}
	for _, text := range []string{"", "refresh-whatever\n"} {
		no(t, os.WriteFile(d.InhibitedPath(app), []byte(text), 0o644))
		if got, err := d.Inhibited(app); got != RefreshInProgress || err != nil {
			t.Errorf("%q counts as %q, want the strictest: %v", text, got, err)
		}
	}
	no(t, d.ClearInhibited(app))
	no(t, d.ClearInhibited(app))
	if got, err := d.Inhibited(app); got != "" || err != nil {
		t.Errorf("Inhibited after ClearInhibited: got %q, %v; want no word and no error", got, err)
	}
	no(t, d.RemoveInstance(app))
	no(t, d.RemoveInstance("b"))
	no(t, d.RemoveInstance("b.lock"))
	if left, _ := os.ReadDir(d.Path()); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestBadNames(t *testing.T) {
	d := create(t)
	for _, name := range []string{"", "a/b", "../x", "a\x00", strings.Repeat("x", 201)} {
		_, lockErr := d.ReadLock(t.Context(), name)
		_, _, tryErr := d.TryWriteLock(name)
		_, inhibitedErr := d.Inhibited(name)
		for _, err := range []error{d.CreateInstance(name), d.SetRunning(name), d.ClearRunning(name), d.SetInhibited(name, RefreshPending),
			d.ClearInhibited(name), d.RemoveInstance(name), lockErr, tryErr, inhibitedErr} {
			if !errkind.Is(err, errkind.Invalid) {
				t.Errorf("%q: %v; want an error of kind %v", name, err, errkind.Invalid)
			}
		}
	}
}

func TestNotThere(t *testing.T) {
	if _, err := Open(t.TempDir()); !errkind.Is(err, errkind.NotFound) {
		t.Errorf("got %v; want an error of kind %v", err, errkind.NotFound)
	}
	d := create(t)
	if _, err := d.ReadLock(t.Context(), "other"); !errkind.Is(err, errkind.NotFound) {
		t.Errorf("got %v; want an error of kind %v", err, errkind.NotFound)
	}
	if _, _, err := d.TryWriteLock("other"); !errkind.Is(err, errkind.NotFound) {
		t.Errorf("got %v; want an error of kind %v", err, errkind.NotFound)
	}
}

func TestLocks(t *testing.T) {
	d := create(t)
	r1, err := d.ReadLock(t.Context(), app)
	no(t, err)
	r2, err := d.ReadLock(t.Context(), app)
	no(t, err)
	w, holders, err := d.TryWriteLock(app)
	if w != nil || err != nil || !slices.Equal(holders, []int{os.Getpid()}) {
		t.Fatalf("got %v, %v, %v, want this process", w, holders, err)
	}
	no(t, r1.Unlock())
	no(t, r1.Unlock())
	if w, _, _ := d.TryWriteLock(app); w != nil {
		t.Fatal("the second read lock was ignored")
	}
	no(t, r2.Close())
	if holders, err := d.Holders(app); len(holders) != 0 || err != nil {
		t.Errorf("holders are %v: %v; want 0 holders and no error", holders, err)
	}
	w, holders, err = d.TryWriteLock(app)
	if w == nil || err != nil || holders != nil {
		t.Fatalf("after all read locks: got lock %v, holders %v, error %v; want a lock, no holders and no error", w, holders, err)
	}
	if held, err := d.HeldBy(app, os.Getpid()); !held || err != nil {
		t.Errorf("HeldBy this process: got %v, %v; want true and no error", held, err)
	}
	if held, err := d.HeldBy(app, os.Getppid()); held || err != nil {
		t.Errorf("HeldBy our parent: got %v, %v; want false and no error", held, err)
	}

	got := make(chan *Lock)
	go func() {
		l, err := d.ReadLock(context.Background(), app)
		if err != nil {
			t.Error(err)
		}
		got <- l
	}()
	waiting(t, d)
	select {
	case <-got:
		t.Fatal("a read lock beside the write lock")
	default:
	}
	no(t, w.Unlock())
	no(t, (<-got).Unlock())
}

// waiting returns when a process waits for a lock of the instance.
func waiting(t *testing.T, d *Dir) {
	t.Helper()
	var st unix.Stat_t
	no(t, unix.Stat(d.LockPath(app), &st))
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		b, err := os.ReadFile("/proc/locks")
		no(t, err)
		for line := range strings.Lines(string(b)) {
			if strings.Contains(line, "->") && strings.Contains(line, " "+lockID(st)+" ") {
				return
			}
		}
	}
	t.Fatal("nobody waits for the lock")
}

func TestReadLockIsCancelled(t *testing.T) {
	d := create(t)
	w, _, err := d.TryWriteLock(app)
	no(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := d.ReadLock(ctx, app)
		done <- err
	}()
	waiting(t, d)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v; want the error %v", err, context.Canceled)
	}
	no(t, w.Unlock()) // the goroutine gets the lock, and must give it back
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		w, _, err := d.TryWriteLock(app)
		no(t, err)
		if w != nil {
			no(t, w.Unlock())
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the abandoned lock was never given back")
		}
	}
}

// TestHolderIsNamed has another process, one with a traditional lock among
// them, hold the lock.
func TestHolderIsNamed(t *testing.T) {
	d := create(t)
	self, err := os.Executable()
	no(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "LULL_TEST_HOLD="+d.RunDir())
	in, err := cmd.StdinPipe()
	no(t, err)
	out, err := cmd.StdoutPipe()
	no(t, err)
	no(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	if _, err := out.Read(make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	w, holders, err := d.TryWriteLock(app)
	if w != nil || err != nil || !slices.Equal(holders, []int{cmd.Process.Pid}) {
		t.Fatalf("got %v, %v, %v, want process %d", w, holders, err, cmd.Process.Pid)
	}
	if held, err := d.HeldBy(app, cmd.Process.Pid); !held || err != nil {
		t.Errorf("HeldBy the child: got %v, %v; want true and no error", held, err)
	}
	// A lock dies with its holder.
	no(t, cmd.Process.Signal(syscall.SIGKILL))
	cmd.Wait()
	if w, holders, err = d.TryWriteLock(app); w == nil || err != nil {
		t.Fatalf("after the child has ended: got no lock, holders %v, error %v; want a lock and no error", holders, err)
	}
	no(t, w.Unlock())
}

func TestUsersMayOnlyShare(t *testing.T) {
	require.Root(t)
	d := create(t)
	for _, dir := range []string{d.RunDir(), filepath.Dir(d.RunDir())} { // TempDir makes them for us alone
		no(t, os.Chmod(dir, 0o755))
	}
	const nobody = 65534
	var readErr, writeErr error
	asUser(t, nobody, func() {
		var l *Lock
		if l, readErr = d.ReadLock(t.Context(), app); readErr == nil {
			l.Unlock()
		}
		_, _, writeErr = d.TryWriteLock(app)
	})
	if readErr != nil {
		t.Errorf("a user cannot share the lock: %v", readErr)
	}
	if !errkind.Is(writeErr, errkind.NotPermitted) {
		t.Errorf("a user has asked for the exclusive lock: got %v, want an error of kind %v", writeErr, errkind.NotPermitted)
	}
}

// asUser calls f with the file system rights of a user.
func asUser(t *testing.T, uid int, f func()) {
	t.Helper()
	var wg sync.WaitGroup
	wg.Go(func() {
		runtime.LockOSThread() // and never unlock: Go throws the thread away
		unix.SetfsuidRetUid(uid)
		f()
	})
	wg.Wait()
}

func TestRemovedWhileWaitedFor(t *testing.T) {
	d := create(t)
	w, _, err := d.TryWriteLock(app)
	no(t, err)
	done := make(chan error)
	go func() {
		_, err := d.ReadLock(context.Background(), app)
		done <- err
	}()
	waiting(t, d)
	no(t, d.RemoveInstance(app))
	no(t, w.Unlock())
	if err := <-done; !errkind.Is(err, errkind.NotFound) {
		t.Errorf("a lock on a file that is gone: got %v, want an error of kind %v", err, errkind.NotFound)
	}
}

// TestTooEarly: two goroutines of one process try the exclusive lock. The one
// that came too early is notified when it is free, and only then.
func TestTooEarly(t *testing.T) {
	d := create(t)
	w, err := d.Watch()
	no(t, err)
	defer w.Close()
	for _, tried := range []int{0, 1, 3} {
		l, _, err := d.TryWriteLock(app)
		no(t, err)
		for range tried {
			if other, _, err := d.TryWriteLock(app); err != nil || other != nil {
				t.Fatalf("a second exclusive lock: got %v, %v; want no lock and no error", other, err)
			}
		}
		no(t, l.Unlock())
		if tried > 0 {
			if e := <-w.Events(); e.Kind != LockReleased || e.Instance != app {
				t.Errorf("after %d attempts: %v; want kind %v and instance %v", tried, e, LockReleased, app)
			}
		}
	}
	no(t, d.SetRunning(app)) // and that is the next event
	if e := <-w.Events(); e.Kind != RunningMade {
		t.Errorf("told too often: got %v, want kind %v", e, RunningMade)
	}
}

func TestParseLock(t *testing.T) {
	const id = "00:2b:1234"
	for _, c := range []struct {
		line string
		pid  int
		ok   bool
	}{
		{"1: OFDLCK  ADVISORY  READ -1 00:2b:1234 0 EOF", -1, true},
		{"2: POSIX  ADVISORY  READ 77 00:2b:1234 0 0", 77, true},
		{"2: -> POSIX  ADVISORY  WRITE 77 00:2b:1234 0 EOF", 0, false},
		{"3: FLOCK  ADVISORY  WRITE 78 00:2b:1234 0 EOF", 0, false},
		{"1: OFDLCK  ADVISORY  READ -1 00:2b:12345 0 EOF", 0, false},
		{"1: OFDLCK  ADVISORY  READ -1 00:2c:1234 0 EOF", 0, false},
		{"1: OFDLCK  ADVISORY  READ x 00:2b:1234 0 EOF", 0, false},
		{"", 0, false},
	} {
		if pid, ok := parseLock(c.line, id); pid != c.pid || ok != c.ok {
			t.Errorf("%q: got %d, %v; want pid %v and %v", c.line, pid, ok, c.pid, c.ok)
		}
	}
}

func TestWatch(t *testing.T) {
	d := create(t)
	w, err := d.Watch()
	no(t, err)
	defer w.Close()
	expect := func(want ...Event) {
		t.Helper()
		for _, e := range want {
			select {
			case got := <-w.Events():
				if got != e {
					t.Fatalf("got %v of %s, want %v of %s", got.Kind, got.Instance, e.Kind, e.Instance)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("%v of %s was not told", e.Kind, e.Instance)
			}
		}
	}
	no(t, d.SetRunning(app))
	expect(Event{app, RunningMade})
	no(t, d.SetInhibited(app, RefreshPending))
	expect(Event{app, Inhibition})
	no(t, d.SetInhibited(app, RefreshInProgress))
	expect(Event{app, Inhibition})
	no(t, d.ClearInhibited(app))
	expect(Event{app, Inhibition})
	l, err := d.ReadLock(t.Context(), app)
	no(t, err)
	no(t, l.Unlock())
	expect(Event{app, LockReleased})
	// The agent must not wake itself.
	l, _, err = d.TryWriteLock(app)
	no(t, err)
	no(t, l.Unlock())
	if _, err := d.Instances(); err != nil {
		t.Fatal(err)
	}
	no(t, d.ClearRunning(app))
	expect(Event{app, RunningGone})
	no(t, d.CreateInstance("b"))
	expect(Event{"b", Installed})
	no(t, d.RemoveInstance("b"))
	expect(Event{"b", Removed})
	no(t, w.Close())
	no(t, w.Close())
	if _, ok := <-w.Events(); ok {
		t.Error("an event after Close")
	}
}

func TestWatchEndsWithTheFolder(t *testing.T) {
	d := create(t)
	w, err := d.Watch()
	no(t, err)
	defer w.Close()
	no(t, os.RemoveAll(d.Path()))
	for range w.Events() {
	}
}

func TestTranslate(t *testing.T) {
	if e, ok := translate(inotify.Event{Watch: -1, Mask: unix.IN_Q_OVERFLOW}); !ok || e.Kind != LookAtAll || e.Instance != "" {
		t.Errorf("translate of an overflow: got %v, %v; want %v of no instance and true", e, ok, LookAtAll)
	}
	for _, name := range []string{"", "x", "lull.", "lull..lock.new", "lull.lock", ".new.x.inhibited"} {
		if e, ok := translate(inotify.Event{Mask: unix.IN_CREATE, Name: name}); ok {
			t.Errorf("translate(%q): got %v of %q, want no event", name, e.Kind, e.Instance)
		}
	}
}

func TestWaitUninhibited(t *testing.T) {
	d := create(t)
	no(t, d.WaitUninhibited(t.Context(), app))
	no(t, d.SetInhibited(app, RefreshStarting))
	no(t, d.WaitUninhibited(t.Context(), app, RefreshStarting))

	for _, change := range []func() error{
		func() error { return d.ClearInhibited(app) },
		func() error { return d.SetInhibited(app, RefreshStarting) }, // a word that is ignored
		func() error { return os.RemoveAll(d.InhibitedPath(app)) },
	} {
		no(t, d.SetInhibited(app, RefreshInProgress))
		done := make(chan error, 1)
		go func() { done <- d.WaitUninhibited(t.Context(), app, RefreshStarting) }()
		no(t, d.SetInhibited("other", RefreshPending))
		no(t, d.SetInhibited(app, RefreshPending)) // another word, no end
		select {
		case err := <-done:
			t.Fatalf("it did not wait: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
		no(t, change())
		no(t, <-done)
	}

	no(t, d.SetInhibited(app, RefreshPending))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.WaitUninhibited(ctx, app) }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v; want the error %v", err, context.Canceled)
	}
}

// TestWaitWithoutInotify: a user may have used it up, and waits all the same.
func TestWaitWithoutInotify(t *testing.T) {
	d := create(t)
	no(t, d.SetInhibited(app, RefreshInProgress))
	inotifytest.Without(t, func() {
		if w, err := d.Watch(); !errors.Is(err, unix.EMFILE) {
			t.Errorf("inotify is left: %v", err)
			w.Close()
			return
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if err := d.WaitUninhibited(ctx, app); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("it did not wait: %v", err)
		}
		time.AfterFunc(20*time.Millisecond, func() { d.SetInhibited(app, RefreshStarting) })
		if err := d.WaitUninhibited(t.Context(), app, RefreshStarting); err != nil {
			t.Error(err)
		}
	})
}

// TestNoWakeUpIsLost sets and clears the marker while launchers come.
func TestNoWakeUpIsLost(t *testing.T) {
	d := create(t)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				no := d.ClearInhibited(app)
				if no != nil {
					t.Error(no)
				}
				return
			default:
			}
			l, _, err := d.TryWriteLock(app)
			if err != nil {
				t.Error(err)
				return
			}
			if l == nil {
				continue
			}
			if err := errors.Join(d.SetInhibited(app, RefreshInProgress), l.Unlock(), d.ClearInhibited(app)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	var launchers sync.WaitGroup
	for range 4 {
		launchers.Go(func() {
			for range 100 {
				for {
					l, err := d.ReadLock(context.Background(), app)
					if err != nil {
						t.Error(err)
						return
					}
					word, err := d.Inhibited(app)
					l.Unlock()
					if err != nil {
						t.Error(err)
						return
					}
					if word == "" {
						break
					}
					if err := d.WaitUninhibited(context.Background(), app); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	launchers.Wait()
	close(stop)
	wg.Wait()
}

func TestCreateRepairsModes(t *testing.T) {
	dir := t.TempDir()
	no(t, os.Mkdir(filepath.Join(dir, "runctl"), 0o700))
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	d, err := Create(dir)
	no(t, err)
	no(t, d.CreateInstance(app))
	no(t, d.SetInhibited(app, RefreshPending))
	for path, want := range map[string]fs.FileMode{d.RunDir(): 0o755, d.Path(): 0o755, d.LockPath(app): 0o644, d.InhibitedPath(app): 0o644} {
		if st, err := os.Stat(path); err != nil {
			t.Error(err)
		} else if st.Mode().Perm() != want {
			t.Errorf("%s: got mode %v, want %v", path, st.Mode().Perm(), want)
		}
	}
}
