package launch

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/cgroup"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/runname"
	"github.com/lull/lull/e2e/require"
)

func (w *world) data(path ...string) string {
	return filepath.Join(append([]string{w.home, ".local/share/lull", app}, path...)...)
}

func (w *world) save(text string) {
	w.Helper()
	if r := w.run(app, "save", text); r.code != 0 {
		w.Fatalf("status %d, want 0: %s", r.code, r.stderr)
	}
}

func (w *world) load() string {
	w.Helper()
	r := w.run(app, "load")
	if r.code != 0 {
		w.Fatalf("status %d, want 0: %s", r.code, r.stderr)
	}
	return r.out
}

func TestDataIsBroughtOver(t *testing.T) {
	w := newWorld(t)
	w.untracked()
	w.install(1, 0, true)
	w.save("one")
	w.install(2, 1, true)
	if got := w.load(); got != "one\n" {
		t.Errorf("got %q, want %q", got, "one\n")
	}
	w.save("two")
	// Back to 1: its own data, as it was.
	w.swap(1)
	if got := w.load(); got != "one\n" {
		t.Errorf("after revert got %q, want %q", got, "one\n")
	}
	w.save("three")
	// From 1 to 4, not from the 2 that was reverted.
	w.install(4, 1, true)
	if got := w.load(); got != "one\nthree\n" {
		t.Errorf("got %q, want %q", got, "one\nthree\n")
	}
	left, _ := filepath.Glob(w.data(".*"))
	if !slices.Equal(left, []string{w.data(".lock")}) {
		t.Errorf("left: %q", left)
	}
	if st, err := os.Stat(w.data("common")); err != nil {
		t.Error(err)
	} else if st.Mode().Perm() != 0o700 {
		t.Errorf("the directory of common data has mode %v, want 0700", st.Mode())
	}
}

func TestUnversionedDataIsOne(t *testing.T) {
	w := newWorld(t)
	w.untracked()
	w.install(1, 0, false)
	w.save("one")
	w.install(2, 1, false)
	if got := w.load(); got != "one\n" {
		t.Errorf("got %q, want %q", got, "one\n")
	}
	if b, err := os.ReadFile(w.data("common/file")); err != nil || string(b) != "one\n" {
		t.Errorf("%q, %v; want no error and content %q", b, err, "one\n")
	}
}

// TestInterruptedCopy finds the rest of a launch that died, and of a helper
// that has copied ahead.
func TestInterruptedCopy(t *testing.T) {
	w := newWorld(t)
	w.untracked()
	w.install(1, 0, true)
	w.save("one")
	w.no(os.MkdirAll(w.data(".2.partial"), 0o700))
	w.no(os.WriteFile(w.data(".2.partial/file"), []byte("hal"), 0o600))
	w.no(os.WriteFile(w.data(".2.partial/stale"), nil, 0o600))
	w.install(2, 1, true)
	if got := w.load(); got != "one\n" {
		t.Errorf("got %q, want %q", got, "one\n")
	}
	if _, err := os.Lstat(w.data("2/stale")); err == nil {
		t.Error("what the source does not have is there")
	}
}

// TestTwoAtOnce has launches race for the copy: it happens once and is whole.
func TestTwoAtOnce(t *testing.T) {
	w := newWorld(t)
	w.untracked()
	w.install(1, 0, true)
	w.save("one")
	for i := range 50 {
		w.no(os.WriteFile(w.data(fmt.Sprint("1/f", i)), make([]byte, 10000), 0o600))
	}
	w.install(2, 1, true)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if r := w.run(app, "load"); r.code != 0 || r.out != "one\n" {
				t.Errorf("status %d, %q: %s; want code 0 and output %q", r.code, r.out, r.stderr, "one\n")
			}
		})
	}
	wg.Wait()
	if files, _ := filepath.Glob(w.data("2/f[0-9]*")); len(files) != 50 {
		t.Errorf("%d files, want 50", len(files))
	}
}

