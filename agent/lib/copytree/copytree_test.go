package copytree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/e2e/require"
)

func TestMain(m *testing.M) {
	// As a user without privileges: see TestAsUser.
	if src, ok := os.LookupEnv("DATACOPY_SRC"); ok {
		stats, err := Copy(context.Background(), src, os.Getenv("DATACOPY_DST"), Options{})
		fmt.Println(strings.Join(skipped(stats), "\n"))
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// skipped lists what was skipped, in order.
func skipped(stats Stats) (list []string) {
	for _, k := range stats.Skipped {
		list = append(list, k.String())
	}
	slices.Sort(list)
	return list
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// place returns a source directory and a destination beside it.
func place(t *testing.T) (src, dst string) {
	t.Helper()
	dir := t.TempDir()
	src = filepath.Join(dir, "1")
	must(t, os.Mkdir(src, 0o755))
	return src, filepath.Join(dir, "2")
}

func put(t *testing.T, path, content string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(content), 0o644))
}

// describe lists a tree with all attributes that a copy keeps.
func describe(t *testing.T, root string) []string {
	t.Helper()
	var out []string
	first := map[uint64]string{}
	must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("%s %o %d:%d %d.%09d", rel, st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch {
		case d.Type() == fs.ModeSymlink:
			target, _ := os.Readlink(path)
			line += " → " + target
		case d.Type().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %q", len(data), data[:min(len(data), 40)])
			if st.Nlink > 1 {
				if _, ok := first[st.Ino]; !ok {
					first[st.Ino] = rel
				}
				line += " = " + first[st.Ino]
			}
		}
		if d.Type() != fs.ModeSymlink {
			b := make([]byte, 4096)
			n, _ := unix.Listxattr(path, b)
			names := strings.Split(string(b[:max(n, 0)]), "\x00")
			slices.Sort(names)
			for _, name := range names {
				if name != "" {
					v := make([]byte, 4096)
					n, _ := unix.Getxattr(path, name, v)
					line += fmt.Sprintf(" %s=%q", name, v[:max(n, 0)])
				}
			}
		}
		out = append(out, line)
		return nil
	}))
	return out
}

func same(t *testing.T, src, dst string) {
	t.Helper()
	want, got := describe(t, src), describe(t, dst)
	for i := range max(len(want), len(got)) {
		var w, g string
		if i < len(want) {
			w = want[i]
		}
		if i < len(got) {
			g = got[i]
		}
		if w != g {
			t.Errorf("got  %s\nwant %s", g, w)
		}
	}
}

// clean checks that nothing but the copy is left beside the source.
func clean(t *testing.T, dst string) {
	t.Helper()
	for _, p := range []string{dst + PartialSuffix, dst + PartialSuffix + indexSuffix, dst + PartialSuffix + indexSuffix + ".new"} {
		if _, err := os.Lstat(p); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left behind", p)
		}
	}
}

// furnish makes one of everything.
func furnish(t *testing.T, src string) {
	t.Helper()
	put(t, src+"/plain", "plain")
	put(t, src+"/empty", "")
	put(t, src+"/a/b/c/deep", "deep")
	put(t, src+"/name with\nnewline", "x")
	put(t, src+"/bytes\xff", "x")
	put(t, src+"/script", "#!/bin/sh\n")
	must(t, os.Chmod(src+"/script", 0o4751|os.ModeSetuid))
	put(t, src+"/secret", "x")
	must(t, os.Chmod(src+"/secret", 0))
	must(t, os.Symlink("plain", src+"/link"))
	must(t, os.Symlink("/nowhere/at/all", src+"/dangling"))
	must(t, os.Symlink("..", src+"/a/up"))
	must(t, os.Mkdir(src+"/closed", 0o555))
	must(t, os.Mkdir(src+"/sticky", 0o755))
	must(t, os.Chmod(src+"/sticky", 0o1777|os.ModeSticky))
	put(t, src+"/hard1", "hard")
	must(t, os.Link(src+"/hard1", src+"/a/hard2"))
	must(t, os.Link(src+"/hard1", src+"/a/b/hard3"))
	must(t, unix.Setxattr(src+"/plain", "user.colour", []byte("blue\x00"), 0))
	must(t, unix.Setxattr(src+"/a", "user.folder", []byte("yes"), 0))
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	must(t, os.WriteFile(src+"/big", big, 0o600))
	if os.Geteuid() == 0 {
		must(t, os.Lchown(src+"/plain", 1234, 2345))
		must(t, os.Lchown(src+"/link", 1234, 2345))
		must(t, os.Lchown(src+"/a/b", 1234, 2345))
		must(t, os.Chown(src+"/script", 1, 1))
		must(t, os.Chmod(src+"/script", 0o751|os.ModeSetuid))
	}
	old := time.Date(1999, 12, 31, 23, 59, 59, 123456789, time.UTC)
	for _, name := range []string{"plain", "a/b/c", "a", "closed"} {
		must(t, os.Chtimes(filepath.Join(src, name), old, old))
	}
	ts := []unix.Timespec{{Sec: 5}, {Sec: 6, Nsec: 7}}
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, src+"/link", ts, unix.AT_SYMLINK_NOFOLLOW))
	must(t, os.Chtimes(src, old, old))
}

