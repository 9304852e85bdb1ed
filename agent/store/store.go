// Package store keeps content-addressed blobs and the package trees that are
// hard-linked from them.
//
// Words: a blob is the content of one file, kept as blobs/ab/HASH, or HASH and
// an "x" for the same bytes with the execute bit; a Key names it. Resident is
// what has a name in blobs/; the name promises whole, verified content on
// stable storage. An ingest collects the blobs of one package in tmp/HASH/ and
// makes them resident together, flushed together. To materialise is to build a
// package's tree in packages/. The trash holds what the collector has taken
// away and not yet deleted. The reserve is a file that only fills space, given
// up so that a full disk can be collected.
//
// Order of publishing: blobs are flushed, then get their names; a tree is
// built under a temporary name, flushed, then gets its own. Order of taking
// away: tree, then blobs. So a tree in packages/ is always whole, and so are
// the trees of its subpackages.
//
// Concurrency: a Store is safe for concurrent use. Its one lock, residency,
// orders the question "is it resident?" against the collector's taking away:
// the collector checks its protections and renames a small batch under the
// write lock; all others ask under the read lock, after having registered
// their needs (package index). Nothing slow happens under it. Copying,
// hashing,
// flushing and deleting block on the disk and hold no lock. One process at a
// time may change a root: see LockRoot.
package store

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
)

// The directories of a root.
const (
	blobsDir    = "blobs"
	packagesDir = "packages"
	tmpDir      = "tmp"
	trashDir    = "trash"
)

// newPrefix begins the names of trees under construction.
const newPrefix = ".new."

// Key names a blob.
type Key struct {
	Digest digest.Digest
	Exec   bool
}

// MetaKey names the meta of a package.
func MetaKey(pkg digest.Digest) Key { return Key{Digest: pkg} }

// String is the blob's file name.
func (k Key) String() string {
	if k.Exec {
		return k.Digest.String() + "x"
	}
	return k.Digest.String()
}

// Compare orders keys as their file names are ordered.
func (k Key) Compare(other Key) int {
	c := k.Digest.Compare(other.Digest)
	switch {
	case c != 0 || k.Exec == other.Exec:
		return c
	case other.Exec:
		return -1
	}
	return 1
}

// mode is that of the blob's file.
func (k Key) mode() fs.FileMode {
	if k.Exec {
		return 0o555
	}
	return 0o444
}

// rel is the blob's path below blobs/.
func (k Key) rel() string {
	// Without the detour by String: a tree has thousands.
	b := make([]byte, 0, 3+2*digest.Size+1)
	b = append(hex.AppendEncode(b, k.Digest[:1]), '/')
	b = hex.AppendEncode(b, k.Digest[:])
	if k.Exec {
		b = append(b, 'x')
	}
	return string(b)
}

// ParseKey reads the file name of a blob.
func ParseKey(name string) (Key, error) {
	hex, exec := strings.CutSuffix(name, "x")
	d, err := digest.Parse(hex)
	return Key{d, exec}, err
}

// Want is content that a package needs. Size is -1 where it is not known.
type Want struct {
	Key  Key
	Size int64
}

// Store is a root directory.
type Store struct {
	root   string
	other  int          // pid of the agent that has locked the root, if not this one; -1 if unknown
	serial atomic.Int64 // makes names in the trash unique

	residency sync.RWMutex
	trashed   map[Key]string // blobs in the trash → where, guarded by residency
	condemned atomic.Int64   // how many blobs were, added to under residency

	mu      sync.Mutex
	ingests map[digest.Digest]bool // under way
	reserve int64                  // bytes wanted
}

// Open opens the store at root and makes its directories. Unless another process
// has locked the root, it deletes the remains of a crash: the trash,
// unfinished trees, temporary files. Unfinished ingests stay, to be resumed.
// With the root locked by another process the store can only be read.
func Open(root string) (*Store, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, errkind.New(errkind.Failed, "cannot open the store: %w", err)
	}
	s := &Store{
		root:    root,
		trashed: map[Key]string{},
		ingests: map[digest.Digest]bool{},
	}
	if s.other = lockedByOther(root); s.other != 0 {
		if _, err := os.Stat(s.path(blobsDir)); err != nil {
			return nil, errkind.New(errkind.KindOf(err), "cannot open the store %s: %w", root, err)
		}
		return s, nil
	}
	if err := s.prepare(); errors.Is(err, unix.EROFS) && exists(unix.AT_FDCWD, s.path(blobsDir)) && exists(unix.AT_FDCWD, s.path(packagesDir)) {
		return s, nil // to be read; leftovers do no harm
	} else if err != nil {
		return nil, errkind.New(errkind.KindOf(err), "cannot open the store %s: %w", root, err)
	}
	return s, nil
}

// prepare makes the directories and deletes leftovers.
func (s *Store) prepare() error {
	for _, dir := range []string{blobsDir, packagesDir, tmpDir, trashDir} {
		if err := durable.MkdirAll(s.path(dir), 0o755); err != nil {
			return err
		}
	}
	if err := s.makeFanOut(); err != nil {
		return err
	}
	if err := s.removeLeftovers(); err != nil {
		return err
	}
	return s.emptyTrash()
}

