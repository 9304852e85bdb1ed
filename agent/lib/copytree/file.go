package copytree

import (
	"bytes"
	"errors"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// chunk is how much is copied between two checks of the context, in bytes.
const chunk = 8 << 20

func (j *job) file(src, dst int, name, rel string, st *unix.Statx_t) error {
	if j.keep(dst, name, rel, st) {
		return nil
	}
	if st.Nlink > 1 {
		if f, ok := j.seen[inodeOf(st)]; ok {
			linked, err := j.link(f.rel, dst, name)
			if err != nil {
				return wrap(rel, err)
			}
			if linked {
				j.stats.Files++
				j.note(rel, st)
				return nil
			}
		}
	}
	in, now, err := j.source(src, name, unix.O_RDONLY, unix.S_IFREG)
	if errors.Is(err, errUnreadable) {
		var restore func()
		if in, restore, err = openOwn(src, name, unix.O_RDONLY, st); err == nil {
			restore()
			now = st
		}
	}
	if err != nil {
		return wrap(rel, err)
	}
	defer unix.Close(in)
	if err := removeAll(dst, name, nil); err != nil {
		return wrap(rel, err)
	}
	out, err := unix.Openat(dst, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return wrap(rel, err)
	}
	defer unix.Close(out)
	if now, err = j.steadyContent(in, out, rel, now); err != nil {
		return wrap(rel, err)
	}
	j.startWriting(out)
	if err := j.attributes(in, out, rel, now); err != nil {
		return err
	}
	if now.Nlink > 1 {
		var copied unix.Stat_t
		if err := unix.Fstat(out, &copied); err != nil {
			return wrap(rel, err)
		}
		j.hasNames(now, rel, copied.Ino)
	}
	j.stats.Files++
	// The attributes of the file before it was read: if it has changed during
	// that, the next comparison shows it.
	j.note(rel, now)
	return nil
}

// steadyTries is how often a file that is written to while it is copied is copied
// from its beginning.
const steadyTries = 3

// steadyContent copies the content of a file, and repeats that if the file was
// changed meanwhile; after a few tries the last copy counts, and is reported.
// It returns what the file looked like before it was read. A precopy leaves
// this to the copy.
func (j *job) steadyContent(in, out int, rel string, st *unix.Statx_t) (*unix.Statx_t, error) {
	for try := 1; ; try++ {
		atomic, err := j.content(in, out, st)
		if err != nil || atomic || j.index != nil {
			return st, err
		}
		var now unix.Statx_t
		if err := unix.Statx(in, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, statMask, &now); err != nil {
			return st, err
		}
		if now.Size == st.Size && now.Mtime == st.Mtime {
			return st, nil
		}
		if try == steadyTries {
			j.skip(rel, "it was written to while it was copied", true)
			return st, nil
		}
		now.Mode = st.Mode
		st = &now
		if err := unix.Ftruncate(out, 0); err != nil {
			return st, err
		}
	}
}

// startWriting has the disk begin with a file while the rest is read, so
// that the flush at the end has little left to wait for. It guarantees nothing, and
// failing changes nothing: the flush reports.
func (j *job) startWriting(out int) {
	if j.old != nil && j.index == nil { // a copy after a precopy: launches wait for it
		unix.SyncFileRange(out, 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	}
}

// link gives a file of the copy another name. False: the file is not there, or
// has as many names as it can have.
func (j *job) link(first string, dst int, name string) (bool, error) {
	if err := removeAll(dst, name, nil); err != nil {
		return false, err
	}
	dir := int(j.dst.Fd())
	if parent := path.Dir(first); parent != "." {
		for component := range strings.SplitSeq(parent, "/") {
			fd, err := openBeneath(dir, component, unix.O_PATH|unix.O_DIRECTORY)
			if dir != int(j.dst.Fd()) {
				unix.Close(dir)
			}
			if err != nil {
				return false, nil
			}
			dir = fd
		}
	}
	err := unix.Linkat(dir, path.Base(first), dst, name, 0)
	if dir != int(j.dst.Fd()) {
		unix.Close(dir)
	}
	if err == unix.EMLINK || err == unix.ENOENT {
		return false, nil
	}
	return err == nil, err
}

// content copies what is in a file with its holes: as a reflink where the file
// system can, which is atomic, else inside the kernel, else through a buffer.
func (j *job) content(in, out int, st *unix.Statx_t) (atomic bool, err error) {
	size := int64(st.Size)
	if size == 0 {
		return false, nil
	}
	if j.reflink {
		switch err := unix.IoctlFileClone(out, in); err {
		case nil:
			return true, j.advance(allocated(st))
		case unix.EOPNOTSUPP, unix.EXDEV, unix.ENOTTY, unix.EINVAL, unix.ENOSYS:
			j.reflink = false
		}
	}
	if err := unix.Ftruncate(out, size); err != nil {
		return false, err
	}
	for at := int64(0); at < size; {
		from, to := extent(in, at, size)
		if from >= size {
			break
		}
		end, err := j.bytes(in, out, from, to)
		if err != nil {
			return false, err
		}
		if end < to { // the file has become shorter
			return false, unix.Ftruncate(out, end)
		}
		at = to
	}
	return false, nil
}

// allocated is how much of a file is no hole, about.
func allocated(st *unix.Statx_t) int64 { return int64(min(st.Size, st.Blocks*512)) }

// extent returns the next stretch of data at or behind at.
func extent(fd int, at, size int64) (from, to int64) {
	from, err := unix.Seek(fd, at, unix.SEEK_DATA)
	switch {
	case err == unix.ENXIO:
		return size, size
	case err != nil:
		return at, size // a file system without holes
	}
	to, err = unix.Seek(fd, from, unix.SEEK_HOLE)
	if err != nil || to <= from {
		to = size
	}
	return from, min(to, size)
}

// bytes copies the bytes between from and to, and returns how far it came.
func (j *job) bytes(in, out int, from, to int64) (int64, error) {
	for from < to {
		if err := j.ctx.Err(); err != nil {
			return from, err
		}
		n, err := j.some(in, out, from, int(min(to-from, chunk)))
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return from, err
		}
		from += int64(n)
		if err := j.advance(int64(n)); err != nil {
			return from, err
		}
	}
	return from, nil
}

func (j *job) some(in, out int, at int64, n int) (int, error) {
	if j.ranges {
		r, w := at, at
		done, err := unix.CopyFileRange(in, &r, out, &w, n, 0)
		switch err {
		case nil:
			if done > 0 {
				return done, nil
			}
			// The end, or a file system that reports that for its virtual
			// files (copy_file_range(2), BUGS): the buffer will show.
		case unix.EXDEV, unix.EINVAL, unix.ENOSYS, unix.EOPNOTSUPP, unix.EPERM, unix.EBADF:
			j.ranges = false
		default:
			return 0, err
		}
	}
	if j.buf == nil {
		j.buf = make([]byte, 256<<10)
	}
	r, err := unix.Pread(in, j.buf[:min(n, len(j.buf))], at)
	if err != nil {
		return 0, err
	}
	for w := 0; w < r; {
		n, err := unix.Pwrite(out, j.buf[w:r], at+int64(w))
		if err != nil && err != unix.EINTR {
			return 0, err
		}
		w += max(n, 0)
	}
	return r, nil
}

func (j *job) advance(n int64) error {
	j.stats.Bytes += n
	j.done += n
	if j.progress != nil {
		j.progress(min(j.done, j.total), j.total)
	}
	return j.ctx.Err()
}

const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)

