package copytree

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// openBeneath opens a name in an open directory, never through a symlink and never
// onto another mount.
func openBeneath(dir int, name string, flags int) (int, error) {
	flags |= unix.O_NOFOLLOW | unix.O_CLOEXEC
	how := unix.OpenHow{
		Flags:   uint64(flags),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	}
	for tries := 0; ; {
		fd, err := unix.Openat2(dir, name, &how)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN && tries < 100: // another process is renaming (openat2(2))
			tries++
		case err == unix.ENOSYS || err == unix.EPERM: // Linux before 5.6, or a filter
			for {
				fd, err = unix.Openat(dir, name, flags, 0)
				if err != unix.EINTR {
					return fd, err
				}
			}
		default:
			return fd, err
		}
	}
}

// futimens sets the times of an open file, which x/sys/unix does not offer.
func futimens(fd int, times []unix.Timespec) error {
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&times[0])), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func unlink(dir int, name string) error {
	if err := unix.Unlinkat(dir, name, 0); err != nil && err != unix.ENOENT {
		return &os.PathError{Op: "unlink", Path: name, Err: err}
	}
	return nil
}

// openOwn opens an entry of the user's own whose mode denies reading, st as it
// was found. It changes the mode until restore is called. If that fails, the
// error is errUnreadable.
func openOwn(dir int, name string, flags int, st *unix.Statx_t) (fd int, restore func(), err error) {
	unreadable := func(err error) (int, func(), error) {
		return -1, nil, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	if int(st.Uid) != os.Geteuid() {
		return unreadable(unix.EACCES)
	}
	path, err := openBeneath(dir, name, unix.O_PATH)
	if err != nil {
		return unreadable(err)
	}
	var now unix.Stat_t
	if err := unix.Fstat(path, &now); err != nil || now.Ino != st.Ino || now.Mode&unix.S_IFMT != uint32(st.Mode)&unix.S_IFMT {
		unix.Close(path)
		return -1, nil, errGone
	}
	// Only by this name can the mode of what is open with O_PATH be changed.
	self := fmt.Sprintf("/proc/self/fd/%d", path)
	mode := now.Mode & 0o7777
	more := uint32(0o400)
	if now.Mode&unix.S_IFMT == unix.S_IFDIR {
		more = 0o500
	}
	if err := unix.Chmod(self, mode|more); err != nil {
		unix.Close(path)
		return unreadable(err)
	}
	restore = func() {
		unix.Chmod(self, mode)
		unix.Close(path)
	}
	if fd, err = unix.Open(self, flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err != nil {
		restore()
		return unreadable(err)
	}
	return fd, restore, nil
}

// Remove deletes a directory and its content, at any depth, and regardless of
// its modes. A missing one is not an error.
func Remove(path string) error {
	parent, err := os.OpenFile(filepath.Dir(path), os.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer parent.Close()
	if err := removeAll(int(parent.Fd()), filepath.Base(path), nil); err != nil {
		return fmt.Errorf("cannot remove %s: %w", path, err)
	}
	return parent.Sync()
}

// remover deletes a tree with a bounded number of open directories: what is deeper
// than flatDepth is moved up to the top first.
type remover struct {
	top   int // the directory that is deleted
	moved int
}

// flatDepth is how deep a tree may be before a part of it is moved up.
const flatDepth = 64

// maxPasses bounds how often a directory is read that does not become empty.
const maxPasses = 100

// removeAll deletes a name in an open directory and its content; r is nil at
// the top of a tree. A missing one is not an error.
func removeAll(dir int, name string, r *remover) error { return r.remove(dir, name, 0) }

func (r *remover) remove(dir int, name string, depth int) error {
	err := unix.Unlinkat(dir, name, 0)
	if err == unix.EPERM && unprotect(dir, name) {
		err = unix.Unlinkat(dir, name, 0)
	}
	if err == nil || err == unix.ENOENT {
		return nil
	}
	if err != unix.EISDIR && err != unix.EPERM {
		return &os.PathError{Op: "unlink", Path: name, Err: err}
	}
	if depth >= flatDepth {
		return r.moveUp(dir, name) // the top is re-read until it is empty
	}
	fd, err := openBeneath(dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err == unix.EACCES {
		// One of our directories whose mode denies access. Only the type is
		// certain here: unlink has just reported that it is no symlink.
		if err = unix.Fchmodat(dir, name, 0o700, 0); err == nil {
			fd, err = openBeneath(dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
		}
	}
	if err == unix.ENOTDIR {
		return &os.PathError{Op: "unlink", Path: name, Err: unix.EPERM} // an immutable file
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	unprotectFile(fd)
	unix.Fchmod(fd, 0o700)
	if r == nil {
		r, depth = &remover{top: fd}, 0
	}
	for pass := 1; ; pass++ {
		moved := r.moved
		err := names(fd, func(list []string) error {
			for _, n := range list {
				if err := r.remove(fd, n, depth+1); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		err = unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
		if err == nil || err == unix.ENOENT {
			return nil
		}
		// Something was moved up, or the file system did not show all while names went.
		if err != unix.ENOTEMPTY && err != unix.EEXIST || r.moved == moved && pass >= maxPasses {
			return &os.PathError{Op: "rmdir", Path: name, Err: err}
		}
	}
}

// unprotect lets a name be removed from a directory: it clears the flags of chattr(1) that
// forbid it, of the directory and of a file of that name. It reports whether it has cleared any.
func unprotect(dir int, name string) bool {
	cleared := unprotectFile(dir)
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return cleared // others have no flags, and opening a device may do something
	}
	fd, err := openBeneath(dir, name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return cleared
	}
	defer unix.Close(fd)
	return unprotectFile(fd) || cleared
}

func unprotectFile(fd int) bool {
	const protected = 0x10 | 0x20 // FS_IMMUTABLE_FL, FS_APPEND_FL: ioctl_iflags(2)
	have, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	return err == nil && have&protected != 0 && unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(have&^protected)) == nil
}

// moveUp gives a directory a random name in the top, which the owner of the tree
// cannot have taken before.
func (r *remover) moveUp(dir int, name string) error {
	to := fmt.Sprintf(".lull-deep-%016x", rand.Uint64())
	err := unix.Renameat2(dir, name, r.top, to, unix.RENAME_NOREPLACE)
	if err == unix.EINVAL || err == unix.ENOSYS { // not every file system can
		err = unix.Renameat(dir, name, r.top, to)
	}
	if err == unix.EACCES {
		// Its mode closes it, and it has another parent to learn of: see remove.
		if err = unix.Fchmodat(dir, name, 0o700, 0); err == nil {
			err = unix.Renameat(dir, name, r.top, to)
		}
	}
	if err == unix.EPERM && unprotect(dir, name) {
		err = unix.Renameat(dir, name, r.top, to)
	}
	if err != nil && err != unix.ENOENT {
		return &os.PathError{Op: "rename", Path: name, Err: err}
	}
	r.moved++
	return nil
}

// slack is how coarse change times may be, and how far a timestamp may lag behind
// the clock: ext4 with small inodes has whole seconds.
const slack = 2 * time.Second

// flushSource makes every later store into the source show in change times, and
// returns the time from which on they prove nothing.
func (j *job) flushSource() (time.Time, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(j.src.Fd()), &fs); err != nil {
		return time.Time{}, err
	}
	fresh := time.Now().Add(-slack)
	switch uint32(fs.Type) {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC:
		return fresh, unix.Syncfs(int(j.src.Fd()))
	case unix.OVERLAYFS_SUPER_MAGIC:
		noted, err := j.flushOverlay(fresh)
		if err != nil || noted {
			return fresh, err
		}
	}
	return time.Time{}, nil // before all files
}

// flushOverlay flushes the source's overlay, and reports whether its upper file system
// notes the first store into a page afterwards. A tmpfs does not, and an overlay that is
// mounted as volatile does not flush. Nothing else reports which one the upper one is, so
// that a file without a name, beside the copy, is tried.
func (j *job) flushOverlay(fresh time.Time) (noted bool, err error) {
	flush := func() error { return unix.Syncfs(int(j.src.Fd())) }
	beside, err := statRoot(j.parent)
	if err != nil {
		return false, err
	}
	if beside.Dev_major != j.mount.Dev_major || beside.Dev_minor != j.mount.Dev_minor {
		return false, flush() // another overlay
	}
	fd, err := unix.Openat(int(j.parent.Fd()), ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == unix.EOPNOTSUPP { // Linux before 6.1
		return false, flush()
	}
	if err != nil {
		return false, &fs.PathError{Op: "create", Path: j.base, Err: err}
	}
	defer unix.Close(fd)
	page := make([]byte, os.Getpagesize())
	if _, err := unix.Pwrite(fd, page, 0); err != nil {
		return false, err
	}
	m, err := unix.Mmap(fd, 0, len(page), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return false, err
	}
	defer unix.Munmap(m)
	// The kernel stores for us: where there is no space it fails with EFAULT, but would send
	// SIGBUS to a program that stores by itself.
	store := func() error {
		_, err := unix.Getrandom(m[:1], unix.GRND_INSECURE)
		return err
	}
	first := store()
	if err := flush(); err != nil {
		return false, err
	}
	if err := unix.Futimes(fd, make([]unix.Timeval, 2)); err != nil { // 1970
		return false, err
	}
	if err := errors.Join(first, store()); err != nil {
		return false, fmt.Errorf("cannot store into a page: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, err
	}
	return st.Mtim.Nano() >= fresh.UnixNano(), nil
}
