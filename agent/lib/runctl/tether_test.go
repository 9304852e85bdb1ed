package runctl

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/vacancy"
)

const prefix16 = "0123456789abcdef"

// TestTether: a child of a launch has it too, at the same number, and its end is reported
// when the last of them is gone.
func TestTether(t *testing.T) {
	d := create(t)
	if _, err := d.OpenTether(app, prefix16); !errkind.Is(err, errkind.NotFound) {
		t.Errorf("a tether that was not made: %v", err)
	}
	no(t, d.CreateTether(app, prefix16))
	if st, err := os.Stat(d.TetherPath(app, prefix16)); err != nil {
		t.Error(err)
	} else if st.Mode() != 0o644 {
		t.Errorf("the tether has mode %v, want %v", st.Mode(), fs.FileMode(0o644))
	}
	w, err := d.Watch()
	no(t, err)
	defer w.Close()
	no(t, d.CreateTether(app, prefix16)) // no event
	fd, err := d.OpenTether(app, prefix16)
	no(t, err)
	if fd < TetherFD || fd > 63 { // beyond 63 the kernel makes the table of descriptors larger
		t.Errorf("got descriptor %d, want one from %d to 63", fd, TetherFD)
	}
	cmd := exec.Command("sleep", "1000")
	no(t, cmd.Start()) // Go marks what it opens itself; this one was not
	t.Cleanup(func() { cmd.Process.Kill() })
	unix.Close(fd)
	seal := func() bool {
		s, err := vacancy.NewLeases().Open(d.TetherPath(app, prefix16), nil)
		no(t, err)
		defer s.Close()
		return s.Take().Granted()
	}
	if seal() {
		t.Error("the child is not seen")
	}
	no(t, cmd.Process.Kill())
	cmd.Wait()
	select {
	case e := <-w.Events():
		if e.Kind != TetherReleased || e.Instance != app {
			t.Errorf("got %v of %s; want kind %v and instance %v", e.Kind, e.Instance, TetherReleased, app)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the end was not told")
	}
	if !vacancy.Retry(seal) {
		t.Error("busy after the end")
	}
	no(t, d.SetRunning(app)) // the next event: trying a lease causes no event
	if e := <-w.Events(); e.Kind != RunningMade {
		t.Errorf("got %v, want %v", e.Kind, RunningMade)
	}
}

func TestSealedTether(t *testing.T) {
	d := create(t)
	no(t, d.CreateTether(app, prefix16))
	s, err := vacancy.NewLeases().Open(d.TetherPath(app, prefix16), nil)
	no(t, err)
	if r := s.Take(); !r.Granted() {
		t.Fatalf("Take: got %+v, want a granted lease", r)
	}
	if _, err := d.OpenTether(app, prefix16); !errors.Is(err, ErrSealed) {
		t.Errorf("got %v; want the error %v", err, ErrSealed)
	}
	s.Close()
	fd, err := d.OpenTether(app, prefix16)
	no(t, err)
	unix.Close(fd)
}

func TestTethers(t *testing.T) {
	d := create(t)
	no(t, d.CreateInstance("b"))
	no(t, d.CreateTether(app, prefix16))
	no(t, d.CreateTether("b", strings.Repeat("b", 16)))
	if err := d.CreateTether(app, "../../etc/passwd"); err == nil {
		t.Error("a path was taken for a hash")
	}
	for _, place := range []string{"c", "d"} { // a file of another type in its place
		path := d.TetherPath(place, prefix16)
		if place == "c" {
			no(t, os.Mkdir(path, 0o755))
		} else {
			no(t, os.Symlink("/etc/passwd", path))
		}
		no(t, d.CreateTether(place, prefix16))
		if st, err := os.Lstat(path); err != nil {
			t.Error(err)
		} else if !st.Mode().IsRegular() {
			t.Errorf("%s: got %v, want a regular file", path, st.Mode())
		}
	}
	all, err := d.Tethers("")
	if err != nil || len(all) != 4 {
		t.Errorf("%v, %v; want no error and 4 of them", all, err)
	}
	own, err := d.Tethers(app)
	if err != nil || len(own) != 1 || own[0].Instance != app || own[0].Prefix != prefix16 {
		t.Errorf("%v, %v; want no error, 1 own, instance %v and prefix %v", own, err, app, prefix16)
	}
	no(t, d.RemoveInstance(app))
	if _, err := os.Lstat(d.TetherPath(app, prefix16)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it stays: got %v, want the error %v", err, fs.ErrNotExist)
	}
	no(t, d.RemoveTether("b", strings.Repeat("b", 16)))
	for _, name := range []string{"lull.open", "lull..open", "lull." + prefix16 + ".open", "lull.x.0123.open", "lull.x." + strings.ToUpper(prefix16) + ".open", "x"} {
		if i, p, ok := ParseTether(name); ok {
			t.Errorf("ParseTether(%q): got %q, %q and true, want false", name, i, p)
		}
	}
}

// TestTetherWithFewDescriptors: a user's limit may be low.
func TestTetherWithFewDescriptors(t *testing.T) {
	d := create(t)
	no(t, d.CreateTether(app, prefix16))
	var old unix.Rlimit
	no(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	low := old
	low.Cur = 64
	no(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &low))
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
	fd, err := d.OpenTether(app, prefix16)
	if err != nil || fd < 3 || fd >= 64 {
		t.Fatalf("OpenTether with at most 64 descriptors: got %d, %v; want 3 to 63 and no error", fd, err)
	}
	unix.Close(fd)
}