func TestCopy(t *testing.T) {
	src, dst := place(t)
	furnish(t, src)
	before := describe(t, src)
	var last, total int64
	stats, err := Copy(t.Context(), src, dst, Options{Progress: func(d, n int64) {
		if d < last || d > n {
			t.Errorf("progress: got %d of %d after %d, want it to grow up to the total", d, n, last)
		}
		last, total = d, n
	}})
	must(t, err)
	same(t, src, dst)
	clean(t, dst)
	if !slices.Equal(before, describe(t, src)) {
		t.Error("the source has changed")
	}
	if last != total || total == 0 {
		t.Errorf("progress ended with %d of %d, want all of a total above 0", last, total)
	}
	if len(stats.Skipped) != 0 || stats.Bytes < 1<<20 || stats.Files != 14 {
		t.Errorf("got %+v, want nothing skipped, 14 files and at least 1 MiB", stats)
	}
	if _, err := Copy(t.Context(), src, dst, Options{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over an existing destination: got %v, want the error %v", err, fs.ErrExist)
	}
	if _, err := Copy(t.Context(), src+"x", dst+"x", Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without source: %v", err)
	}
}

func TestOtherFileSystem(t *testing.T) {
	src, _ := place(t)
	furnish(t, src)
	dir, err := os.MkdirTemp("/dev/shm", "lull-datacopy")
	if err != nil {
		require.Missing(t, "needs /dev/shm")
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	var st1, st2 unix.Stat_t
	must(t, unix.Stat(src, &st1))
	must(t, unix.Stat(dir, &st2))
	if st1.Dev == st2.Dev {
		require.Missing(t, "needs /dev/shm to be a file system of its own")
	}
	must1 := func(_ Stats, err error) { t.Helper(); must(t, err) }
	must1(Copy(t.Context(), src, dir+"/2", Options{}))
	same(t, src, dir+"/2")
	must1(Copy(t.Context(), dir+"/2", filepath.Dir(src)+"/3", Options{}))
	same(t, src, filepath.Dir(src)+"/3")
}

func TestSpecialFiles(t *testing.T) {
	src, dst := place(t)
	must(t, unix.Mkfifo(src+"/fifo", 0o644))
	l, err := net.Listen("unix", src+"/socket")
	must(t, err)
	defer l.Close()
	put(t, src+"/file", "x")
	want := []string{"fifo: it is a fifo", "socket: it is a socket"}
	if os.Geteuid() == 0 && unix.Mknod(src+"/device", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))) == nil {
		want = append([]string{"device: it is a device"}, want...)
	}
	stats, err := Copy(t.Context(), src, dst, Options{})
	must(t, err)
	if got := skipped(stats); !slices.Equal(got, want) || len(stats.Lost()) > 0 {
		t.Errorf("skipped %q, want %q; lost %q", got, want, stats.Lost())
	}
	entries, _ := os.ReadDir(dst)
	if len(entries) != 1 {
		t.Errorf("copied %v; want 1 entries", entries)
	}
}

