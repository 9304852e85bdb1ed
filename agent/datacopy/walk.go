package datacopy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// maxDepth bounds how deep a source may be: two folders are open on each level.
const maxDepth = 256

// inode identifies a file while it exists.
type inode struct{ dev, ino uint64 }

func inodeOf(st *unix.Statx_t) inode {
	return inode{unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino}
}

// job is one call. Everything in it belongs to its goroutine.
type job struct {
	ctx           context.Context
	src, dst      *os.File // the roots
	mount         unix.Statx_t
	parent        *os.File // the folder in which dst lies
	base, partial string
	asRoot        bool

	old   map[string]record // what a precopy has brought over; nil: there was none
	index *indexWriter      // of this precopy, or nil
	fresh time.Time         // change times from here on tell nothing

	seen            map[inode]string // files with several names → the first one
	reflink, ranges bool             // still believed to work here
	buf             []byte

	progress    func(done, total int64)
	commit      func() error
	done, total int64
	stats       Stats
}

// What is asked about every entry. The mount is told without waiting for a file
// server, by AT_STATX_DONT_SYNC.
const (
	statMask  = unix.STATX_BASIC_STATS | unix.STATX_MNT_ID
	statFlags = unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT | unix.AT_STATX_DONT_SYNC
)

func (j *job) skip(rel, why string) {
	j.stats.Skipped = append(j.stats.Skipped, rel+": "+why)
}

// elsewhere says whether an entry is a mount of something else.
func (j *job) elsewhere(st *unix.Statx_t) bool {
	if st.Mask&j.mount.Mask&unix.STATX_MNT_ID != 0 {
		return st.Mnt_id != j.mount.Mnt_id
	}
	return st.Dev_major != j.mount.Dev_major || st.Dev_minor != j.mount.Dev_minor
}

// list returns the names in an open folder, sorted.
func list(fd int) ([]string, error) {
	// A descriptor of its own, because reading moves the offset.
	dup, err := openBeneath(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(dup), ".")
	defer f.Close()
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// folder copies what lies in the folder src, rel below the root, into dst.
func (j *job) folder(src, dst int, rel string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%s is more than %d folders deep", rel, maxDepth)
	}
	open(dst)
	names, err := list(src)
	if err != nil {
		return wrap(rel, err)
	}
	if j.old != nil {
		if err := prune(dst, names); err != nil {
			return wrap(rel, err)
		}
	}
	for _, name := range names {
		if err := j.ctx.Err(); err != nil {
			return err
		}
		if err := j.entry(src, dst, name, path.Join(rel, name), depth); err != nil {
			return err
		}
	}
	return nil
}

// open makes a folder of the copy writable, and free of ACLs that what is made in
// it would inherit. Its own attributes come when it is complete.
func open(dst int) {
	unix.Fchmod(dst, 0o700)
	unix.Fremovexattr(dst, aclDefault)
	unix.Fremovexattr(dst, aclAccess)
}

// prune removes from the copy what the source does not have any more.
func prune(dst int, names []string) error {
	have, err := list(dst)
	if err != nil {
		return err
	}
	for _, name := range have {
		if _, ok := slices.BinarySearch(names, name); !ok {
			if err := removeAll(dst, name, 0); err != nil {
				return err
			}
		}
	}
	return nil
}

func (j *job) entry(src, dst int, name, rel string, depth int) error {
	var st unix.Statx_t
	err := unix.Statx(src, name, statFlags, statMask, &st)
	if err == unix.ENOENT {
		return nil // gone since the folder was listed
	}
	if err != nil {
		return wrap(rel, err)
	}
	skip := ""
	switch {
	case j.elsewhere(&st):
		skip = "something else is mounted there"
	case st.Mode&unix.S_IFMT == unix.S_IFSOCK:
		skip = "it is a socket"
	case st.Mode&unix.S_IFMT == unix.S_IFIFO:
		skip = "it is a fifo"
	case st.Mode&unix.S_IFMT == unix.S_IFCHR, st.Mode&unix.S_IFMT == unix.S_IFBLK:
		skip = "it is a device"
	}
	if skip != "" {
		j.skip(rel, skip)
		return removeAll(dst, name, 0) // a precopy may have found something else there
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
		// It is gone, or something else by now. What stands in its place was
		// made after us, like anything that is made in a folder already read.
		return removeAll(dst, name, 0)
	case errors.Is(err, errUnreadable) && !j.asRoot:
		j.skip(rel, "it cannot be read")
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			return removeAll(dst, name, 0)
		}
		return nil
	}
	return err
}

