package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/faultpoint"
	"github.com/lull/lull/agent/lib/manifest"
)

// treeBuilder builds one tree, in two passes: build links what is resident,
// complete the rest. Two goroutines share the entries.
type treeBuilder struct {
	s       *Store
	pkg     digest.Digest
	meta    *manifest.Meta
	dir     string
	missing []manifest.Entry // found no blob, sorted by path
	root    int              // descriptors, open during a pass
	blobs   int
	chmod   bool // the umask removes bits that directories need
}

func (s *Store) newTree(pkg digest.Digest, m *manifest.Meta) *treeBuilder {
	name := fmt.Sprintf("%s%s.%d", newPrefix, pkg, s.serial.Add(1))
	return &treeBuilder{s: s, pkg: pkg, meta: m, dir: s.path(packagesDir, name)}
}

const folderMode = 0o755

func (t *treeBuilder) build() error {
	if err := faultpoint.Hit("store.materialise.build"); err != nil {
		return err
	}
	if err := os.Mkdir(t.dir, folderMode); err != nil {
		return err
	}
	return t.pass(func() error {
		var st unix.Stat_t
		if err := unix.Fstat(t.root, &st); err != nil {
			return &fs.PathError{Op: "stat", Path: t.dir, Err: err}
		}
		if t.chmod = st.Mode&0o777 != folderMode; t.chmod {
			if err := unix.Fchmod(t.root, folderMode); err != nil {
				return &fs.PathError{Op: "chmod", Path: t.dir, Err: err}
			}
		}
		return t.all(t.meta.Entries)
	})
}

// complete needs all blobs and the meta to be resident.
func (t *treeBuilder) complete() error {
	return t.pass(func() error {
		if err := t.all(t.missing); err != nil {
			return err
		}
		if len(t.missing) > 0 {
			e := &t.missing[0]
			return fmt.Errorf("%s: %w", e.Path, notResident(Key{e.Blob, e.Exec}))
		}
		return t.reserved()
	})
}

// pass does something with the descriptors open.
func (t *treeBuilder) pass(do func() error) (err error) {
	if t.root, err = openDir(unix.AT_FDCWD, t.dir); err != nil {
		return err
	}
	defer unix.Close(t.root)
	if t.blobs, err = openDir(unix.AT_FDCWD, t.s.path(blobsDir)); err != nil {
		return err
	}
	defer unix.Close(t.blobs)
	return do()
}

// all makes entries, and leaves in missing those that found no blob.
func (t *treeBuilder) all(entries []manifest.Entry) error {
	var g errgroup.Group
	var behind []manifest.Entry
	if half := (len(entries) + 1) / 2; half > 64 {
		rest := entries[half:]
		g.Go(func() (err error) {
			behind, err = t.entries(rest)
			return err
		})
		entries = entries[:half]
	}
	missing, err := t.entries(entries)
	if err := errors.Join(err, g.Wait()); err != nil {
		return err
	}
	t.missing = append(missing, behind...)
	return nil
}

// openDir opens a directory without the work of package os for files that may
// block: a tree has thousands of directories.
func openDir(at int, path string) (int, error) {
	for {
		fd, err := unix.Openat(at, path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return -1, &fs.PathError{Op: "open", Path: path, Err: err}
		}
		return fd, nil
	}
}

// reserved makes the directory .lull.
func (t *treeBuilder) reserved() error {
	if err := t.folder(t.root, manifest.Reserved); err != nil {
		return err
	}
	dir, err := openDir(t.root, manifest.Reserved)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	own := MetaKey(t.pkg)
	if err := t.link(own, dir, "meta.json"); err == errNotResident {
		return notResident(own)
	} else if err != nil {
		return err
	}
	launch, err := t.meta.Launch.Encode()
	if err != nil {
		return err
	}
	place := t.dir + "/" + manifest.Reserved
	path := place + "/launch.json"
	if err := os.WriteFile(path, launch, 0o600); err != nil {
		return err
	}
	if err := os.Chmod(path, 0o444); err != nil {
		return err
	}
	if len(t.meta.Subpackages) == 0 {
		return nil
	}
	if err := t.folder(dir, "sub"); err != nil {
		return err
	}
	for name, sub := range t.meta.Subpackages {
		if err := os.Symlink(subTarget(sub), place+"/sub/"+name); err != nil {
			return err
		}
	}
	return nil
}

