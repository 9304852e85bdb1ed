package store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
)

// Finding is something wrong in the store.
type Finding struct {
	What    string // path below the root
	Problem string // what is wrong with it, without "cannot"
	Key     Key    // of the blob to re-fetch; zero if none is broken
	// Package is the package to repair, zero if nothing needs what was found.
	Package digest.Digest
	// Packages are all whose trees need the blob, Package the first of them.
	Packages []digest.Digest
}

// Verify re-reads everything: every blob is hashed, its mode and owner
// checked; every tree is compared with its manifest and its links with the
// blobs.
// It returns what is wrong, sorted, and how many blobs it has read. Progress,
// which may be nil, is called now and then with bytes read and bytes to read,
// by one goroutine at a time. Content that is collected meanwhile is no finding.
//
// Sealed, which may be nil, calls read with the content of an inode that a
// refresh has leased, because an open would break the lease, and returns false
// for any other.
func (s *Store) Verify(ctx context.Context, progress func(done, total int64), sealed func(dev, ino uint64, read func(io.ReaderAt)) bool) ([]Finding, int, error) {
	v := &verification{s: s, ctx: ctx, progress: progress, sealed: sealed, broken: map[Key]string{}, users: map[Key][]digest.Digest{}}
	err := v.run()
	if err != nil {
		kind := errkind.KindOf(err)
		if ctx.Err() != nil {
			kind = errkind.Interrupted
		}
		return v.findings, v.blobs, errkind.New(kind, "cannot verify the store: %w", err)
	}
	return v.findings, v.blobs, nil
}

type verification struct {
	s        *Store
	ctx      context.Context
	progress func(done, total int64)
	sealed   func(dev, ino uint64, read func(io.ReaderAt)) bool // may be nil

	mu          sync.Mutex // guards what follows
	findings    []Finding
	blobs       int
	done, total int64
	broken      map[Key]string
	users       map[Key][]digest.Digest // of broken blobs
}

func (v *verification) run() error {
	_, total, err := v.s.Usage()
	if err != nil {
		return err
	}
	v.total = total
	var g errgroup.Group
	parts := make(chan int)
	for range workers {
		g.Go(func() error {
			var err error
			for part := range parts {
				if err == nil {
					err = v.s.ScanBlobs(part, v.blob, v.foreign)
				}
			}
			return err
		})
	}
	for part := range FanOut {
		parts <- part
	}
	close(parts)
	if err := g.Wait(); err != nil {
		return err
	}
	if err := v.strays(blobsDir, func(name string) bool {
		b := []byte(name)
		return len(b) == 2 && digest.IsHex(name)
	}); err != nil {
		return err
	}
	if err := v.strays(packagesDir, func(name string) bool {
		k, ok := parseName([]byte(name))
		return ok && !k.Exec || strings.HasPrefix(name, newPrefix)
	}); err != nil {
		return err
	}
	trees, err := v.s.Trees()
	if err != nil {
		return err
	}
	for _, pkg := range trees {
		if err := v.ctx.Err(); err != nil {
			return err
		}
		if err := v.tree(pkg); err != nil {
			return err
		}
	}
	for k, what := range v.broken {
		f := Finding{What: blobsDir + "/" + k.rel(), Problem: what, Key: k, Packages: v.users[k]}
		if len(f.Packages) > 0 {
			f.Package = f.Packages[0]
		}
		v.findings = append(v.findings, f)
	}
	slices.SortFunc(v.findings, func(a, b Finding) int {
		return strings.Compare(a.What+"\x00"+a.Problem, b.What+"\x00"+b.Problem)
	})
	v.tell(0, true)
	return nil
}

// add records a finding in a tree or a foreign name.
func (v *verification) add(f Finding) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.findings = append(v.findings, f)
}

func (v *verification) tell(n int64, blob bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.done += n
	if v.progress != nil && blob {
		v.progress(min(v.done, v.total), v.total)
	}
}

func (v *verification) foreign(name string) error {
	v.add(Finding{What: blobsDir + "/" + name, Problem: errkind.Text("does not belong into the store")})
	return nil
}

