// Package agent tests lull-release-agent, which is written in C: built by
// build.sh and called by hand and by the kernel.
package agent

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/runctl"
	"github.com/lull/lull/e2e/require"
)

const app = "org.lull-test.agent"

// build compiles the agent as make does.
func build(t *testing.T, cc, out string) {
	t.Helper()
	cmd := exec.Command("sh", "build.sh", out)
	cmd.Env = append(os.Environ(), "CC="+cc, "CFLAGS=")
	if text, err := cmd.CombinedOutput(); err != nil || len(text) > 0 {
		t.Fatalf("building with %s: got %v and output %q, want no error and no output", cc, err, text)
	}
}

// world is a run directory with the agent in it and a hierarchy beside it.
type world struct {
	*testing.T
	ctl *runctl.Dir
	top string // the hierarchy; a plain folder, unless the kernel is to call
	bin string // as registered: <run-dir>/release-agent
	w   *runctl.Watch
}

func newWorld(t *testing.T, top string) *world {
	t.Helper()
	require.Program(t, "cc")
	ctl, err := runctl.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, ctl: ctl, top: top, bin: filepath.Join(ctl.RunDir(), "release-agent")}
	real := filepath.Join(t.TempDir(), "lull-release-agent")
	build(t, "cc", real)
	w.no(os.Symlink(real, w.bin))
	w.no(os.Symlink(top, filepath.Join(ctl.RunDir(), "freezer")))
	w.no(ctl.CreateInstance(app))
	w.w, err = ctl.Watch()
	w.no(err)
	t.Cleanup(func() { w.w.Close() })
	return w
}

func (w *world) no(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) mkdir(path string) {
	w.Helper()
	w.no(os.MkdirAll(filepath.Join(w.top, path), 0o755))
}

func (w *world) there(path string) bool {
	_, err := os.Lstat(filepath.Join(w.top, path))
	return err == nil
}

func (w *world) running() bool {
	there, err := w.ctl.Running(app)
	w.no(err)
	return there
}

// mark makes .running and takes the event of it.
func (w *world) mark() {
	w.Helper()
	w.no(w.ctl.SetRunning(app))
	w.expect(runctl.RunningMade)
}

func (w *world) expect(want runctl.Kind) {
	w.Helper()
	select {
	case e := <-w.w.Events():
		if e.Kind != want || e.Instance != app {
			w.Fatalf("got %v of %s, want %v", e.Kind, e.Instance, want)
		}
	case <-time.After(10 * time.Second):
		w.Fatalf("%v was not told", want)
	}
}

// sign is told last, and when it is, the lock can be had: whoever came for it
// while the release agent held it comes again.
func (w *world) sign() {
	w.Helper()
	w.expect(runctl.LockReleased)
	lock, holders, err := w.ctl.TryWriteLock(app)
	w.no(err)
	if lock == nil {
		w.Fatalf("got the lock held by %v, want it free", holders)
	}
	w.no(lock.Close())
}

// call runs the agent as the kernel does and returns its exit status.
func (w *world) call(path string) int {
	w.Helper()
	cmd := &exec.Cmd{Path: w.bin, Args: []string{w.bin, path}, Env: []string{"HOME=/", "PATH=/sbin:/bin"}}
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		w.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}

const run = "/lull." + app + "/0123456789abcdef.01234567"

func TestLastRun(t *testing.T) {
	w := newWorld(t, t.TempDir())
	w.mkdir(run)
	w.mark()
	if code := w.call(run); code != 0 || w.there(filepath.Dir(run)) || w.running() {
		t.Errorf("got status %d, group there %v, marker there %v; want status 0 and neither", code, w.there(filepath.Dir(run)), w.running())
	}
	w.expect(runctl.RunningGone)
	w.sign()
}

func TestGroupOfTheInstance(t *testing.T) {
	w := newWorld(t, t.TempDir())
	w.mkdir(filepath.Dir(run))
	w.mark()
	if code := w.call(filepath.Dir(run)); code != 0 || w.there(filepath.Dir(run)) || w.running() {
		t.Errorf("got status %d, group there %v, marker there %v; want status 0 and neither", code, w.there(filepath.Dir(run)), w.running())
	}
	w.expect(runctl.RunningGone)
	w.sign()
}

// TestGoneAlready: somebody else was faster with the groups, not with the marker.
func TestGoneAlready(t *testing.T) {
	w := newWorld(t, t.TempDir())
	w.mark()
	if code := w.call(run); code != 0 || w.running() {
		t.Errorf("got status %d, marker there %v; want status 0 and no marker", code, w.running())
	}
	w.expect(runctl.RunningGone)
	w.sign()
}