// subTarget is what .lull/sub/NAME points to.
func subTarget(sub digest.Digest) string { return "../../../" + sub.String() }

// entries makes those entries, which are sorted by path, and their parents, and
// returns those that found no blob.
func (t *treeBuilder) entries(entries []manifest.Entry) (missing []manifest.Entry, err error) {
	made := map[string]bool{".": true}
	dir, at := -1, ""
	defer func() {
		if dir >= 0 {
			unix.Close(dir)
		}
	}()
	for i := range entries {
		e := &entries[i]
		parent, base := ".", e.Path
		if j := strings.LastIndexByte(e.Path, '/'); j >= 0 {
			parent, base = e.Path[:j], e.Path[j+1:]
		}
		if dir < 0 || at != parent {
			if err := t.parents(parent, made); err != nil {
				return nil, err
			}
			if dir >= 0 {
				unix.Close(dir)
			}
			if dir, err = openDir(t.root, parent); err != nil {
				return nil, err
			}
			at = parent
		}
		switch e.Type {
		case manifest.TypeDir:
			err = t.parents(e.Path, made)
		case manifest.TypeSymlink:
			err = unix.Symlinkat(e.Symlink, dir, base)
		default:
			err = t.file(e, dir, base)
			if err == errNotResident {
				missing, err = append(missing, *e), nil
			}
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.Path, err)
		}
	}
	return missing, nil
}

// file links a blob, whose size must be that of the manifest.
func (t *treeBuilder) file(e *manifest.Entry, dir int, base string) error {
	k := Key{e.Blob, e.Exec}
	if err := t.link(k, dir, base); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := fstatat(dir, base, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: base, Err: err}
	}
	return checkSize(Want{k, e.Size}, &st)
}

// parents makes the directory path, and those above it first.
func (t *treeBuilder) parents(path string, made map[string]bool) error {
	if made[path] {
		return nil
	}
	if j := strings.LastIndexByte(path, '/'); j >= 0 {
		if err := t.parents(path[:j], made); err != nil {
			return err
		}
	}
	made[path] = true
	return t.folder(t.root, path)
}

func (t *treeBuilder) folder(dir int, path string) error {
	err := unix.Mkdirat(dir, path, folderMode)
	if err == unix.EEXIST {
		return nil // the other goroutine was faster
	}
	if err == nil && t.chmod {
		err = unix.Fchmodat(dir, path, folderMode, 0)
	}
	if err != nil {
		return &fs.PathError{Op: "mkdir", Path: path, Err: err}
	}
	return nil
}

// errNotResident is link's error for a blob without a name in blobs/.
var errNotResident = errors.New("not resident")

func notResident(k Key) error { return errkind.New(errkind.NotFound, "blob %s is not resident", k) }

// link gives the blob another name. A file system that has no more links to
// give for that file gets a copy, which costs space but changes nothing else.
func (t *treeBuilder) link(k Key, dir int, base string) error {
	if err := faultpoint.Hit("store.materialise.link"); err != nil {
		return err
	}
	err := unix.Linkat(t.blobs, k.rel(), dir, base, 0)
	switch err {
	case nil:
		return nil
	case unix.EMLINK, unix.EXDEV:
		return t.copy(k, dir, base)
	case unix.ENOENT:
		return errNotResident
	}
	return &fs.PathError{Op: "link", Path: k.String(), Err: err}
}

func (t *treeBuilder) copy(k Key, dir int, base string) error {
	from, err := os.Open(t.s.BlobPath(k))
	if err != nil {
		return err
	}
	defer from.Close()
	fd, err := unix.Openat(dir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return &fs.PathError{Op: "create", Path: base, Err: err}
	}
	to := os.NewFile(uintptr(fd), base)
	defer to.Close()
	if unix.IoctlFileClone(fd, int(from.Fd())) != nil {
		if _, err := io.Copy(to, from); err != nil {
			return err
		}
	}
	if err := to.Chmod(k.mode()); err != nil {
		return err
	}
	return to.Close()
}