// strays reports names in a directory that do not belong there.
func (v *verification) strays(folder string, ours func(string) bool) error {
	entries, err := os.ReadDir(v.s.path(folder))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !ours(e.Name()) || !e.IsDir() {
			v.add(Finding{What: folder + "/" + e.Name(), Problem: errkind.Text("does not belong into the store")})
		}
	}
	return nil
}

// blob hashes one blob.
func (v *verification) blob(k Key) error {
	if err := v.ctx.Err(); err != nil {
		return err
	}
	what, n, err := v.check(v.s.BlobPath(k), k)
	if err != nil && !v.s.Has(k) {
		return nil // collected meanwhile
	}
	if err != nil {
		what = errkind.Text("cannot be read: %v", err)
	}
	v.mu.Lock()
	v.blobs++
	if what != "" {
		v.broken[k] = what
	}
	v.mu.Unlock()
	v.tell(n, true)
	return nil
}

// check returns the fault of a file that should hold the blob k.
func (v *verification) check(path string, k Key) (what string, n int64, err error) {
	if what, err = checkFile(path, k); what != "" || err != nil {
		return what, 0, err
	}
	d, n, err := v.hash(path)
	if err == nil && d != k.Digest {
		what = errkind.Text("has other content than its name promises")
	}
	return what, n, err
}

func (v *verification) hash(path string) (d digest.Digest, n int64, err error) {
	var st unix.Stat_t
	if v.sealed != nil && fstatat(unix.AT_FDCWD, path, &st) == nil && v.sealed(st.Dev, st.Ino, func(r io.ReaderAt) {
		h := digest.New()
		n, err = copyBuffered(h, io.NewSectionReader(r, 0, math.MaxInt64))
		d = digest.From(h)
	}) {
		return d, n, err
	}
	h, n, err := hashFile(path)
	if err != nil {
		return d, n, err
	}
	return digest.From(h), n, nil
}

// checkFile checks type, mode and owner.
func checkFile(path string, k Key) (string, error) {
	var st unix.Stat_t
	if err := fstatat(unix.AT_FDCWD, path, &st); err != nil {
		return "", err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return errkind.Text("is no regular file"), nil
	case fs.FileMode(st.Mode&0o7777) != k.mode():
		return errkind.Text("has mode %04o instead of %04o", st.Mode&0o7777, k.mode()), nil
	case int(st.Uid) != os.Geteuid():
		return errkind.Text("belongs to user %d instead of %d", st.Uid, os.Geteuid()), nil
	}
	return "", nil
}

// tree compares a tree with its meta.
func (v *verification) tree(pkg digest.Digest) error {
	m, err := v.s.Meta(pkg)
	if err != nil {
		if !v.s.HasPackage(pkg) {
			return nil // collected meanwhile
		}
		v.uses(MetaKey(pkg), pkg)
		if errkind.Is(err, errkind.NotFound) {
			v.add(Finding{What: packagesDir + "/" + pkg.String(), Problem: errkind.Text("has lost its meta"), Key: MetaKey(pkg), Package: pkg, Packages: []digest.Digest{pkg}})
		}
		// The name in the tree may be of another inode, and good.
		if m, err = v.s.TreeMeta(pkg); err != nil {
			return nil
		}
	}
	t := treeCheck{v: v, pkg: pkg, want: map[string]manifest.Entry{}, folders: map[string]bool{".": true}}
	t.expect(m)
	err = filepath.WalkDir(v.s.PackageDir(pkg), t.look)
	if errors.Is(err, fs.ErrNotExist) && !v.s.HasPackage(pkg) {
		return nil
	}
	if err != nil {
		return err
	}
	for path := range t.want {
		t.add(path, errkind.Text("is missing"))
	}
	for path := range t.folders {
		if path != "." {
			t.add(path, errkind.Text("is missing"))
		}
	}
	for _, w := range append(Wants(m), Want{MetaKey(pkg), -1}) {
		if v.s.Has(w.Key) {
			v.uses(w.Key, pkg)
		} else if w.Key != MetaKey(pkg) && v.s.HasPackage(pkg) {
			v.add(Finding{What: blobsDir + "/" + w.Key.rel(), Problem: errkind.Text("is missing"), Key: w.Key, Package: pkg, Packages: []digest.Digest{pkg}})
		}
	}
	return nil
}

