package copytree

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/e2e/require"
)

// mounted returns the top of a new file system. It is taken out of the mount
// table at once, so that it ends with this process, however that ends; the path
// leads through a descriptor.
func mounted(t *testing.T, args ...string) string {
	t.Helper()
	require.Root(t)
	require.Program(t, "mount")
	at := t.TempDir()
	if out, err := exec.Command("mount", append(args, at)...).CombinedOutput(); err != nil {
		require.Missing(t, "needs to mount %q: %s", args, out)
	}
	top, err := os.OpenFile(at, unix.O_PATH|unix.O_DIRECTORY, 0)
	must(t, errors.Join(err, unix.Unmount(at, unix.MNT_DETACH)))
	t.Cleanup(func() { top.Close() })
	return fmt.Sprintf("/proc/self/fd/%d", top.Fd())
}

// loop makes a file system in a file and mounts it.
func loop(t *testing.T, mkfs ...string) string {
	t.Helper()
	require.Root(t)
	require.Program(t, mkfs[0])
	image := filepath.Join(t.TempDir(), "image")
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 512<<20))
	path, err := require.Find(mkfs[0])
	must(t, err)
	if out, err := exec.Command(path, append(mkfs[1:], image)...).CombinedOutput(); err != nil {
		t.Fatalf("%q: %s", mkfs, out)
	}
	return mounted(t, "-o", "loop", image) // the device is freed with the last user
}

// overlay mounts one whose upper file system is that of a directory.
func overlay(t *testing.T, dir, options string) string {
	t.Helper()
	for _, name := range []string{"lower", "upper", "work"} {
		must(t, os.Mkdir(filepath.Join(dir, name), 0o755))
	}
	return mounted(t, "-t", "overlay", "-o", fmt.Sprintf("lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work%s", dir, dir, dir, options), "overlay")
}

// onDisk makes a directory that is not in memory, as /tmp is on Debian 13.
func onDisk(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "lull-test-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	return dir
}

func tmpfs(t *testing.T) string { return mounted(t, "-t", "tmpfs", "-o", "size=64m", "tmpfs") }