func TestSparse(t *testing.T) {
	src, dst := place(t)
	f, err := os.Create(src + "/sparse")
	must(t, err)
	for _, at := range []int64{0, 64 << 20, 128<<20 - 7} {
		_, err = f.WriteAt([]byte("data at "+fmt.Sprint(at)), at)
		must(t, err)
	}
	must(t, f.Truncate(1<<30))
	must(t, f.Close())
	f, err = os.Create(src + "/hole")
	must(t, err)
	must(t, f.Truncate(1<<30))
	must(t, f.Close())
	stats, err := Copy(t.Context(), src, dst, Options{})
	must(t, err)
	for _, name := range []string{"sparse", "hole"} {
		var a, b unix.Stat_t
		must(t, unix.Stat(filepath.Join(src, name), &a))
		must(t, unix.Stat(filepath.Join(dst, name), &b))
		if a.Size != b.Size || b.Blocks > a.Blocks+64 {
			t.Errorf("%s: %d bytes in %d blocks, want %d in %d", name, b.Size, b.Blocks, a.Size, a.Blocks)
		}
	}
	if stats.Bytes > 1<<20 {
		t.Errorf("copied %d bytes of two sparse files, want at most 1 MiB", stats.Bytes)
	}
	f, err = os.Open(dst + "/sparse")
	must(t, err)
	defer f.Close()
	b := make([]byte, 16)
	_, err = f.ReadAt(b, 64<<20)
	must(t, err)
	if string(b) != "data at 67108864" {
		t.Errorf("got %q; want content %q", b, "data at 67108864")
	}
}

func TestCopyWithoutKernelHelp(t *testing.T) {
	src, dst := place(t)
	furnish(t, src)
	root, err := openRoot(src)
	must(t, err)
	defer root.Close()
	parent, base, partial, err := locate(dst, Options{})
	must(t, err)
	defer parent.Close()
	j := &job{ctx: t.Context(), src: root, parent: parent, base: base, partial: partial, asRoot: os.Geteuid() == 0, seen: map[inode]first{}}
	j.mount, err = statRoot(root)
	must(t, err)
	must(t, j.open())
	defer j.dst.Close()
	must(t, j.finish())
	same(t, src, dst)
}

// acl is user:1000:rw- beside owner, group, mask and others
// (linux/posix_acl_xattr.h).
func acl() []byte {
	b := []byte{2, 0, 0, 0}
	for _, e := range [][3]uint32{{1, 6, 0xffffffff}, {2, 6, 1000}, {4, 4, 0xffffffff}, {16, 6, 0xffffffff}, {32, 0, 0xffffffff}} {
		b = append(b, byte(e[0]), 0, byte(e[1]), 0, byte(e[2]), byte(e[2]>>8), byte(e[2]>>16), byte(e[2]>>24))
	}
	return b
}

func TestAccessControlLists(t *testing.T) {
	src, dst := place(t)
	put(t, src+"/d/f", "x")
	put(t, src+"/plain/f", "x")
	acl := acl()
	if err := unix.Setxattr(src+"/d", aclDefault, acl, 0); err != nil {
		require.Missing(t, "needs ACLs: %v", err)
	}
	must(t, unix.Setxattr(src+"/d/f", aclAccess, acl, 0))
	must(t, os.Mkdir(src+"/d/inherits", 0o755))
	put(t, src+"/d/inherits/f", "x")
	put(t, src+"/d/bare", "x")
	must(t, unix.Removexattr(src+"/d/bare", aclAccess))
	// The directory of the copy inherits ACLs as well, which must not show.
	must(t, unix.Setxattr(filepath.Dir(src), aclDefault, acl, 0))
	_, err := Precopy(t.Context(), src, dst, Options{})
	must(t, err)
	put(t, src+"/d/later", "x")
	must(t, unix.Removexattr(src+"/d/later", aclAccess))
	_, err = Copy(t.Context(), src, dst, Options{})
	must(t, err)
	same(t, src, dst)
}

func TestCrashAndRepeat(t *testing.T) {
	for name, leave := range map[string]func(t *testing.T, partial string){
		"half a copy": func(t *testing.T, partial string) {
			put(t, partial+"/plain", "half")
			put(t, partial+"/a/b/strange", "x")
			must(t, os.Mkdir(partial+"/a/closed", 0))
			must(t, os.Mkdir(partial+"/link", 0o755))
		},
		"a file":                func(t *testing.T, partial string) { put(t, partial, "x") },
		"a symlink":             func(t *testing.T, partial string) { must(t, os.Symlink("/etc", partial)) },
		"an index alone":        func(t *testing.T, partial string) { put(t, partial+indexSuffix, indexMagic) },
		"a broken index":        func(t *testing.T, partial string) { put(t, partial+"/x", "y"); put(t, partial+indexSuffix, "garbage") },
		"half an index":         func(t *testing.T, partial string) { put(t, partial+indexSuffix+".new", "x") },
		"an index as a fifo":    func(t *testing.T, partial string) { must(t, unix.Mkfifo(partial+indexSuffix, 0o600)) },
		"an index as a symlink": func(t *testing.T, partial string) { must(t, os.Symlink("/etc/passwd", partial+indexSuffix)) },
	} {
		t.Run(name, func(t *testing.T) {
			src, dst := place(t)
			furnish(t, src)
			leave(t, dst+PartialSuffix)
			_, err := Copy(t.Context(), src, dst, Options{})
			must(t, err)
			same(t, src, dst)
			clean(t, dst)
		})
	}
}