// TestWaitsForTheHelper: another process has the lock on the user's data.
func TestWaitsForTheHelper(t *testing.T) {
	w := newWorld(t)
	w.untracked()
	w.install(1, 0, true)
	w.save("one")
	w.install(2, 1, true)
	fd, err := unix.Open(w.data(".lock"), unix.O_RDWR|unix.O_CLOEXEC, 0)
	w.no(err)
	w.no(unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}))
	l := w.start(app, "wait")
	// The helper's work meanwhile counts.
	w.no(os.Mkdir(w.data("2"), 0o700))
	w.no(os.WriteFile(w.data("2/file"), []byte("helper\n"), 0o600))
	w.no(unix.Close(fd))
	l.expect(t, "revision 2\n")
	l.stop()
	if got := w.load(); got != "helper\n" {
		t.Errorf("got %q, want %q", got, "helper\n")
	}
}

// TestCopyIsSeen: while the data of a tracked launch is brought over it counts
// as running, and the lock is free.
func TestCopyIsSeen(t *testing.T) {
	w := newWorld(t)
	a := w.agent("subtree")
	w.install(1, 0, true)
	w.save("one")
	w.install(2, 1, true)
	fd, err := unix.Open(w.data(".lock"), unix.O_RDWR|unix.O_CLOEXEC, 0)
	w.no(err)
	w.no(unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}))
	l := w.start(app, "wait")
	for busy := false; !busy; {
		<-a.tracker.Changes()
		ps, err := a.tracker.Busy(app)
		w.no(err)
		busy = len(ps) == 1 && ps[0].PID == l.cmd.Process.Pid
	}
	for {
		lock, _, err := w.ctl.TryWriteLock(app)
		w.no(err)
		if lock != nil {
			w.no(lock.Unlock())
			break
		}
		<-a.tracker.Changes() // its release is an event
	}
	if ps, err := a.tracker.Busy(app); err != nil || len(ps) != 1 {
		t.Errorf("%v, %v; want no error and 1 of them", ps, err)
	}
	w.no(unix.Close(fd))
	l.expect(t, "revision 2\n")
	l.stop()
}

// passwd makes a command run where root's home in the user database is another, and the
// machine has no log.
func (w *world) passwd(cmd *exec.Cmd, home string) *exec.Cmd {
	w.Helper()
	file := filepath.Join(w.TempDir(), "passwd")
	w.no(os.WriteFile(file, []byte("root:x:0:0:root:"+home+":/bin/sh\n"), 0o644))
	return w.unlogged(cmd, "mount --bind "+file+" /etc/passwd")
}

// unlogged makes a command run where the machine has no log, so that its messages are in the
// error output, after other mounts. Only root can do that.
func (w *world) unlogged(cmd *exec.Cmd, mounts string) *exec.Cmd {
	w.Helper()
	script := `test ! -d /run/systemd/journal || mount -t tmpfs lull-test /run/systemd/journal
test ! -S /dev/log || mount --bind /dev/null /dev/log
` + mounts + `
exec "$0" "$@"`
	unshare := exec.Command("unshare", append([]string{"-m", "sh", "-ec", script}, cmd.Args...)...)
	unshare.Env = cmd.Env
	return unshare
}

// TestHomeOfThePasswd: if HOME is unusable, the data is in the home of the
// user database, and the launch reports this, unless HOME is just not set.
func TestHomeOfThePasswd(t *testing.T) {
	require.Root(t)
	for _, c := range []struct{ env, said string }{
		{"HOME=", ""}, {"HOME=relative", "no absolute path"}, {"HOME=/nonexistent/home", "no such file"}, {"HOME=/etc/passwd", "not a directory"},
	} {
		w := newWorld(t)
		w.untracked()
		w.install(1, 0, true)
		w.env = []string{c.env}
		r := w.end(w.passwd(w.command(app, "save", "here"), w.home))
		if b, err := os.ReadFile(w.data("1/file")); r.code != 0 || err != nil || string(b) != "here\n" {
			t.Errorf("%s: got status %d and data %q (error %v), want status 0 and %q: %s", c.env, r.code, b, err, "here\n", r.stderr)
		}
		if !strings.Contains(r.stderr, c.said) || c.said == "" && strings.Contains(r.stderr, w.home) {
			t.Errorf("%s: the error output is %q, want %q in it, and no path of the home when that is empty", c.env, r.stderr, c.said)
		}
	}
}