// onTmpfs is an overlay whose upper file system is in memory, as that of a system that is
// started from a read-only medium.
func onTmpfs(t *testing.T) string {
	t.Helper()
	require.Root(t)
	dir := t.TempDir()
	must(t, unix.Mount("lull-test", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=64m"))
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return overlay(t, dir, "")
}

var fileSystems = []struct {
	name     string
	mount    func(*testing.T) string
	reflinks bool
	notes    bool // changes, so that what a precopy brought over is known
}{
	{"xfs", func(t *testing.T) string { return loop(t, "mkfs.xfs", "-q") }, true, true},
	{"btrfs", func(t *testing.T) string { return loop(t, "mkfs.btrfs", "-q") }, true, true},
	{"ext4", func(t *testing.T) string { return loop(t, "mkfs.ext4", "-q") }, false, true},
	{"ext4 with whole seconds", smallInodes, false, true},
	{"tmpfs", tmpfs, false, false},
	{"overlay", func(t *testing.T) string { return overlay(t, onDisk(t), "") }, false, true},
	{"overlay on tmpfs", onTmpfs, false, false},
	{"overlay that does not flush", func(t *testing.T) string { return overlay(t, onDisk(t), ",volatile") }, false, false},
}

// smallInodes is a file system whose times are whole seconds.
func smallInodes(t *testing.T) string {
	return loop(t, "mkfs.ext4", "-q", "-I", "128", "-O", "^metadata_csum")
}

// furnishAll adds to furnish what only root can make, or not every file system
// can keep.
func furnishAll(t *testing.T, src string) {
	t.Helper()
	furnish(t, src)
	must(t, os.Mkdir(src+"/shared", 0o755))
	must(t, os.Chown(src+"/shared", 0, 4321))
	must(t, unix.Chmod(src+"/shared", 0o2775))
	put(t, src+"/shared/inherits", "x")
	must(t, os.Mkdir(src+"/shared/inherits-too", 0o700))
	must(t, os.Link(src+"/hard1", src+"/shared/hard4"))
	put(t, src+"/ping", "program")
	must(t, unix.Chmod(src+"/ping", 0o6755))
	// VFS_CAP_REVISION_2 with CAP_NET_RAW, effective (linux/capability.h).
	must(t, unix.Setxattr(src+"/ping", "security.capability", append([]byte{1, 0, 0, 2, 0, 0x20, 0, 0}, make([]byte, 12)...), 0))
	must(t, unix.Setxattr(src+"/big", aclAccess, acl(), 0))
	must(t, unix.Setxattr(src+"/sticky", aclDefault, acl(), 0))
	put(t, src+"/sticky/with", "x")
	must(t, unix.Setxattr(src+"/sticky/with", "user.long", bytes.Repeat([]byte("v"), 200), 0))
	for name, pipe := range map[string]bool{"fifo": true, "socket": false} {
		mode := uint32(unix.S_IFSOCK | 0o644)
		if pipe {
			mode = unix.S_IFIFO | 0o644
		}
		must(t, unix.Mknod(filepath.Join(src, name), mode, 0))
	}
	old := time.Date(2001, 2, 3, 4, 5, 6, 789012345, time.UTC)
	for _, name := range []string{"shared/inherits", "shared", "sticky", "hard1", "closed", ""} {
		must(t, os.Chtimes(filepath.Join(src, name), old.Add(time.Nanosecond), old))
	}
}

// sparse makes a file of a TiB that has next to nothing in it.
func sparse(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	for _, at := range []int64{3, 512 << 30, 1<<40 - 100} {
		_, err := f.WriteAt([]byte("here"), at)
		must(t, err)
	}
	must(t, f.Truncate(1<<40))
}

func sameSparse(t *testing.T, src, dst string) {
	t.Helper()
	var a, b unix.Stat_t
	must(t, errors.Join(unix.Stat(src, &a), unix.Stat(dst, &b)))
	// Metadata of a file system may count as blocks of the file.
	if a.Size != b.Size || b.Blocks > a.Blocks+128 {
		t.Errorf("%d bytes in %d blocks, want %d in %d", b.Size, b.Blocks, a.Size, a.Blocks)
	}
	f, err := os.Open(dst)
	must(t, err)
	defer f.Close()
	data := make([]byte, 10)
	for _, at := range []int64{3, 512 << 30, 1<<40 - 100} {
		if _, err := f.ReadAt(data, at); err != nil || string(data) != "here\x00\x00\x00\x00\x00\x00" {
			t.Errorf("at %d: %q, %v; want no error and data %q", at, data, err, "here\x00\x00\x00\x00\x00\x00")
		}
	}
}

// specialsGone removes from the source what is not copied, so that the rest can
// be compared.
func specialsGone(t *testing.T, src string) {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Stat(src, &st))
	must(t, errors.Join(os.Remove(src+"/fifo"), os.Remove(src+"/socket")))
	must(t, os.Chtimes(src, time.Unix(st.Atim.Unix()), time.Unix(st.Mtim.Unix())))
}

// watched is Copy that also returns how the content was copied.
func watched(t *testing.T, src, dst string) (stats Stats, reflink, ranges, buffer bool) {
	t.Helper()
	stats, err := run(t.Context(), src, dst, Options{}, func(j *job) error {
		err := j.finish()
		reflink, ranges, buffer = j.reflink, j.ranges, j.buf != nil
		return err
	})
	must(t, err)
	return stats, reflink, ranges, buffer
}

// TestFileSystems copies one of everything on each file system, with and without
// a precopy.
func TestFileSystems(t *testing.T) {
	for _, c := range fileSystems {
		t.Run(c.name, func(t *testing.T) {
			top := c.mount(t)
			src := top + "/1"
			must(t, os.Mkdir(src, 0o755))
			furnishAll(t, src)
			var atime unix.Stat_t
			must(t, unix.Stat(src+"/shared/inherits", &atime))
			stats, reflink, ranges, buffer := watched(t, src, top+"/2")
			if want := []string{"fifo: it is a fifo", "socket: it is a socket"}; !slices.Equal(skipped(stats), want) {
				t.Errorf("skipped %q, want %q", skipped(stats), want)
			}
			first := precopy(t, src, top+"/3")
			again, _, _, _ := watched(t, src, top+"/3")
			if again.Files != 0 || again.Bytes != 0 || again.Unchanged != first.Files {
				t.Errorf("after a precopy %+v: %+v; want files 0, bytes 0 and unchanged %v", first, again, first.Files)
			}
			specialsGone(t, src)
			var st unix.Stat_t
			must(t, unix.Stat(top+"/2/shared/inherits", &st))
			if st.Atim != atime.Atim {
				t.Errorf("read at %v, want %v", st.Atim, atime.Atim)
			}
			for _, dst := range []string{"/2", "/3"} {
				same(t, src, top+dst)
				clean(t, top+dst)
			}
			if buffer || reflink != c.reflinks || !c.reflinks && !ranges {
				t.Errorf("got reflink %v, copy_file_range %v, buffer %v; want reflink %v, no buffer, and copy_file_range unless there are reflinks", reflink, ranges, buffer, c.reflinks)
			}
			if got := sharing(t, src+"/big", top+"/2/big"); c.name != "tmpfs" && got != c.reflinks {
				t.Errorf("the file and its copy share extents: got %v, want %v", got, c.reflinks)
			}
			sparse(t, src+"/terabyte")
			stats, _, _, _ = watched(t, src, top+"/4")
			sameSparse(t, src+"/terabyte", top+"/4/terabyte")
			if stats.Bytes > 4<<20 {
				t.Errorf("copied %d bytes of a sparse file, want at most 4 MiB", stats.Bytes)
			}
		})
	}
}

// sharing reports whether all extents of two files are the same ones, by
// FIEMAP (Documentation/filesystems/fiemap.rst).
func sharing(t *testing.T, a, b string) bool {
	t.Helper()
	var physical [2][]uint64
	shared := true
	for i, path := range []string{a, b} {
		f, err := os.Open(path)
		must(t, err)
		const head, each, most = 32, 56, 64
		req := make([]byte, head+most*each)
		binary.NativeEndian.PutUint64(req[8:], 1<<63-1)
		binary.NativeEndian.PutUint32(req[16:], 1) // FIEMAP_FLAG_SYNC
		binary.NativeEndian.PutUint32(req[24:], most)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), 0xc020660b, uintptr(unsafe.Pointer(&req[0])))
		f.Close()
		if errno == unix.EOPNOTSUPP {
			return false
		}
		if errno != 0 {
			t.Fatal(errno)
		}
		n := binary.NativeEndian.Uint32(req[20:])
		if n == 0 {
			t.Fatalf("%s has no extents", path)
		}
		for e := range n {
			extent := req[head+each*e:]
			physical[i] = append(physical[i], binary.NativeEndian.Uint64(extent[8:]))
			shared = shared && binary.NativeEndian.Uint32(extent[40:])&0x2000 != 0 // FIEMAP_EXTENT_SHARED
		}
	}
	return shared && slices.Equal(physical[0], physical[1])
}