// attributes gives the copy what the source carries besides content. A change of
// owner clears set-id bits and capabilities, and an access ACL speaks about the
// mode: hence the order.
func (j *job) attributes(in, out int, rel string, st *unix.Statx_t) error {
	if j.asRoot {
		if err := unix.Fchown(out, int(st.Uid), int(st.Gid)); err != nil {
			return wrap(rel, err)
		}
	} else {
		unix.Fchown(out, -1, int(st.Gid)) // as far as the user is in that group
	}
	if err := unix.Fchmod(out, uint32(st.Mode)&0o7777); err != nil {
		return wrap(rel, err)
	}
	if err := j.xattrs(in, out, rel); err != nil {
		return wrap(rel, err)
	}
	return wrap(rel, setTimes(out, "", st))
}

func (j *job) xattrs(in, out int, rel string) error {
	names, err := xattr(func(b []byte) (int, error) { return unix.Flistxattr(in, b) })
	if err == unix.EOPNOTSUPP || err == unix.ENOSYS {
		return nil
	}
	if err == unix.E2BIG { // XFS and btrfs keep more than can be listed
		j.skip(rel, "it has more extended attributes than can be listed", true)
		return nil
	}
	if err != nil {
		return err
	}
	wanted := map[string]bool{}
	for name := range bytes.SplitSeq(names, []byte{0}) {
		if len(name) == 0 {
			continue
		}
		wanted[string(name)] = true
		value, err := xattr(func(b []byte) (int, error) { return unix.Fgetxattr(in, string(name), b) })
		if err == nil {
			err = unix.Fsetxattr(out, string(name), value, 0)
		}
		switch err {
		case nil, unix.ENODATA:
		case unix.ENOSPC, unix.E2BIG, unix.ERANGE:
			// Attributes have less space than the disk (xattr(7)), and how much of it
			// they take depends on the order in which they were set.
			if err == unix.ENOSPC && diskFull(out) {
				return err
			}
			j.skip(rel, "its attribute "+string(name)+" does not fit", true)
		case unix.EPERM, unix.EACCES, unix.EOPNOTSUPP, unix.EINVAL:
			// Labels are the security module's to give to the new file.
			if !bytes.HasPrefix(name, []byte("security.")) && !bytes.HasPrefix(name, []byte("trusted.")) {
				j.skip(rel, "its attribute "+string(name)+" cannot be kept", false)
			}
		default:
			return err
		}
	}
	// A directory may have had more of them at the time of the precopy.
	have, err := xattr(func(b []byte) (int, error) { return unix.Flistxattr(out, b) })
	if err != nil && err != unix.EOPNOTSUPP {
		return err
	}
	for name := range bytes.SplitSeq(have, []byte{0}) {
		if n := string(name); strings.HasPrefix(n, "user.") && !wanted[n] {
			if err := unix.Fremovexattr(out, n); err != nil && err != unix.ENODATA {
				return err
			}
		}
	}
	return nil
}

// diskFull reports whether the file system of an open file has no space left.
func diskFull(fd int) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(fd, &st) != nil || st.Bavail < 64 || st.Files > 0 && st.Ffree == 0
}

// xattr calls get with room enough for its answer.
func xattr(get func([]byte) (int, error)) ([]byte, error) {
	for {
		n, err := get(nil)
		if err != nil || n == 0 {
			return nil, err
		}
		b := make([]byte, n)
		n, err = get(b)
		if err != unix.ERANGE {
			return b[:max(n, 0)], err
		}
	}
}

// setTimes sets the times of name in the directory fd, or of fd itself.
func setTimes(fd int, name string, st *unix.Statx_t) error {
	times := []unix.Timespec{
		{Sec: st.Atime.Sec, Nsec: int64(st.Atime.Nsec)},
		{Sec: st.Mtime.Sec, Nsec: int64(st.Mtime.Nsec)},
	}
	if name != "" {
		return unix.UtimesNanoAt(fd, name, times, unix.AT_SYMLINK_NOFOLLOW)
	}
	return futimens(fd, times)
}