func TestCancel(t *testing.T) {
	src, dst := place(t)
	furnish(t, src)
	for name, do := range map[string]func(context.Context, string, string, Options) (Stats, error){"Copy": Copy, "Precopy": Precopy} {
		for after := range int64(4) {
			ctx, cancel := context.WithCancel(t.Context())
			n := int64(0)
			_, err := do(ctx, src, dst, Options{Progress: func(_, _ int64) {
				if n++; n > after {
					cancel()
				}
			}})
			cancel()
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%s cancelled after %d: %v; want the error %v", name, after, err, context.Canceled)
			}
			if _, err := os.Lstat(dst); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: there is a destination", name)
			}
		}
	}
	_, err := Copy(t.Context(), src, dst, Options{})
	must(t, err)
	same(t, src, dst)
}

func TestDiscard(t *testing.T) {
	src, dst := place(t)
	furnish(t, src)
	_, err := Precopy(t.Context(), src, dst, Options{Partial: ".2.partial"})
	must(t, err)
	if _, err := os.Lstat(filepath.Dir(dst) + "/.2.partial"); err != nil {
		t.Error(err)
	}
	for range 2 {
		must(t, Discard(dst, Options{Partial: ".2.partial"}))
	}
	entries, _ := os.ReadDir(filepath.Dir(dst))
	if len(entries) != 1 {
		t.Errorf("left: %v", entries)
	}
	must(t, Discard(filepath.Dir(dst)+"/nowhere/2", Options{}))
	for _, bad := range []string{"a/b", "..", ".", "2"} {
		if _, err := Copy(t.Context(), src, dst, Options{Partial: bad}); err == nil {
			t.Errorf("%q as partial", bad)
		}
	}
}

// A user's copy skips unreadable files and succeeds.
func TestAsUser(t *testing.T) {
	require.Root(t)
	const uid = 12345
	exe, err := os.Executable()
	must(t, err)
	dir, err := os.MkdirTemp("/tmp", "lull-datacopy")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	data, err := os.ReadFile(exe)
	must(t, err)
	must(t, os.WriteFile(dir+"/exe", data, 0o755))
	must(t, os.Mkdir(dir+"/home", 0o755))
	src := dir + "/home/1"
	put(t, src+"/mine", "x")
	put(t, src+"/d/mine", "x")
	put(t, src+"/readonly/f", "x")
	put(t, src+"/unreadable", "x")
	put(t, src+"/closed/f", "x")
	put(t, src+"/foreign", "x")
	must(t, filepath.WalkDir(dir+"/home", func(path string, _ fs.DirEntry, _ error) error { return os.Chown(path, uid, uid) }))
	must(t, os.Chmod(src+"/unreadable", 0))
	must(t, os.Chmod(src+"/closed", 0))
	must(t, os.Chmod(src+"/readonly", 0o555))
	must(t, os.Chown(src+"/foreign", 0, 0))
	must(t, os.Chmod(src+"/foreign", 0o600))
	cmd := exec.Command(dir + "/exe")
	cmd.Env = []string{"DATACOPY_SRC=" + src, "DATACOPY_DST=" + dir + "/home/2"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got, want := string(out), "foreign: it belongs to root and cannot be read\n"; got != want {
		t.Errorf("skipped %q, want %q", got, want)
	}
	for path, mode := range map[string]fs.FileMode{"mine": 0o644, "d/mine": 0o644, "readonly": fs.ModeDir | 0o555, "readonly/f": 0o644, "closed": fs.ModeDir} {
		fi, err := os.Lstat(filepath.Join(dir, "home/2", path))
		if err != nil {
			t.Error(err)
		} else if fi.Mode() != mode || fi.Sys().(*syscall.Stat_t).Uid != uid {
			t.Errorf("%s: got mode %v of user %d, want %v of user %d", path, fi.Mode(), fi.Sys().(*syscall.Stat_t).Uid, mode, uid)
		}
	}
	if _, err := os.Lstat(dir + "/home/2/foreign"); err == nil {
		t.Error("a file that cannot be read was copied")
	}
}