// TestReflinksTakeNoSpace: the copy of a file that fills half of the file system
// and more.
func TestReflinksTakeNoSpace(t *testing.T) {
	for _, c := range fileSystems[:2] {
		t.Run(c.name, func(t *testing.T) {
			top := c.mount(t)
			must(t, os.Mkdir(top+"/1", 0o755))
			f, err := os.Create(top + "/1/large")
			must(t, err)
			block := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
			for i := range 200 {
				copy(block, fmt.Sprint(i))
				_, err := f.Write(block)
				must(t, err)
			}
			must(t, errors.Join(f.Sync(), f.Close()))
			var before, after unix.Statfs_t
			must(t, unix.Statfs(top, &before))
			_, err = Copy(t.Context(), top+"/1", top+"/2", Options{})
			must(t, err)
			must(t, unix.Statfs(top, &after))
			if used := int64(before.Bfree-after.Bfree) * after.Bsize; used > 16<<20 {
				t.Errorf("the copy of 200 MiB takes %d MiB, want at most 16 (shared extents)", used>>20)
			}
			same(t, top+"/1", top+"/2")
			// A write to one does not show in the other.
			put(t, top+"/1/large", "short")
			st, err := os.Stat(top + "/2/large")
			if err != nil {
				t.Error(err)
			} else if st.Size() != 200<<20 {
				t.Errorf("the copy has %d bytes after a write to the original, want %d", st.Size(), 200<<20)
			}
		})
	}
}

// TestOneFileWithoutReflink: on btrfs a file that is written in place cannot be
// cloned into one that is not; the next one can all the same.
func TestOneFileWithoutReflink(t *testing.T) {
	top := loop(t, "mkfs.btrfs", "-q")
	must(t, os.Mkdir(top+"/1", 0o755))
	put(t, top+"/1/a-database", "")
	flag(t, top+"/1/a-database", 0x00800000) // FS_NOCOW_FL
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	for _, name := range []string{"a-database", "big"} {
		must(t, os.WriteFile(top+"/1/"+name, content, 0o644))
	}
	_, err := Copy(t.Context(), top+"/1", top+"/2", Options{})
	must(t, err)
	same(t, top+"/1", top+"/2")
	if sharing(t, top+"/1/a-database", top+"/2/a-database") {
		t.Error("this btrfs clones what the test takes for impossible")
	}
	if !sharing(t, top+"/1/big", top+"/2/big") {
		t.Error("a file was copied byte by byte because another one had to be")
	}
}