func TestAnotherRunLives(t *testing.T) {
	w := newWorld(t, t.TempDir())
	w.mkdir(run)
	w.mkdir(run + "x")
	w.mark()
	if code := w.call(run); code != 0 || w.there(run) || !w.there(run+"x") || !w.running() {
		t.Errorf("got status %d, group there %v, group of the other run there %v, marker there %v; want status 0, and only the group gone", code, w.there(run), w.there(run+"x"), w.running())
	}
	w.expect(runctl.LockReleased)
}

func TestNotEmpty(t *testing.T) {
	w := newWorld(t, t.TempDir())
	w.mkdir(run + "/nested")
	w.mark()
	if w.call(run); !w.there(run) || !w.running() {
		t.Errorf("got group there %v, marker there %v; want both", w.there(run), w.running())
	}
	w.expect(runctl.LockReleased)
	if w.call(run + "/nested"); w.there(run+"/nested") || !w.running() {
		t.Errorf("got nested group there %v, marker there %v; want the marker alone", w.there(run+"/nested"), w.running())
	}
	w.expect(runctl.LockReleased)
}

func TestLockIsBusy(t *testing.T) {
	w := newWorld(t, t.TempDir())
	for _, write := range []bool{false, true} {
		w.mkdir(run)
		w.mark()
		var lock *runctl.Lock
		var err error
		if write {
			lock, _, err = w.ctl.TryWriteLock(app)
		} else {
			lock, err = w.ctl.ReadLock(t.Context(), app)
		}
		w.no(err)
		if code := w.call(run); code != 0 || w.there(run) || !w.running() {
			t.Errorf("write lock %v: got status %d, group there %v, marker there %v; want status 0 and the marker alone", write, code, w.there(run), w.running())
		}
		w.expect(runctl.LockReleased) // the sign
		w.no(lock.Unlock())
		if !write {
			w.expect(runctl.LockReleased)
		}
		w.no(w.ctl.ClearRunning(app))
		w.expect(runctl.RunningGone)
	}
}

func TestService(t *testing.T) {
	w := newWorld(t, t.TempDir())
	svc := "/lull-svc." + app + "/0123456789abcdef.01234567.daemon"
	w.mkdir(svc)
	w.mark() // the application runs
	if code := w.call(svc); code != 0 || w.there(filepath.Dir(svc)) || !w.running() {
		t.Errorf("got status %d, group of the service there %v, marker there %v; want status 0 and the marker alone", code, w.there(filepath.Dir(svc)), w.running())
	}
	w.expect(runctl.LockReleased)
}

func TestNoLockFile(t *testing.T) {
	w := newWorld(t, t.TempDir())
	w.mkdir(run)
	w.mark()
	w.no(os.Remove(w.ctl.LockPath(app)))
	if code := w.call(run); code != 0 || w.there(run) || !w.running() {
		t.Errorf("got status %d, group there %v, marker there %v; want status 0 and the marker alone", code, w.there(run), w.running())
	}
}

func TestPathsThatAreNotOurs(t *testing.T) {
	w := newWorld(t, t.TempDir())
	w.mkdir("/snap.x/y")
	w.mkdir("/lull.a/b")
	long := "/lull." + strings.Repeat("x", 250)
	w.mkdir(long)
	w.no(os.Symlink(t.TempDir(), filepath.Join(w.top, "lull.link")))
	for path, want := range map[string]int{
		"/snap.x/y":               0,
		"/":                       0,
		"":                        0,
		"lull.a/b":                0,
		"/lull":                   0,
		"/lull.":                  64,
		"/lull./b":                64,
		"/lull.a/../snap.x/y":     64,
		"/lull.a/..":              64,
		"/lull.a/./b":             64,
		"/lull.a/.":               64,
		"/lull.a//b":              64,
		"/lull.a/b/":              64,
		"/lull-svc.a/../lull.a/b": 64,
		long:                      64,
	} {
		if code := w.call(path); code != want {
			t.Errorf("%q: status %d, want %d", path, code, want)
		}
	}
	for _, path := range []string{"/snap.x/y", "/lull.a/b", long} {
		if !w.there(path) {
			t.Errorf("got %s removed, want it left alone", path)
		}
	}
	// Too long for a path: nothing happens at all.
	if code := w.call("/lull.a/" + strings.Repeat("b/", 2100) + "b"); code != 0 || !w.there("/lull.a/b") {
		t.Errorf("a path of 4 KiB: got status %d and /lull.a/b there %v, want status 0 and true", code, w.there("/lull.a/b"))
	}
	// Without a path to tell the run directory from.
	for _, argv := range [][]string{{"release-agent", run}, {"/release-agent", run}, {w.bin}, {w.bin, run, "x"}, {"", run}} {
		cmd := &exec.Cmd{Path: w.bin, Args: argv}
		if cmd.Run(); cmd.ProcessState.ExitCode() != 64 {
			t.Errorf("%q: got %v, want exit status 64", argv, cmd.ProcessState)
		}
	}
}

