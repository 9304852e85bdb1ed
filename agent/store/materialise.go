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

	"github.com/lull/lull/agent/digest"
	"github.com/lull/lull/agent/durable"
	"github.com/lull/lull/agent/faultpoint"
	"github.com/lull/lull/agent/meta"
	"github.com/lull/lull/agent/problem"
)

// Materialise builds the trees of a package and its subpackages from resident
// blobs, those that are not there yet: hard links, folders 0755. Subpackages
// come first, so that a tree never refers to one that is missing.
func (s *Store) Materialise(pkg digest.Digest) error { return s.MaterialiseFrom(pkg, nil) }

// MaterialiseFrom is Materialise for who has just read the metas: those that are
// not among the known are read.
func (s *Store) MaterialiseFrom(pkg digest.Digest, known map[digest.Digest]*meta.Meta) error {
	if err := s.writable(); err != nil {
		return err
	}
	if s.HasPackage(pkg) {
		// Whoever has built it, now or before he was killed, may not have come to
		// flush its name.
		return durable.SyncDir(s.path(packagesDir))
	}
	if err := s.materialise(pkg, known); err != nil {
		return problem.New(problem.KindOf(err), "cannot build the tree of package %s: %w", pkg.Short(), err)
	}
	return nil
}

func (s *Store) materialise(pkg digest.Digest, known map[digest.Digest]*meta.Meta) (err error) {
	order, err := s.subpackagesFirst(pkg, known)
	if err != nil {
		return err
	}
	var trees []*treeBuilder
	defer func() {
		for _, t := range trees {
			err = errors.Join(err, removeTree(t.dir))
		}
	}()
	for _, p := range order {
		t := s.newTree(p.pkg, p.meta)
		trees = append(trees, t)
		if err := t.build(); err != nil {
			return err
		}
	}
	if err := faultpoint.Hit("store.materialise.flush"); err != nil {
		return err
	}
	if err := durable.SyncFS(s.path(packagesDir)); err != nil {
		return err
	}
	for _, t := range trees {
		err := durable.Move(t.dir, s.PackageDir(t.pkg))
		// ENOTEMPTY: somebody else has just built the same tree.
		if err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return durable.SyncDir(s.path(packagesDir))
}

type resident struct {
	pkg  digest.Digest
	meta *meta.Meta
}

// subpackagesFirst lists the package and its subpackages that have no tree
// yet, each after those that it contains.
func (s *Store) subpackagesFirst(pkg digest.Digest, known map[digest.Digest]*meta.Meta) ([]resident, error) {
	var order []resident
	seen := map[digest.Digest]bool{}
	var visit func(digest.Digest) error
	visit = func(p digest.Digest) error {
		if seen[p] || s.HasPackage(p) {
			return nil
		}
		seen[p] = true
		m := known[p]
		if m == nil {
			var err error
			if m, err = s.Meta(p); err != nil {
				return err
			}
		}
		for _, sub := range m.Subpackages {
			if err := visit(sub); err != nil {
				return err
			}
		}
		order = append(order, resident{p, m})
		return nil
	}
	return order, visit(pkg)
}

// Rebuild builds the package's tree again and puts it in place of the one that
// is there, in one step. Processes that use the old one keep their open files.
func (s *Store) Rebuild(pkg digest.Digest) (err error) {
	if !s.HasPackage(pkg) {
		return s.Materialise(pkg)
	}
	if err := s.writable(); err != nil {
		return err
	}
	fail := func(err error) error {
		return problem.New(problem.KindOf(err), "cannot rebuild the tree of package %s: %w", pkg.Short(), err)
	}
	m, err := s.Meta(pkg)
	if err != nil {
		return fail(err)
	}
	for _, sub := range m.Subpackages {
		if err := s.Materialise(sub); err != nil {
			return fail(err)
		}
	}
	t := s.newTree(pkg, m)
	if err = t.build(); err == nil {
		err = durable.SyncFS(s.path(packagesDir))
	}
	if err == nil {
		err = durable.Exchange(t.dir, s.PackageDir(pkg))
	}
	if err == nil {
		err = durable.SyncDir(s.path(packagesDir))
	}
	// Now the old tree, or what there is of the new one.
	if err = errors.Join(err, removeTree(t.dir)); err != nil {
		return fail(err)
	}
	return nil
}

// treeBuilder builds one tree. Two goroutines share the entries.
type treeBuilder struct {
	s     *Store
	pkg   digest.Digest
	meta  *meta.Meta
	dir   string
	root  int // descriptors
	blobs int
	chmod bool // the umask takes away bits that folders need
}

func (s *Store) newTree(pkg digest.Digest, m *meta.Meta) *treeBuilder {
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
	var err error
	if t.root, err = openDir(unix.AT_FDCWD, t.dir); err != nil {
		return err
	}
	defer unix.Close(t.root)
	var st unix.Stat_t
	if err := unix.Fstat(t.root, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: t.dir, Err: err}
	}
	if t.chmod = st.Mode&0o777 != folderMode; t.chmod {
		if err := unix.Fchmod(t.root, folderMode); err != nil {
			return &fs.PathError{Op: "chmod", Path: t.dir, Err: err}
		}
	}
	if t.blobs, err = openDir(unix.AT_FDCWD, t.s.path(blobsDir)); err != nil {
		return err
	}
	defer unix.Close(t.blobs)

	var g errgroup.Group
	entries := t.meta.Entries
	if half := (len(entries) + 1) / 2; half > 64 {
		rest := entries[half:]
		g.Go(func() error { return t.entries(rest) })
		entries = entries[:half]
	}
	err = t.entries(entries)
	if err := errors.Join(err, g.Wait()); err != nil {
		return err
	}
	return t.reserved()
}

// openDir opens a folder without what package os does for files that may block:
// a tree has thousands of folders.
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

// reserved makes the folder .lull.
func (t *treeBuilder) reserved() error {
	if err := t.folder(t.root, meta.Reserved); err != nil {
		return err
	}
	dir, err := openDir(t.root, meta.Reserved)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if err := t.link(MetaKey(t.pkg), dir, "meta.json"); err != nil {
		return err
	}
	launch, err := t.meta.Launch.Encode()
	if err != nil {
		return err
	}
	own := t.dir + "/" + meta.Reserved
	path := own + "/launch.json"
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
		if err := os.Symlink(subTarget(sub), own+"/sub/"+name); err != nil {
			return err
		}
	}
	return nil
}

// subTarget is what .lull/sub/NAME points to.
func subTarget(sub digest.Digest) string { return "../../../" + sub.String() }

// entries makes those entries, which are sorted by path, and their parents.
func (t *treeBuilder) entries(entries []meta.Entry) error {
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
				return err
			}
			if dir >= 0 {
				unix.Close(dir)
			}
			var err error
			if dir, err = openDir(t.root, parent); err != nil {
				return err
			}
			at = parent
		}
		var err error
		switch e.Type {
		case meta.TypeDir:
			err = t.parents(e.Path, made)
		case meta.TypeSymlink:
			err = unix.Symlinkat(e.Symlink, dir, base)
		default:
			err = t.link(Key{e.Blob, e.Exec}, dir, base)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", e.Path, err)
		}
	}
	return nil
}

// parents makes the folder path, and those above it first.
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
		return problem.New(problem.NotFound, "blob %s is not resident", k)
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
