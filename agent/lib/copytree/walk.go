package copytree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxDepth bounds how deep a copy is: two directories are open on each level.
const maxDepth = 256

// maxIndex bounds how many entries a precopy remembers, and how many files with
// several names; maxPaths bounds the length of their paths, in bytes. A path may have
// 64 KiB, and its owner chooses it.
const (
	maxIndex = 100_000
	maxPaths = 16 << 20
)

// batch is how many names of a directory are read at a time. On each of maxDepth levels
// so many may be in memory, of 255 bytes each.
const batch = 128

// maxShown is how many bytes of a path are reported.
const maxShown = 1024

// maxLeased bounds how long a copy waits for other processes to give up their leases on
// files, in total. A lease ends on request, or by force after some 45 s (fcntl(2)).
const maxLeased = 5 * time.Second

// inode identifies a file while it exists.
type inode struct{ dev, ino uint64 }

func inodeOf(st *unix.Statx_t) inode {
	return inode{unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino}
}

// first is the first name of a file that has several, and the inode of its copy.
type first struct {
	rel  string
	copy uint64
}

// job is one call. Everything in it belongs to its goroutine.
type job struct {
	ctx           context.Context
	src, dst      *os.File // the roots
	mount         unix.Statx_t
	parent        *os.File // the parent directory of dst
	base, partial string
	asRoot        bool

	old   map[string]record // the entries of a precopy; nil if there was none
	index *indexWriter      // of this precopy, or nil
	fresh time.Time         // change times from here on prove nothing

	seen            map[inode]first // files with several names
	seenBytes       int             // of the paths in seen
	leased          time.Duration   // the time that was spent on waiting for leases
	reflink, ranges bool            // still believed to work here
	buf             []byte

	progress    func(done, total int64)
	commit      func(Stats) error
	done, total int64
	looked      int64 // files and symlinks that measure has read about
	stats       Stats
}

// The attributes that are read of every entry. AT_STATX_DONT_SYNC identifies
// the mount without waiting for a file server.
const (
	statMask  = unix.STATX_BASIC_STATS | unix.STATX_MNT_ID
	statFlags = unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT | unix.AT_STATX_DONT_SYNC
)

func (j *job) skip(rel, why string, lost bool) {
	if len(j.stats.Skipped) >= maxSkipped {
		j.stats.Unnamed++
		return
	}
	if len(rel) > maxShown {
		rel = rel[:maxShown/2] + "…" + rel[len(rel)-maxShown/2:]
	}
	j.stats.Skipped = append(j.stats.Skipped, Skip{strings.ToValidUTF8(rel, "\uFFFD"), why, lost})
}

// elsewhere reports whether an entry is a mount of another file system.
func (j *job) elsewhere(st *unix.Statx_t) bool {
	if st.Mask&j.mount.Mask&unix.STATX_MNT_ID != 0 {
		return st.Mnt_id != j.mount.Mnt_id
	}
	return st.Dev_major != j.mount.Dev_major || st.Dev_minor != j.mount.Dev_minor
}

