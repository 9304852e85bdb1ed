package copytree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/e2e/require"
)

// deep makes a chain of directories that no path can name.
func deep(t *testing.T, top string, levels int, each func(dir int)) {
	t.Helper()
	fd, err := unix.Open(top, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	for range levels {
		must(t, unix.Mkdirat(fd, "d", 0o700))
		next, err := unix.Openat(fd, "d", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		must(t, err)
		if each != nil {
			each(fd)
		}
		unix.Close(fd)
		fd = next
	}
	unix.Close(fd)
}

// TestRemoveDeep: what a service has nested deeper than there are descriptors goes,
// with names in it that look like ours, and closed directories.
func TestRemoveDeep(t *testing.T) {
	var old unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	src, _ := place(t)
	n := 0
	deep(t, src, 6000, func(dir int) {
		n++
		if n%500 == 0 {
			must(t, unix.Mkdirat(dir, fmt.Sprintf(".lull-deep-%d", n), 0o700))
			must(t, unix.Mkdirat(dir, "closed", 0))
		}
	})
	few := old
	few.Cur = 200
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &few))
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
	must(t, Remove(src))
	if _, err := os.Lstat(src); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
	must(t, Remove(src))
}

// TestManyEntries: a directory is read in pieces; what goes and what comes between a
// precopy and the copy is noticed in all of them.
func TestManyEntries(t *testing.T) {
	src, dst := place(t)
	const n = batch + 1000
	for i := range n {
		must(t, os.WriteFile(fmt.Sprintf("%s/%d", src, i), nil, 0o600))
	}
	_, err := Precopy(t.Context(), src, dst, Options{})
	must(t, err)
	for i := 0; i < n; i += 2 {
		must(t, os.Rename(fmt.Sprintf("%s/%d", src, i), fmt.Sprintf("%s/new%d", src, i)))
	}
	_, err = Copy(t.Context(), src, dst, Options{})
	must(t, err)
	in, err := os.ReadDir(src)
	must(t, err)
	out, err := os.ReadDir(dst)
	must(t, err)
	if !slices.EqualFunc(in, out, func(a, b os.DirEntry) bool { return a.Name() == b.Name() }) {
		t.Errorf("the copy has %d entries, want the %d of the source under the same names", len(out), len(in))
	}
}

// TestWrittenMeanwhile: a file that is written to during its copy is
// re-copied, and is reported if it never stays unchanged. A precopy leaves
// that to the copy.
func TestWrittenMeanwhile(t *testing.T) {
	for _, c := range []struct {
		writes int
		lost   bool
	}{{1, false}, {1000, true}} {
		src, dst := place(t)
		put(t, src+"/log", strings.Repeat("x", 5000))
		f, err := os.OpenFile(src+"/log", os.O_WRONLY|os.O_APPEND, 0)
		must(t, err)
		defer f.Close()
		left := c.writes
		o := Options{Progress: func(done, _ int64) {
			if done > 0 && left > 0 {
				left--
				if _, err := f.WriteString("more"); err != nil {
					t.Error(err)
				}
			}
		}}
		stats, err := Copy(t.Context(), src, dst, o)
		must(t, err)
		if left == c.writes {
			require.Missing(t, "needs a file system without reflinks, whose copies are no snapshots")
		}
		lost := stats.Lost()
		if (len(lost) == 1) != c.lost || c.lost && lost[0].String() != "log: it was written to while it was copied" {
			t.Errorf("%d writes: lost %q", c.writes, lost)
		}
		in, err := os.ReadFile(src + "/log")
		must(t, err)
		out, err := os.ReadFile(dst + "/log")
		must(t, err)
		if !c.lost && string(in) != string(out) {
			t.Errorf("%d writes, nothing reported as lost: the copy has %d bytes, want the same %d as in the source", c.writes, len(out), len(in))
		}
		must(t, f.Close())
	}
}

// TestOwnWhateverItsMode: a user's own files are copied regardless of their
// modes, which both copies keep; another user's are reported as not copied.
func TestOwnWhateverItsMode(t *testing.T) {
	require.Root(t)
	top, err := os.MkdirTemp("", "lull-datacopy-modes-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(top) })
	src := filepath.Join(top, "1")
	put(t, src+"/closed/sub/file", "mine")
	put(t, src+"/unsearchable/file", "mine")
	put(t, src+"/none", "none")
	put(t, src+"/writeonly", "wo")
	put(t, src+"/roots", "root's")
	put(t, src+"/rootdir/file", "root's")
	modes := map[string]os.FileMode{"none": 0, "writeonly": 0o200, "closed/sub/file": 0, "closed/sub": 0, "closed": 0o300, "unsearchable": 0o600}
	must(t, filepath.WalkDir(top, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, 1234, 1234))
	}))
	for _, name := range []string{"roots", "rootdir/file", "rootdir"} {
		must(t, os.Chown(filepath.Join(src, name), 0, 0))
	}
	must(t, os.Chmod(src+"/roots", 0o600))
	must(t, os.Chmod(src+"/rootdir", 0o700))
	for _, name := range []string{"closed/sub/file", "closed/sub", "closed", "none", "writeonly", "unsearchable"} {
		must(t, os.Chmod(filepath.Join(src, name), modes[name]))
	}
	must(t, os.Chmod(top, 0o755))

	exe := filepath.Join(top, "test")
	b, err := os.ReadFile("/proc/self/exe")
	must(t, err)
	must(t, os.WriteFile(exe, b, 0o755))
	for _, dst := range []string{top + "/2", top + "/3"} {
		c := exec.CommandContext(context.Background(), exe)
		c.Env = append(os.Environ(), "DATACOPY_SRC="+src, "DATACOPY_DST="+dst)
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1234, Gid: 1234}}
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		want := "rootdir: it belongs to root and cannot be read\nroots: it belongs to root and cannot be read\n"
		if string(out) != want {
			t.Errorf("said %q, want %q", out, want)
		}
		for name, text := range map[string]string{"closed/sub/file": "mine", "unsearchable/file": "mine", "none": "none", "writeonly": "wo"} {
			if b, err := os.ReadFile(filepath.Join(dst, name)); err != nil || string(b) != text {
				t.Errorf("%s: %q, %v; want no error and content %v", name, b, err, text)
			}
		}
		for name, mode := range modes {
			for _, in := range []string{src, dst} {
				if st, err := os.Stat(filepath.Join(in, name)); err != nil {
					t.Error(err)
				} else if st.Mode().Perm() != mode {
					t.Errorf("%s/%s: got mode %v, want %v", in, name, st.Mode().Perm(), mode)
				}
			}
		}
	}
}