// TestRootStaysOutOfHomes: what sudo may leave in HOME. Root's data is in root's own
// home, and where there is none nothing is made anywhere.
func TestRootStaysOutOfHomes(t *testing.T) {
	require.Root(t)
	w := newWorld(t)
	w.untracked()
	w.install(1, 0, true)
	w.no(os.Chown(w.home, 65534, 65534))
	roots := t.TempDir()
	r := w.end(w.passwd(w.command(app, "save", "root's"), roots))
	if b, err := os.ReadFile(filepath.Join(roots, ".local/share/lull", app, "1/file")); r.code != 0 || err != nil || !strings.Contains(r.stderr, "belongs to another user") {
		t.Errorf("status %d, %q, %v: %s; want code 0, no error and %q in the error output", r.code, b, err, r.stderr, "belongs to another user")
	}
	r = w.end(w.passwd(w.command(app, "exit", "0"), w.home))
	if r.code != 77 || !strings.Contains(r.stderr, "belongs to another user\nhint: ") {
		t.Errorf("status %d: %s; want code 77 and %q in the error output", r.code, r.stderr, "belongs to another user\nhint: ")
	}
	if left, _ := filepath.Glob(w.home + "/.*"); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
	// A service has the system's data, even if the user's cannot be used.
	s := w.start("--service", "daemon", app)
	s.expect(t, "revision 1\n")
}

func TestFraction(t *testing.T) {
	for _, c := range []struct {
		done, total int64
		want        string
	}{
		{0, 100_000_000, "0% of 100 MB"}, {50, 100, "50% of 0.0 MB"}, {200, 100, "100% of 0.0 MB"}, {1_500_000, 0, "1.5 MB"},
	} {
		if got := fraction(c.done, c.total); got != c.want {
			t.Errorf("%d of %d: %q, want %q", c.done, c.total, got, c.want)
		}
	}
}

func TestStandsIn(t *testing.T) {
	pkg, other := digest.Of([]byte("a")), digest.Of([]byte("b"))
	run, svc := runname.Run(pkg, "", "01234567"), runname.Run(pkg, "daemon", "01234567")
	v2 := func(path string) []cgroup.Membership { return []cgroup.Membership{{Path: path}} }
	v1 := func(path string) []cgroup.Membership {
		return []cgroup.Membership{{Controllers: []string{"memory"}, Path: "/x"}, {Controllers: []string{"freezer"}, Path: path}, {Path: "/"}}
	}
	for _, c := range []struct {
		all              []cgroup.Membership
		tracker, service string
		want             bool
	}{
		{v1("/lull." + app + "/" + run), "freezer", "", true},
		{v1("/lull." + app + "/" + run + "/deeper"), "freezer", "", true},
		{v1("/lull." + app + "/" + run), "subtree", "", false},
		{v1("/lull." + app), "freezer", "", false},
		{v1("/lull." + app + "_2/" + run), "freezer", "", false},
		{v1("/lull." + app + "/" + runname.Run(other, "", "01234567")), "freezer", "", false},
		{v1("/lull-svc." + app + "/" + svc), "freezer", "daemon", true},
		{v1("/lull-svc." + app + "/" + svc), "freezer", "", false},
		{v1("/lull-svc." + app + "/" + run), "freezer", "", false},
		{v1("/lull." + app + "/" + run), "freezer", "daemon", false},
		{v1("/"), "freezer", "", false},
		{v2("/lull/app/" + app + "/" + run), "subtree", "", true},
		{v2("/lull/svc/" + app + "/" + svc), "subtree", "daemon", true},
		{v2("/lull/svc/" + app + "/" + svc), "subtree", "", false},
		{v2("/other/app/" + app + "/" + run), "subtree", "", false},
		{v2("/lull/app/" + app), "subtree", "", false},
		{v2("/user.slice/user-1.slice/user@1.service/app.slice/" + runname.Scope(app, pkg, "01234567")), "scope", "", true},
		{v2("/system.slice/" + runname.Scope(app, other, "01234567")), "scope", "", false},
		{v2("/system.slice/" + runname.Scope(app, pkg, "01234567")), "freezer", "", false},
		{v2("/system.slice/" + runname.ServiceUnit(app, "daemon")), "scope", "daemon", true},
		{v2("/system.slice/" + runname.ServiceUnit(app, "daemon")), "scope", "", false},
		{v2("/system.slice/cron.service"), "scope", "daemon", false},
		{v2("/"), "scope", "", false},
		{nil, "scope", "", false},
	} {
		if got := standsIn(c.all, c.tracker, app, c.service, pkg); got != c.want {
			t.Errorf("%v, %s, service %q: got %v, want %v", c.all, c.tracker, c.service, got, c.want)
		}
	}
}