// names calls f with the names in an open directory, piece by piece.
func names(fd int, f func([]string) error) error {
	// A descriptor of its own, because reading moves the offset.
	dup, err := openBeneath(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	dir := os.NewFile(uintptr(dup), ".")
	defer dir.Close()
	for {
		list, err := dir.Readdirnames(batch)
		if len(list) > 0 {
			if ferr := f(list); ferr != nil {
				return ferr
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// folder copies the content of the directory src, rel below the root, into dst.
func (j *job) folder(src, dst int, rel string, depth int) error {
	open(dst)
	if j.old != nil {
		if err := prune(src, dst); err != nil {
			return wrap(rel, err)
		}
	}
	var inner error
	err := names(src, func(list []string) error {
		for _, name := range list {
			if inner = j.ctx.Err(); inner != nil {
				return inner
			}
			if j.index != nil && j.index.full() {
				return errFull
			}
			if inner = j.entry(src, dst, name, path.Join(rel, name), depth); inner != nil {
				return inner
			}
		}
		return nil
	})
	if inner != nil {
		return inner
	}
	if errors.Is(err, errFull) {
		return nil
	}
	return wrap(rel, err)
}

// errFull ends a precopy that can remember no more: all else would be re-copied. So an
// application that makes files faster than they are copied does not prolong it for ever.
var errFull = errors.New("no more entries are remembered")

// open makes a directory of the copy writable, and free of ACLs that new
// entries would inherit. Its own attributes come when it is complete.
func open(dst int) {
	unix.Fchmod(dst, 0o700)
	unix.Fremovexattr(dst, aclDefault)
	unix.Fremovexattr(dst, aclAccess)
}

// prune removes from the copy what the source does not have any more.
func prune(src, dst int) error {
	return names(dst, func(list []string) error {
		for _, name := range list {
			var st unix.Stat_t
			err := unix.Fstatat(src, name, &st, unix.AT_SYMLINK_NOFOLLOW)
			if err == unix.ENOENT {
				err = removeAll(dst, name, nil)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (j *job) entry(src, dst int, name, rel string, depth int) error {
	var st unix.Statx_t
	err := unix.Statx(src, name, statFlags, statMask, &st)
	if err == unix.ENOENT {
		return nil // gone since the directory was listed
	}
	if err != nil {
		return wrap(rel, err)
	}
	skip, lost := "", false
	switch {
	case j.elsewhere(&st):
		skip, lost = "something else is mounted there", true
	case st.Mode&unix.S_IFMT == unix.S_IFDIR && depth >= maxDepth:
		skip, lost = fmt.Sprintf("it is more than %d directories deep", maxDepth), true
	case st.Mode&unix.S_IFMT == unix.S_IFSOCK:
		skip = "it is a socket"
	case st.Mode&unix.S_IFMT == unix.S_IFIFO:
		skip = "it is a fifo"
	case st.Mode&unix.S_IFMT == unix.S_IFCHR, st.Mode&unix.S_IFMT == unix.S_IFBLK:
		skip = "it is a device"
	}
	if skip != "" {
		j.skip(rel, skip, lost)
		return removeAll(dst, name, nil) // a precopy may have found something else there
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		err = j.subfolder(src, dst, name, rel, depth, &st)
	case unix.S_IFREG:
		err = j.file(src, dst, name, rel, &st)
	case unix.S_IFLNK:
		err = j.symlink(src, dst, name, rel, &st)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errGone):
		// It is gone, or replaced by now. The replacement was made after us,
		// like any new entry in a directory already read.
		return removeAll(dst, name, nil)
	case errors.Is(err, errLeased):
		j.skip(rel, "another process keeps a lease on it", true)
		return removeAll(dst, name, nil)
	case errors.Is(err, errUnreadable):
		why := "it cannot be read"
		if errors.Is(err, unix.ENOKEY) {
			why = "it is encrypted, and its key is not there"
		} else if int(st.Uid) != os.Geteuid() {
			why = fmt.Sprintf("it belongs to %s and cannot be read", owner(st.Uid))
		}
		j.skip(rel, why, true)
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			return removeAll(dst, name, nil)
		}
		return nil
	}
	return err
}

func owner(uid uint32) string {
	if uid == 0 {
		return "root"
	}
	return fmt.Sprintf("user %d", uid)
}

var (
	errGone       = errors.New("it has changed meanwhile")
	errUnreadable = errors.New("permission denied")
	errLeased     = errors.New("another process has a lease on it")
)

// source opens an entry that was of the type want a moment ago.
func (j *job) source(dir int, name string, flags int, want uint16) (int, *unix.Statx_t, error) {
	fd, err := openBeneath(dir, name, flags|unix.O_NONBLOCK)
	// The first attempt has asked the owner of a lease to end it (fcntl(2)). The kernel
	// has no event for that but a blocking open, which could not be bounded. A precopy
	// leaves the file to the copy.
	for err == unix.EAGAIN && j.index == nil && j.leased < maxLeased && j.ctx.Err() == nil {
		const pause = 10 * time.Millisecond
		time.Sleep(pause)
		j.leased += pause
		fd, err = openBeneath(dir, name, flags|unix.O_NONBLOCK)
	}
	switch err {
	case nil:
	case unix.ENOENT, unix.ELOOP, unix.ENOTDIR, unix.ENXIO, unix.EXDEV:
		return -1, nil, errGone
	case unix.EACCES, unix.EPERM, unix.ENOKEY:
		return -1, nil, fmt.Errorf("%w: %w", errUnreadable, err)
	case unix.EAGAIN:
		return -1, nil, errLeased
	default:
		return -1, nil, err
	}
	var st unix.Statx_t
	err = unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, statMask, &st)
	if err == nil && st.Mode&unix.S_IFMT != want {
		err = errGone
	}
	if err != nil {
		unix.Close(fd)
		return -1, nil, err
	}
	return fd, &st, nil
}

func (j *job) subfolder(src, dst int, name, rel string, depth int, st *unix.Statx_t) error {
	if err := makeFolder(dst, name); err != nil {
		return wrap(rel, err)
	}
	out, err := openBeneath(dst, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err == unix.EACCES { // ours, but closed to ourselves by an earlier run
		if err = unix.Fchmodat(dst, name, 0o700, 0); err == nil {
			out, err = openBeneath(dst, name, unix.O_RDONLY|unix.O_DIRECTORY)
		}
	}
	if err != nil {
		return wrap(rel, err)
	}
	defer unix.Close(out)
	in, now, err := j.source(src, name, unix.O_RDONLY|unix.O_DIRECTORY, unix.S_IFDIR)
	if err == nil && !j.asRoot && unix.Faccessat(in, ".", unix.X_OK, unix.AT_EACCESS) == unix.EACCES {
		unix.Close(in)
		err = errUnreadable // it can be listed, and nothing in it opened
	}
	if errors.Is(err, errUnreadable) {
		var restore func()
		if in, restore, err = openOwn(src, name, unix.O_RDONLY|unix.O_DIRECTORY, st); err == nil {
			now = st
			defer restore() // not before: names in it are looked up by its mode
		} else {
			// The directory at least, as empty as it looks to its user.
			unix.Fchmod(out, uint32(st.Mode)&0o7777)
		}
	}
	if err != nil {
		return wrap(rel, err)
	}
	defer unix.Close(in)
	if err := j.folder(in, out, rel, depth+1); err != nil {
		return err
	}
	return j.attributes(in, out, rel, now)
}

// makeFolder makes a directory, unless it exists, in place of an entry of another type.
func makeFolder(dst int, name string) error {
	err := unix.Mkdirat(dst, name, 0o700)
	if err != unix.EEXIST {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dst, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return nil
	}
	if err := unix.Unlinkat(dst, name, 0); err != nil {
		return err
	}
	return unix.Mkdirat(dst, name, 0o700)
}

// unchanged reports whether the copy has the entry in its present state.
func (j *job) unchanged(rel string, st *unix.Statx_t) bool {
	r, ok := j.old[rel]
	return ok && !r.racy && r == recordOf(st, false)
}

// note enters what has been copied, or found unchanged, into the index.
func (j *job) note(rel string, st *unix.Statx_t) {
	if j.index != nil && !j.index.full() {
		changed := time.Unix(st.Ctime.Sec, int64(st.Ctime.Nsec))
		j.index.add(rel, recordOf(st, !changed.Before(j.fresh)))
	}
}

// hasNames remembers the first name of a file that has several.
func (j *job) hasNames(st *unix.Statx_t, rel string, copy uint64) {
	if st.Nlink < 2 || len(j.seen) >= maxIndex || j.seenBytes+len(rel) > maxPaths {
		return
	}
	in := inodeOf(st)
	j.seenBytes += len(rel) - len(j.seen[in].rel)
	j.seen[in] = first{rel, copy}
}

// keep reports whether the copy already has the entry; it then stays in the index.
func (j *job) keep(dst int, name, rel string, st *unix.Statx_t) bool {
	if !j.unchanged(rel, st) {
		return false
	}
	var have unix.Stat_t
	if unix.Fstatat(dst, name, &have, unix.AT_SYMLINK_NOFOLLOW) != nil ||
		have.Mode&unix.S_IFMT != uint32(st.Mode)&unix.S_IFMT || have.Size != int64(st.Size) {
		return false
	}
	if f, ok := j.seen[inodeOf(st)]; ok && f.copy != have.Ino {
		return false // another name of it was re-copied
	}
	j.hasNames(st, rel, have.Ino)
	j.stats.Unchanged++
	j.note(rel, st)
	return true
}

func (j *job) symlink(src, dst int, name, rel string, st *unix.Statx_t) error {
	if j.keep(dst, name, rel, st) {
		return nil
	}
	buf := make([]byte, 4097)
	n, err := unix.Readlinkat(src, name, buf)
	if err == unix.ENOENT || err == unix.EINVAL {
		return errGone
	}
	if err == nil && n == len(buf) {
		err = unix.ENAMETOOLONG
	}
	if err == nil {
		err = removeAll(dst, name, nil)
	}
	if err == nil {
		err = unix.Symlinkat(string(buf[:n]), dst, name)
	}
	if err == nil && j.asRoot {
		err = unix.Fchownat(dst, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW)
	}
	if err == nil {
		err = setTimes(dst, name, st)
	}
	if err != nil {
		return wrap(rel, err)
	}
	j.stats.Files++
	j.note(rel, st)
	return nil
}

// measure counts what folder would copy.
func (j *job) measure(src int, rel string, depth int) (files, bytes int64, err error) {
	err = names(src, func(list []string) error {
		for _, name := range list {
			if err := j.ctx.Err(); err != nil {
				return err
			}
			f, b, err := j.measureEntry(src, name, path.Join(rel, name), depth)
			files, bytes = files+f, bytes+b
			if err != nil {
				return err
			}
		}
		return nil
	})
	return files, bytes, wrap(rel, err)
}

// measureEntry counts one entry. An unreadable one counts nothing: the copy
// itself reports it.
func (j *job) measureEntry(src int, name, rel string, depth int) (files, bytes int64, err error) {
	var st unix.Statx_t
	if unix.Statx(src, name, statFlags, statMask, &st) != nil || j.elsewhere(&st) {
		return 0, 0, nil
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if depth >= maxDepth {
			return 0, 0, nil
		}
		fd, _, err := j.source(src, name, unix.O_RDONLY|unix.O_DIRECTORY, unix.S_IFDIR)
		if err != nil {
			return 0, 0, nil
		}
		defer unix.Close(fd)
		return j.measure(fd, rel, depth+1)
	case unix.S_IFREG, unix.S_IFLNK:
		j.looked++
		if j.unchanged(rel, &st) {
			return 0, 0, nil
		}
		if st.Mode&unix.S_IFMT == unix.S_IFLNK {
			return 1, 0, nil
		}
		if _, again := j.seen[inodeOf(&st)]; again {
			return 1, 0, nil
		}
		j.hasNames(&st, rel, 0)
		return 1, allocated(&st), nil
	}
	return 0, 0, nil
}

func wrap(rel string, err error) error {
	if err == nil || errors.Is(err, errGone) || errors.Is(err, errUnreadable) || errors.Is(err, errLeased) {
		return err
	}
	if rel == "" {
		rel = "."
	}
	return &fs.PathError{Op: "copy", Path: rel, Err: err}
}