// TestLeased: a file on which another process keeps a lease is left out of the copy and
// named, and fails neither the precopy nor the copy; one whose lease ends when it is asked
// for is copied.
func TestLeased(t *testing.T) {
	src, dst := place(t)
	put(t, src+"/leased", "x")
	put(t, src+"/other", "y")
	holder, err := os.Open(src + "/leased")
	must(t, err)
	defer holder.Close()
	if _, err := unix.FcntlInt(holder.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		require.Missing(t, "needs leases on files: %v", err)
	}
	_, err = Precopy(t.Context(), src, dst, Options{})
	must(t, err)
	stats, err := Copy(t.Context(), src, dst, Options{})
	must(t, err)
	if got, want := fmt.Sprint(stats.Lost()), "[leased: another process keeps a lease on it]"; got != want {
		t.Errorf("lost %s, want %s", got, want)
	}
	if b, err := os.ReadFile(dst + "/other"); err != nil || string(b) != "y" {
		t.Errorf("the other file: %q, %v; want %q", b, err, "y")
	}
	fd, ended := holder.Fd(), make(chan struct{})
	go func() { // after the copy has asked for it
		defer close(ended)
		for {
			if now, err := unix.FcntlInt(fd, unix.F_GETLEASE, 0); err != nil || now != unix.F_WRLCK {
				unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_UNLCK)
				return
			}
			runtime.Gosched()
		}
	}()
	stats, err = Copy(t.Context(), src, dst+"2", Options{})
	must(t, err)
	<-ended
	if len(stats.Lost()) > 0 {
		t.Errorf("lost %v, want nothing", stats.Lost())
	}
	same(t, src, dst+"2")
}

// TestLongPaths: what is remembered of a source is bounded in bytes, not only in entries:
// the owner of the data chooses how long its paths are. A precopy ends when it can remember
// no more, and the copy completes it.
func TestLongPaths(t *testing.T) {
	src, dst := place(t)
	const levels, files = 150, 600
	fd, err := unix.Open(src, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	long := strings.Repeat("n", 255)
	for range levels {
		must(t, unix.Mkdirat(fd, long, 0o700))
		next, err := unix.Openat(fd, long, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		must(t, err)
		unix.Close(fd)
		fd = next
	}
	defer unix.Close(fd)
	for i := range files {
		must(t, unix.Mknodat(fd, fmt.Sprint(i), unix.S_IFREG|0o600, 0))
		must(t, unix.Linkat(fd, fmt.Sprint(i), fd, fmt.Sprintf("%d too", i), 0))
	}
	stats, err := Precopy(t.Context(), src, dst, Options{})
	must(t, err)
	if n := int(stats.Files); n < 100 || n > maxPaths/(levels*256)+1 {
		t.Errorf("the precopy has copied %d files, want no more than can be remembered", n)
	}
	index, err := os.Stat(dst + PartialSuffix + indexSuffix)
	must(t, err)
	if index.Size() > maxPaths+1<<20 {
		t.Errorf("the index has %d bytes, want at most about %d", index.Size(), maxPaths)
	}
	stats, err = Copy(t.Context(), src, dst, Options{})
	must(t, err)
	if got := stats.Files + stats.Unchanged; got != 2*files {
		t.Errorf("the copy has %d files, want %d", got, 2*files)
	}
	j := &job{seen: map[inode]first{}}
	for i := range uint64(1000) {
		j.hasNames(&unix.Statx_t{Nlink: 2, Ino: i}, strings.Repeat("p", 60<<10), i)
	}
	if j.seenBytes > maxPaths || len(j.seen) != maxPaths/(60<<10) {
		t.Errorf("%d files with %d bytes of paths are remembered, want at most %d bytes", len(j.seen), j.seenBytes, maxPaths)
	}
	j.skip(strings.Repeat("p", 60<<10), "it is long", true)
	if n := len(j.stats.Skipped[0].Path); n > 2*maxShown {
		t.Errorf("a path of %d bytes is reported, want at most about %d", n, maxShown)
	}
}