// uses notes who needs a broken blob.
func (v *verification) uses(k Key, pkg digest.Digest) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.broken[k] != "" {
		v.users[k] = append(v.users[k], pkg)
	}
}

// treeCheck ticks off what it meets in a tree.
type treeCheck struct {
	v       *verification
	pkg     digest.Digest
	want    map[string]manifest.Entry // what has not been met
	folders map[string]bool
	launch  []byte
}

// expect lists what a tree consists of.
func (t *treeCheck) expect(m *manifest.Meta) {
	folder := func(path string) {
		for ; path != "." && !t.folders[path]; path = filepath.Dir(path) {
			t.folders[path] = true
		}
	}
	for _, e := range m.Entries {
		if e.Type == manifest.TypeDir {
			folder(e.Path)
			continue
		}
		folder(filepath.Dir(e.Path))
		t.want[e.Path] = e
	}
	own := manifest.Reserved + "/"
	folder(manifest.Reserved)
	t.want[own+"meta.json"] = manifest.Entry{Blob: t.pkg}
	t.want[own+"launch.json"] = manifest.Entry{}
	t.launch, _ = m.Launch.Encode()
	for name, sub := range m.Subpackages {
		folder(own + "sub")
		t.want[own+"sub/"+name] = manifest.Entry{Type: manifest.TypeSymlink, Symlink: subTarget(sub)}
		if !t.v.s.HasPackage(sub) {
			t.add(own+"sub/"+name, errkind.Text("refers to a package that is missing"))
		}
	}
}

func (t *treeCheck) add(path, what string) {
	t.v.add(Finding{
		What: packagesDir + "/" + t.pkg.String() + "/" + path, Problem: what,
		Package: t.pkg, Packages: []digest.Digest{t.pkg},
	})
}

// look is called for everything in the tree.
func (t *treeCheck) look(full string, d fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	path, err := filepath.Rel(t.v.s.PackageDir(t.pkg), full)
	if err != nil {
		return err
	}
	if d.IsDir() {
		return t.folder(path, d)
	}
	e, ok := t.want[path]
	if !ok {
		t.add(path, errkind.Text("does not belong to the package"))
		return nil
	}
	delete(t.want, path)
	switch {
	case e.Type == manifest.TypeSymlink:
		if target, err := os.Readlink(full); err != nil || target != e.Symlink {
			t.add(path, errkind.Text("is no symlink to %s", e.Symlink))
		}
		return nil
	case path == manifest.Reserved+"/launch.json":
		if b, err := os.ReadFile(full); err != nil || !bytes.Equal(b, t.launch) {
			t.add(path, errkind.Text("has other content than the meta"))
		}
		return nil
	}
	return t.file(path, full, Key{e.Blob, e.Exec})
}

func (t *treeCheck) folder(path string, d fs.DirEntry) error {
	if !t.folders[path] {
		t.add(path, errkind.Text("does not belong to the package"))
		return fs.SkipDir
	}
	if path != "." {
		delete(t.folders, path)
	}
	if fi, err := d.Info(); err != nil {
		return err
	} else if fi.Mode().Perm() != folderMode {
		t.add(path, errkind.Text("has mode %04o instead of %04o", fi.Mode().Perm(), folderMode))
	}
	return nil
}

// file expects the blob's own inode, which has been read already, or else a copy
// of it.
func (t *treeCheck) file(path, full string, k Key) error {
	var link, blob unix.Stat_t
	if err := fstatat(unix.AT_FDCWD, full, &link); err != nil {
		return &fs.PathError{Op: "stat", Path: full, Err: err}
	}
	err := fstatat(unix.AT_FDCWD, t.v.s.BlobPath(k), &blob)
	if err == nil && link.Ino == blob.Ino && link.Dev == blob.Dev {
		return nil
	}
	what, _, err := t.v.check(full, k)
	if err != nil {
		what = errkind.Text("cannot be read: %v", err)
	}
	if what != "" {
		t.add(path, what)
	}
	return nil
}