// TestLinkForALock: a run directory is root's, but a link instead of the lock
// is followed by nobody.
func TestLinkForALock(t *testing.T) {
	w := newWorld(t, t.TempDir())
	w.mkdir(run)
	w.mark()
	target := filepath.Join(t.TempDir(), "target")
	w.no(os.WriteFile(target, nil, 0o644))
	w.no(os.Remove(w.ctl.LockPath(app)))
	w.no(os.Symlink(target, w.ctl.LockPath(app)))
	if w.call(run); !w.running() {
		t.Error("a lock through a link has counted")
	}
}

// TestKernel has the kernel call the agent.
func TestKernel(t *testing.T) {
	top := require.ReleaseAgent(t)
	require.Lock(t, "freezer")
	w := newWorld(t, top)
	register := filepath.Join(top, "release_agent")
	before, err := os.ReadFile(register)
	w.no(err)
	w.no(os.WriteFile(register, []byte(w.bin), 0))
	t.Cleanup(func() {
		if err := os.WriteFile(register, append(before, '\n'), 0); err != nil {
			t.Error(err)
		}
	})
	group := filepath.Join(top, filepath.Dir(run))
	w.mkdir(run)
	t.Cleanup(func() {
		for _, dir := range []string{filepath.Join(top, run, "nested"), filepath.Join(top, run), group} {
			if err := unix.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
		}
	})
	for _, dir := range []string{group, filepath.Join(top, run)} {
		w.no(os.WriteFile(filepath.Join(dir, "notify_on_release"), []byte("1"), 0))
	}
	w.mkdir(run + "/nested") // inherits notify_on_release
	w.mark()
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	w.no(err)
	w.no(cmd.Start())
	pid := []byte(strconv.Itoa(cmd.Process.Pid))
	w.no(os.WriteFile(filepath.Join(top, run, "nested", "cgroup.procs"), pid, 0))
	in.Close()
	cmd.Wait()
	// The kernel calls for the nested group, then for the run, then perhaps for
	// the instance. Every call gives a sign; one of them removes the marker.
	for {
		select {
		case e := <-w.w.Events():
			if e.Kind != runctl.RunningGone {
				continue
			}
			if w.there(filepath.Dir(run)) {
				t.Error("the marker is gone, the group is not")
			}
			return
		case <-time.After(10 * time.Second):
			t.Fatal("the marker was not removed")
		}
	}
}

// TestOtherMachine compiles for the other architecture, and runs the result
// where an emulator is at hand.
func TestOtherMachine(t *testing.T) {
	cc, err := exec.LookPath("aarch64-linux-gnu-gcc")
	if err != nil {
		t.Skip("no compiler for aarch64 here")
	}
	bin := filepath.Join(t.TempDir(), "lull-release-agent")
	build(t, cc, bin)
	qemu, err := exec.LookPath("qemu-aarch64")
	if err != nil {
		if qemu, err = exec.LookPath("qemu-aarch64-static"); err != nil {
			t.Skip("compiled, but no emulator here to run it")
		}
	}
	w := newWorld(t, t.TempDir())
	w.mkdir(run)
	w.mark()
	if text, err := exec.Command(qemu, "-0", w.bin, bin, run).CombinedOutput(); err != nil || w.there(run) || w.running() {
		t.Errorf("got %v, output %q, group there %v, marker there %v; want no error and neither", err, text, w.there(run), w.running())
	}
}

// TestSmall holds what makes it start fast.
func TestSmall(t *testing.T) {
	require.Program(t, "cc")
	bin := filepath.Join(t.TempDir(), "lull-release-agent")
	build(t, "cc", bin)
	st, err := os.Stat(bin)
	if err != nil || st.Size() > 8<<10 {
		t.Errorf("got an agent of %d bytes (%v), want at most %d", st.Size(), err, 8<<10)
	}
	source, err := os.ReadFile("release-agent.c")
	if n := strings.Count(string(source), "\n"); err != nil || n > 200 {
		t.Errorf("got %d lines of source (%v), want at most 200", n, err)
	}
}

func BenchmarkReleaseAgent(b *testing.B) {
	bin := filepath.Join(b.TempDir(), "lull-release-agent")
	if text, err := exec.Command("sh", "build.sh", bin).CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, text)
	}
	for b.Loop() {
		if err := exec.Command(bin, "/lull.x/y").Run(); err != nil {
			b.Fatal(err)
		}
	}
}
