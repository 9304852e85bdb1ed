package datacopy

import (
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// openBeneath opens a name in an open folder, never through a symlink and never
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
		case err == unix.EAGAIN && tries < 100: // somebody is renaming (openat2(2))
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

// removeAll deletes a name in an open folder and all below it. That it is not
// there is no error.
func removeAll(dir int, name string, depth int) error {
	err := unix.Unlinkat(dir, name, 0)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	if err != unix.EISDIR && err != unix.EPERM {
		return &os.PathError{Op: "unlink", Path: name, Err: err}
	}
	if depth > 2*maxDepth {
		return &os.PathError{Op: "unlink", Path: name, Err: unix.ELOOP}
	}
	fd, err := openBeneath(dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err == unix.EACCES {
		// A folder of ours that its mode closes. Only the type is sure here:
		// unlink has just said so of what is no symlink.
		if err = unix.Fchmodat(dir, name, 0o700, 0); err == nil {
			fd, err = openBeneath(dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
		}
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	unix.Fchmod(fd, 0o700)
	names, err := list(fd)
	if err != nil {
		return &os.PathError{Op: "read", Path: name, Err: err}
	}
	for _, n := range names {
		if err := removeAll(fd, n, depth+1); err != nil {
			return err
		}
	}
	if err := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); err != nil && err != unix.ENOENT {
		return &os.PathError{Op: "rmdir", Path: name, Err: err}
	}
	return nil
}

// slack is how coarse change times may be, and how far a timestamp may lag behind
// the clock: ext4 with small inodes has whole seconds.
const slack = 2 * time.Second

// flushSource makes every later store into the source show in change times, and
// returns the time from which on they tell nothing.
func (j *job) flushSource() (time.Time, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(j.src.Fd()), &fs); err != nil {
		return time.Time{}, err
	}
	switch uint32(fs.Type) {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC, unix.OVERLAYFS_SUPER_MAGIC:
	default:
		return time.Time{}, nil // before all files
	}
	fresh := time.Now().Add(-slack)
	return fresh, unix.Syncfs(int(j.src.Fd()))
}