// TestBetweenFileSystems goes from each to the next.
func TestBetweenFileSystems(t *testing.T) {
	tops := make([]string, len(fileSystems))
	for i, c := range fileSystems {
		tops[i] = c.mount(t)
	}
	must(t, os.Mkdir(tops[0]+"/1", 0o755))
	furnishAll(t, tops[0]+"/1")
	for i := range fileSystems {
		next := (i + 1) % len(tops)
		_, err := Copy(t.Context(), tops[i]+"/1", tops[next]+"/2", Options{})
		must(t, err)
		if i == 0 {
			specialsGone(t, tops[0]+"/1")
		}
		if name := fileSystems[next].name; !strings.Contains(name, "seconds") {
			must(t, os.Rename(tops[next]+"/2", tops[next]+"/copy"))
			same(t, tops[i]+"/1", tops[next]+"/copy")
		}
		if next == 0 {
			break
		}
		_, err = Copy(t.Context(), tops[0]+"/1", tops[next]+"/1", Options{})
		must(t, err)
	}
}

// TestNoSpace: a copy that does not fit reports that and is resumed when it does.
func TestNoSpace(t *testing.T) {
	top := mounted(t, "-t", "tmpfs", "-o", "size=8m", "tmpfs")
	src, _ := place(t)
	put(t, src+"/small", "x")
	must(t, os.WriteFile(src+"/zlarge", make([]byte, 6<<20), 0o644))
	for i := range 6 << 20 / 4096 { // no holes
		must(t, writeAt(src+"/zlarge", "data", int64(i)*4096))
	}
	must(t, os.WriteFile(top+"/in-the-way", bytes.Repeat([]byte("x"), 5<<20), 0o644))
	for name, do := range map[string]func(string) error{
		"Copy":    func(dst string) error { _, err := Copy(t.Context(), src, dst, Options{}); return err },
		"Precopy": func(dst string) error { _, err := Precopy(t.Context(), src, dst, Options{}); return err },
	} {
		if err := do(top + "/2"); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%s: %v; want the error %v", name, err, unix.ENOSPC)
		}
		if _, err := os.Lstat(top + "/2"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: there is a destination", name)
		}
		must(t, Discard(top+"/2", Options{}))
		clean(t, top+"/2")
	}
	_, err := Copy(t.Context(), src, top+"/2", Options{})
	if !errors.Is(err, unix.ENOSPC) {
		t.Error(err)
	}
	must(t, os.Remove(top+"/in-the-way"))
	_, err = Copy(t.Context(), src, top+"/2", Options{})
	must(t, err)
	same(t, src, top+"/2")
	clean(t, top+"/2")
}

func writeAt(path, text string, at int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(text), at)
	return errors.Join(err, f.Close())
}

// TestImmutableSource: an immutable file can be copied, and the copy can be
// removed.
func TestImmutableSource(t *testing.T) {
	top := loop(t, "mkfs.ext4", "-q")
	src, dst := top+"/1", top+"/2"
	put(t, src+"/d/kept", "x")
	put(t, src+"/d/log", "x")
	for _, f := range []struct {
		path string
		flag uint32
	}{{"/d/kept", 0x10}, {"/d/log", 0x20}, {"/d", 0x10}} { // FS_IMMUTABLE_FL, FS_APPEND_FL
		flag(t, src+f.path, f.flag)
	}
	_, err := Precopy(t.Context(), src, dst, Options{})
	must(t, err)
	_, err = Copy(t.Context(), src, dst, Options{})
	must(t, err)
	same(t, src, dst)
	must(t, os.RemoveAll(dst))
	must(t, Remove(src)) // with its revision
	if _, err := os.Lstat(src); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the source is still there: %v", err)
	}
}

// TestMoreAttributesThanCanBeListed: XFS and btrfs keep more names of extended attributes
// than listxattr(2) returns. The file is copied without them, and named.
func TestMoreAttributesThanCanBeListed(t *testing.T) {
	top := loop(t, "mkfs.xfs", "-q")
	src, dst := top+"/1", top+"/2"
	put(t, src+"/file", "x")
	for i := range 300 { // of 250 bytes: more than XATTR_LIST_MAX
		must(t, unix.Setxattr(src+"/file", fmt.Sprintf("user.%0245d", i), []byte("v"), 0))
	}
	stats, err := Copy(t.Context(), src, dst, Options{})
	must(t, err)
	if got, want := fmt.Sprint(stats.Lost()), "[file: it has more extended attributes than can be listed]"; got != want {
		t.Errorf("lost %s, want %s", got, want)
	}
	if b, err := os.ReadFile(dst + "/file"); err != nil || string(b) != "x" {
		t.Errorf("the file: %q, %v; want %q", b, err, "x")
	}
}

// flag sets a flag of chattr(1) on a file (ioctl_iflags(2)).
func flag(t *testing.T, path string, flag uint32) {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	have, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	must(t, err)
	must(t, unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(have|flag)))
}
