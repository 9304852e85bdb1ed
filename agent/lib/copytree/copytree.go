// Package copytree copies the data of a revision to the next one. The agent
// uses it as root on directories that a service's user can write to, the
// launcher and the helper use it as the user.
//
// Words: the source is read and never changed. The copy is built in a partial
// directory beside its destination and renamed at the end, so that an existing
// destination is complete. An index, beside the partial directory, records the
// sources of a precopy.
//
// Nothing here follows a symlink below the two roots: every step is taken from
// the open directory above it, and an entry that changes its type meanwhile is
// not opened. Mounts inside the source are left out, so that no user can make
// the agent wait for a FUSE server or copy another file system. Until the copy
// is finished only its owner can open its top directory.
//
// The copy has content with its holes, modes, times, owners (as root),
// extended attributes with ACLs, and hard links. Entries that are not copied
// are reported, with the reason: sockets, fifos and devices, which are no
// data; and data that the copy lacks: unreadable files of another user,
// mounts, entries more than maxDepth directories deep, and files that kept
// changing. The user's own files are read regardless of their modes, which are
// changed for that moment.
//
// The source chooses how deep it is, how many entries it has and what they are
// called. Directories are read in pieces, and no more than maxIndex entries are
// remembered; the others are left to the copy. A file on which another process keeps a
// lease is waited for, for a moment.
//
// # Precopy
//
// A precopy runs while the application does. The copy after it transfers only
// entries that have changed since, by device, inode, size, mode and change
// time. A change is missed if the time of an earlier one is all that the inode
// shows, which happens in two ways: both fall into one tick of the clock, or
// the later one is a store into a mapped page that was dirty already. So a
// precopy flushes the source's file system first, after which the first store
// into any page faults and is noted, and an entry with a change time of about
// then, or later, counts as too fresh to judge and is re-copied. On file
// systems that do not note stores at all, or whose clock is not ours (tmpfs,
// FUSE, network), everything is re-copied.
//
// Each call works in its own goroutine and blocks on the disk; it ends soon after
// its context. Two calls must not have the same destination.
package copytree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// PartialSuffix, behind the destination's name, is the default name of the
// partial directory.
const PartialSuffix = ".partial"

// indexSuffix, behind the name of the partial directory, names the index.
const indexSuffix = ".index"

// Options vary a copy. The zero value is good.
type Options struct {
	// Progress is called, now and then, with the bytes copied and the total.
	// It costs one more walk through the source.
	Progress func(done, total int64)
	// Partial is the name of the partial directory, which is beside the
	// destination. Default: the destination's name and PartialSuffix.
	Partial string
	// Commit, where there is one, is called by Copy when all is copied and flushed,
	// just before dst appears. If it returns an error, dst does not.
	Commit func(Stats) error
}

// Skip is an entry that was not copied.
type Skip struct {
	Path string // relative to the source
	Why  string // for people
	// Lost reports that the source has data there. Sockets, fifos and devices have none.
	Lost bool
}

func (s Skip) String() string { return s.Path + ": " + s.Why }

// maxSkipped bounds how many of them are named.
const maxSkipped = 1000

// Stats are what a copy has done.
type Stats struct {
	Files     int64  // copied or linked: files and symlinks
	Bytes     int64  // of content
	Unchanged int64  // files and symlinks that a precopy had brought over already
	Skipped   []Skip // at most maxSkipped
	Unnamed   int    // how many more were skipped than are named
}

// Lost lists the data that the copy lacks.
func (s Stats) Lost() (list []Skip) {
	for _, k := range s.Skipped {
		if k.Lost {
			list = append(list, k)
		}
	}
	return list
}

// Copy copies the directory src to dst, which must not exist (fs.ErrExist),
// and returns when the copy is on stable storage. The remains of an
// interrupted Copy or of a Precopy are used or removed. After an error the
// partial directory stays, for the next attempt or for Discard.
func Copy(ctx context.Context, src, dst string, o Options) (Stats, error) {
	return run(ctx, src, dst, o, (*job).finish)
}

// Precopy does what it can of a later Copy, while the source is in use.
func Precopy(ctx context.Context, src, dst string, o Options) (Stats, error) {
	return run(ctx, src, dst, o, (*job).leave)
}

// Discard removes what a Precopy, or a Copy that failed, has left behind.
func Discard(dst string, o Options) error {
	parent, _, partial, err := locate(dst, o)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	defer parent.Close()
	err = removeAll(int(parent.Fd()), partial, nil)
	if uerr := unlinkIndex(int(parent.Fd()), partial); err == nil {
		err = uerr
	}
	if err == nil { // or a power cut would bring it back later
		err = parent.Sync()
	}
	if err != nil {
		return fmt.Errorf("cannot remove %s: %w", filepath.Join(filepath.Dir(dst), partial), err)
	}
	return nil
}

// locate opens the parent directory of dst and names the entries in it.
func locate(dst string, o Options) (parent *os.File, base, partial string, err error) {
	base = filepath.Base(dst)
	partial = o.Partial
	if partial == "" {
		partial = base + PartialSuffix
	}
	if filepath.Base(partial) != partial || partial == base || partial == "." || partial == ".." {
		return nil, "", "", fmt.Errorf("cannot copy to %s: %q cannot be the name of the partial directory", dst, partial)
	}
	parent, err = os.OpenFile(filepath.Dir(dst), os.O_RDONLY|unix.O_DIRECTORY, 0)
	return parent, base, partial, err
}

func openRoot(src string) (*os.File, error) {
	return os.OpenFile(src, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
}

func statRoot(f *os.File) (unix.Statx_t, error) {
	var st unix.Statx_t
	err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, statMask, &st)
	return st, err
}