var (
	errGone       = errors.New("it has changed meanwhile")
	errUnreadable = errors.New("permission denied")
)

// source opens an entry that was of the type want a moment ago.
func (j *job) source(dir int, name string, flags int, want uint16) (int, *unix.Statx_t, error) {
	fd, err := openBeneath(dir, name, flags|unix.O_NONBLOCK)
	switch err {
	case nil:
	case unix.ENOENT, unix.ELOOP, unix.ENOTDIR, unix.ENXIO, unix.EXDEV:
		return -1, nil, errGone
	case unix.EACCES, unix.EPERM:
		return -1, nil, fmt.Errorf("%w: %w", errUnreadable, err)
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
	if errors.Is(err, errUnreadable) && !j.asRoot {
		// The folder at least, as empty as it looks to its owner.
		unix.Fchmod(out, uint32(st.Mode)&0o7777)
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

// makeFolder makes a folder, unless it is there, in place of anything else.
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

// unchanged says whether the copy has the entry as it is now.
func (j *job) unchanged(rel string, st *unix.Statx_t) bool {
	r, ok := j.old[rel]
	return ok && !r.racy && r == recordOf(st, false)
}

// note enters what has been copied, or found unchanged, into the index.
func (j *job) note(rel string, st *unix.Statx_t) {
	if j.index != nil {
		changed := time.Unix(st.Ctime.Sec, int64(st.Ctime.Nsec))
		j.index.add(rel, recordOf(st, !changed.Before(j.fresh)))
	}
}

// keep says whether the copy already has the entry; it then stays in the index.
func (j *job) keep(dst int, name, rel string, st *unix.Statx_t) bool {
	if !j.unchanged(rel, st) {
		return false
	}
	var have unix.Stat_t
	if unix.Fstatat(dst, name, &have, unix.AT_SYMLINK_NOFOLLOW) != nil ||
		have.Mode&unix.S_IFMT != uint32(st.Mode)&unix.S_IFMT || have.Size != int64(st.Size) {
		return false
	}
	if st.Nlink > 1 {
		j.seen[inodeOf(st)] = rel
	}
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
		err = removeAll(dst, name, 0)
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
	if depth > maxDepth {
		return 0, 0, fmt.Errorf("%s is more than %d folders deep", rel, maxDepth)
	}
	names, err := list(src)
	if err != nil {
		return 0, 0, wrap(rel, err)
	}
	for _, name := range names {
		if err := j.ctx.Err(); err != nil {
			return 0, 0, err
		}
		var st unix.Statx_t
		sub := path.Join(rel, name)
		if unix.Statx(src, name, statFlags, statMask, &st) != nil || j.elsewhere(&st) {
			continue
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			fd, _, err := j.source(src, name, unix.O_RDONLY|unix.O_DIRECTORY, unix.S_IFDIR)
			if err != nil {
				continue // the copy itself says what is wrong
			}
			f, b, err := j.measure(fd, sub, depth+1)
			unix.Close(fd)
			if err != nil {
				return 0, 0, err
			}
			files, bytes = files+f, bytes+b
		case unix.S_IFREG, unix.S_IFLNK:
			if j.unchanged(sub, &st) {
				continue
			}
			files++
			if st.Mode&unix.S_IFMT == unix.S_IFLNK {
				continue
			}
			if st.Nlink > 1 {
				if _, again := j.seen[inodeOf(&st)]; again {
					continue
				}
				j.seen[inodeOf(&st)] = sub
			}
			bytes += allocated(&st)
		}
	}
	return files, bytes, nil
}

func wrap(rel string, err error) error {
	if err == nil || errors.Is(err, errGone) || errors.Is(err, errUnreadable) {
		return err
	}
	if rel == "" {
		rel = "."
	}
	return &fs.PathError{Op: "copy", Path: rel, Err: err}
}
