package badinput_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/sample"
)

// TestDataOfAnotherLife: a store that remembers nothing of an application, and has its
// system data still, takes over the newest of it with the next installation, and gives
// out no number that has data already.
func TestDataOfAnotherLife(t *testing.T) {
	s := set(t, rig.Options{})
	s.write(s.path("data", app, "2", "mine"), "newest")
	s.write(s.path("data", app, "1", "mine"), "old")
	s.MustLull("remove", app)
	s.restart(func() {
		for _, name := range []string{"state.db", "revisions", "current"} {
			s.no(os.RemoveAll(s.path(name)))
		}
	})
	s.MustLull("install", app)
	target, err := os.Readlink(s.path("current", app))
	s.no(err)
	if rev := filepath.Base(target); rev != "3" {
		t.Errorf("it is revision %s, want 3", rev)
	}
	b, err := os.ReadFile(s.path("data", app, filepath.Base(target), "mine"))
	if err != nil || string(b) != "newest" {
		t.Errorf("its data is %q, %v; want no error and content %q", b, err, "newest")
	}
}

// TestServiceChoosesItsData: directories nested deeper than are copied, odd names, and a
// sparse file that is larger than the disk do not undo the update of a service; what is
// left out is named, and stays with the old revision.
func TestServiceChoosesItsData(t *testing.T) {
	s := set(t, rig.Options{})
	data := s.path("data", app, "2")
	fd, err := unix.Open(data, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	s.no(err)
	for range 1500 { // deeper than PATH_MAX, too
		s.no(unix.Mkdirat(fd, "deep", 0o700))
		next, err := unix.Openat(fd, "deep", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		s.no(err)
		unix.Close(fd)
		fd = next
	}
	unix.Close(fd)
	odd := []string{"new\nline", "\x1b[31m", "-rf", "invalid \xff\xfe", strings.Repeat("n", 255), ".tmp-x", "3.partial"}
	for _, name := range odd {
		s.write(filepath.Join(data, name), "odd")
	}
	f, err := os.Create(filepath.Join(data, "sparse"))
	s.no(err)
	s.no(f.Truncate(1 << 43))
	s.no(f.Close())

	dir := s.Path(sample.V2)
	b, err := os.ReadFile(filepath.Join(dir, "lull.yaml"))
	s.no(err)
	s.write(filepath.Join(dir, "lull.yaml"), strings.Replace(string(b), `version: "`+sample.V2+`"`, `version: "9.0"`, 1))
	s.Publish(dir)
	s.MustLull("refresh", app)
	s.UntilIdle()
	target, err := os.Readlink(s.path("current", app))
	s.no(err)
	if filepath.Base(target) != "3" {
		t.Fatalf("it is still %s: %s", target, s.Agent().Log())
	}
	if log := s.Agent().Log(); !strings.Contains(log, "a part of the system data could not be copied") || !strings.Contains(log, "it is more than 256 directories deep") {
		t.Errorf("what is left out is not named: %s", log)
	}
	for _, name := range odd {
		if b, err := os.ReadFile(s.path("data", app, "3", name)); err != nil || string(b) != "odd" {
			t.Errorf("%q: %q, %v; want no error and content %q", name, b, err, "odd")
		}
	}
	if st, err := os.Stat(s.path("data", app, "3", "sparse")); err != nil {
		t.Error(err)
	} else if st.Size() != 1<<43 {
		t.Errorf("the sparse file of revision 3 has %d bytes, want %d", st.Size(), int64(1)<<43)
	}
	if _, err := os.Stat(filepath.Join(data, "deep")); err != nil {
		t.Errorf("the old revision's is gone: %v", err)
	}
	// Deep directories are removed with their revision.
	s.Configure("policy.d/20-keep.yaml", "packages: {"+app+": {keep-revisions: 1}}\n")
	s.MustLull("policy", "reload")
	s.Until("the old data is gone", limit, func() (bool, string) {
		_, err := os.Lstat(data)
		return os.IsNotExist(err), s.Agent().Log()
	})
	s.MustLull("remove", "--purge", app)
	if _, err := os.Lstat(s.path("data", app)); !os.IsNotExist(err) {
		t.Errorf("the data after a purge: got error %v, want that it does not exist", err)
	}
}