// Difference is how much a Copy would have to bring over.
type Difference struct {
	Files  int64 // files and symlinks that have changed since the precopy, or all without one
	Bytes  int64 // of their content
	Looked int64 // files and symlinks that were compared, changed or not
}

// Compare returns what a Copy of src to dst would bring over now. It reads no content and
// writes nothing. If ctx ends first, the difference is that of the part that was compared.
func Compare(ctx context.Context, src, dst string, o Options) (Difference, error) {
	fail := func(err error) (Difference, error) {
		return Difference{}, fmt.Errorf("cannot compare %s with its copy: %w", src, err)
	}
	root, err := openRoot(src)
	if err != nil {
		return fail(err)
	}
	defer root.Close()
	parent, base, partial, err := locate(dst, o)
	if err != nil {
		return fail(err)
	}
	defer parent.Close()
	j := &job{ctx: ctx, src: root, parent: parent, base: base, partial: partial, seen: map[inode]first{}}
	if j.mount, err = statRoot(root); err != nil {
		return fail(err)
	}
	j.old = loadIndex(int(parent.Fd()), partial+indexSuffix, inodeOf(&j.mount))
	files, bytes, err := j.measure(int(root.Fd()), "", 0)
	if err != nil && ctx.Err() == nil {
		return fail(err)
	}
	return Difference{files, bytes, j.looked}, err
}

func run(ctx context.Context, src, dst string, o Options, end func(*job) error) (Stats, error) {
	fail := func(err error) (Stats, error) {
		return Stats{}, fmt.Errorf("cannot copy %s to %s: %w", src, dst, err)
	}
	root, err := openRoot(src)
	if err != nil {
		return fail(err)
	}
	defer root.Close()
	parent, base, partial, err := locate(dst, o)
	if err != nil {
		return fail(err)
	}
	defer parent.Close()
	var st unix.Stat_t
	switch err := unix.Fstatat(int(parent.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW); err {
	case unix.ENOENT:
	case nil:
		return fail(fs.ErrExist)
	default:
		return fail(err)
	}
	j := &job{
		ctx: ctx, src: root, parent: parent, base: base, partial: partial, progress: o.Progress, commit: o.Commit,
		asRoot: os.Geteuid() == 0, seen: map[inode]first{}, reflink: true, ranges: true,
	}
	if j.mount, err = statRoot(root); err != nil {
		return fail(err)
	}
	if err := j.open(); err != nil {
		return fail(err)
	}
	defer j.dst.Close()
	if err := j.prepare(); err != nil {
		return fail(err)
	}
	if err := end(j); err != nil {
		return fail(err)
	}
	return j.stats, nil
}

// open makes or takes over the partial directory.
func (j *job) open() error {
	dir := int(j.parent.Fd())
	j.old = loadIndex(dir, j.partial+indexSuffix, inodeOf(&j.mount))
	if j.old == nil {
		// Without an index its complete parts are unknown.
		if err := removeAll(dir, j.partial, nil); err != nil {
			return err
		}
		if err := unlinkIndex(dir, j.partial); err != nil {
			return err
		}
	}
	if err := unix.Mkdirat(dir, j.partial, 0o700); err != nil && (err != unix.EEXIST || j.old == nil) {
		return &fs.PathError{Op: "mkdir", Path: j.partial, Err: err}
	}
	fd, err := openBeneath(dir, j.partial, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return &fs.PathError{Op: "open", Path: j.partial, Err: err}
	}
	j.dst = os.NewFile(uintptr(fd), j.partial)
	if j.asRoot { // killed just before its rename, a copy leaves it to the data's owner
		return unix.Fchown(fd, 0, 0)
	}
	return nil
}

// prepare measures the work, if the caller wants progress.
func (j *job) prepare() error {
	if j.progress == nil {
		return nil
	}
	_, total, err := j.measure(int(j.src.Fd()), "", 0)
	if err != nil {
		return err
	}
	j.total = total
	clear(j.seen)
	j.seenBytes = 0
	j.progress(0, total)
	return nil
}

// finish completes the copy and commits it.
func (j *job) finish() error {
	if err := j.folder(int(j.src.Fd()), int(j.dst.Fd()), "", 0); err != nil {
		return err
	}
	if err := j.attributes(int(j.src.Fd()), int(j.dst.Fd()), "", &j.mount); err != nil {
		return err
	}
	if err := unix.Syncfs(int(j.dst.Fd())); err != nil {
		return err
	}
	if j.commit != nil {
		if err := j.commit(j.stats); err != nil {
			return err
		}
	}
	dir := int(j.parent.Fd())
	err := unix.Renameat2(dir, j.partial, dir, j.base, unix.RENAME_NOREPLACE)
	if err == unix.EINVAL || err == unix.ENOSYS { // not every file system can
		err = unix.Renameat(dir, j.partial, dir, j.base)
	}
	if err != nil {
		return &fs.PathError{Op: "rename", Path: j.partial, Err: err}
	}
	if err := unlinkIndex(dir, j.partial); err != nil {
		return err
	}
	return j.parent.Sync()
}

// leave completes a precopy: the index, which proves that the rest is there,
// comes last.
func (j *job) leave() error {
	fresh, err := j.flushSource()
	if err != nil {
		return err
	}
	return j.leaveBehind(fresh)
}

// leaveBehind is leave with what flushSource has returned.
func (j *job) leaveBehind(fresh time.Time) error {
	j.fresh = fresh
	j.index = newIndexWriter(inodeOf(&j.mount))
	if err := j.folder(int(j.src.Fd()), int(j.dst.Fd()), "", 0); err != nil {
		return err
	}
	if err := unix.Syncfs(int(j.dst.Fd())); err != nil {
		return err
	}
	return j.index.write(j.parent, j.partial+indexSuffix)
}