// makeFanOut makes blobs/00 to blobs/ff, flushed together.
func (s *Store) makeFanOut() error {
	made := false
	for i := range 256 {
		err := os.Mkdir(s.path(blobsDir, fmt.Sprintf("%02x", i)), 0o755)
		if err == nil {
			made = true
		} else if !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	if made {
		return durable.SyncFS(s.path(blobsDir))
	}
	return nil
}

func (s *Store) removeLeftovers() error {
	entries, err := os.ReadDir(s.path(packagesDir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), newPrefix) || durable.IsTemp(e.Name()) {
			if err := removeTree(s.path(packagesDir, e.Name())); err != nil {
				return err
			}
		}
	}
	top, err := os.ReadDir(s.root)
	if err != nil {
		return err
	}
	for _, e := range top {
		if e.Type().IsRegular() && durable.IsTemp(e.Name()) {
			if err := os.Remove(s.path(e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// writable refuses changes to a root that another process has locked.
func (s *Store) writable() error {
	if s.other == 0 {
		return nil
	}
	return busy(s.root, s.other)
}

// Root is the absolute path of the store.
func (s *Store) Root() string { return s.root }

func (s *Store) path(elements ...string) string {
	return s.root + "/" + strings.Join(elements, "/")
}

// BlobPath is where a resident blob lies.
func (s *Store) BlobPath(k Key) string { return s.path(blobsDir, k.rel()) }

// PackageDir is where the package's tree lies once it is materialised.
func (s *Store) PackageDir(pkg digest.Digest) string { return s.path(packagesDir, pkg.String()) }

// Has reports whether a blob is resident.
func (s *Store) Has(k Key) bool {
	s.residency.RLock()
	defer s.residency.RUnlock()
	return exists(unix.AT_FDCWD, s.BlobPath(k))
}

// HasPackage reports whether the package's tree exists.
func (s *Store) HasPackage(pkg digest.Digest) bool {
	s.residency.RLock()
	defer s.residency.RUnlock()
	return exists(unix.AT_FDCWD, s.PackageDir(pkg))
}

// OpenPackage opens the directory of the package's tree. Take a lease first:
// then the tree stays.
func (s *Store) OpenPackage(pkg digest.Digest) (*os.File, error) {
	s.residency.RLock()
	defer s.residency.RUnlock()
	f, err := os.OpenFile(s.PackageDir(pkg), os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errkind.New(errkind.NotFound, "cannot open package %s: it is not resident", pkg.Short())
	}
	if err != nil {
		return nil, errkind.New(errkind.KindOf(err), "cannot open package %s: %w", pkg.Short(), err)
	}
	return f, nil
}

func exists(dir int, path string) bool {
	var st unix.Stat_t
	return fstatat(dir, path, &st) == nil
}

func fstatat(dir int, path string, st *unix.Stat_t) error {
	for {
		if err := unix.Fstatat(dir, path, st, unix.AT_SYMLINK_NOFOLLOW); err != unix.EINTR {
			return err
		}
	}
}

// ErrCorrupt is the cause of an error about a resident blob with other content
// than its name promises.
var ErrCorrupt = errors.New("its content is not what its name promises")

// Meta reads the meta of a package and verifies it. A meta that is not
// resident is an error of kind NotFound, a broken one of kind Untrusted.
func (s *Store) Meta(pkg digest.Digest) (*manifest.Meta, error) {
	return readMeta(pkg, s.BlobPath(MetaKey(pkg)))
}

// TreeMeta is Meta from the package's tree, where it has a second name.
func (s *Store) TreeMeta(pkg digest.Digest) (*manifest.Meta, error) {
	return readMeta(pkg, filepath.Join(s.PackageDir(pkg), manifest.Reserved, "meta.json"))
}

func readMeta(pkg digest.Digest, path string) (*manifest.Meta, error) {
	fail := func(kind errkind.Kind, err error) error {
		return errkind.New(kind, "cannot read the meta of package %s: %w", pkg.Short(), err)
	}
	kindOf := func(err error) errkind.Kind {
		if errors.Is(err, fs.ErrNotExist) {
			return errkind.NotFound
		}
		return errkind.Failed
	}
	fi, err := os.Lstat(path)
	if err != nil {
		return nil, fail(kindOf(err), err)
	}
	if !fi.Mode().IsRegular() || fi.Size() > manifest.MaxSize {
		return nil, fail(errkind.Untrusted, ErrCorrupt)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fail(kindOf(err), err)
	}
	defer f.Close()
	var text strings.Builder
	text.Grow(int(fi.Size()))
	h := digest.New()
	if _, err := copyBuffered(io.MultiWriter(h, &text), io.LimitReader(f, fi.Size()+1)); err != nil {
		return nil, fail(errkind.Failed, err)
	}
	if digest.From(h) != pkg {
		return nil, fail(errkind.Untrusted, ErrCorrupt)
	}
	m, err := manifest.Parse(text.String())
	if err != nil {
		return nil, fail(errkind.Untrusted, err)
	}
	return m, nil
}

// Packages lists the packages that have a tree, sorted. It is empty when
// they cannot be listed; Trees distinguishes these cases.
func (s *Store) Packages() []digest.Digest {
	list, _ := s.Trees()
	return list
}

// Find returns the one package whose hash begins with prefix, which has
// digest.ShortLen digits or more.
func (s *Store) Find(prefix string) (digest.Digest, bool) {
	if len(prefix) < digest.ShortLen || !digest.IsHex(prefix) {
		return digest.Digest{}, false
	}
	var found []digest.Digest
	for _, pkg := range s.Packages() {
		if strings.HasPrefix(pkg.String(), prefix) {
			found = append(found, pkg)
		}
	}
	if len(found) != 1 {
		return digest.Digest{}, false
	}
	return found[0], true
}
