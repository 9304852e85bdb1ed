package publish

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"golang.org/x/sync/errgroup"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/repo"
)

// CheckOptions are the options of Check.
type CheckOptions struct {
	Common
	// From is a copy of the repository that missing and damaged files are taken from. Nil
	// means that nothing is changed.
	From Storage
	// Quick checks that blobs exist, and not their content.
	Quick bool
}

// Checked is the result of Check.
type Checked struct {
	Channels, Packages, Blobs int
	Bytes                     int64 // of the blobs, uncompressed
	Faults                    []Fault
	Unused                    int   // blobs and offers that no channel needs
	UnusedBytes               int64 // their size as stored
}

// Fault is a file that is not as the signatures require.
type Fault struct {
	Path   string
	Error  string // "missing", or what is wrong with it
	Mended bool   // it was replaced by that of the copy
}

// Check verifies everything that a machine could read from the repository: metadata, offers,
// manifests and blobs. With a copy it replaces what is missing or damaged. The content of the
// copy is verified in the same way, so it needs no trust. Error Invalid or Untrusted: the
// metadata cannot be used, and the copy does not have it either.
func Check(ctx context.Context, dir string, o CheckOptions) (Checked, error) {
	store, _, _, err := o.open(dir)
	if err != nil {
		return Checked{}, err
	}
	c := &checking{o: o, needed: map[string]bool{}, packs: map[digest.Digest]int64{}}
	if o.From != nil {
		o.Storage = &mending{Storage: store, c: c}
		o.Keys = cmp.Or(o.Keys, dir+".keys")
	}
	err = o.change(ctx, dir, "check the repository %s", false, c.run)
	slices.SortFunc(c.result.Faults, func(a, b Fault) int { return strings.Compare(a.Path, b.Path) })
	return c.result, err
}

// checking is one run of Check.
type checking struct {
	o      CheckOptions
	store  Storage
	tmp    string                  // for blobs of the copy
	needed map[string]bool         // paths of blobs and offers
	packs  map[digest.Digest]int64 // deltas that are offered, and their sizes

	mu     sync.Mutex // guards result during the check of the blobs
	result Checked
}

func (c *checking) run(s *state) (err error) {
	c.store = s.store
	if _, old := s.store.(flat); old && c.o.From != nil {
		c.o.From = flat{c.o.From} // a copy has the same layout
	}
	if c.o.From != nil {
		if c.tmp, err = s.store.Scratch(); err != nil {
			return err
		}
		defer os.RemoveAll(c.tmp)
	}
	paths, err := s.targetPaths()
	if err != nil {
		return err
	}
	packages := map[digest.Digest]bool{}
	for _, path := range paths {
		name, channel, ok := repo.SplitPointerPath(path)
		if !ok {
			continue
		}
		if err := c.channel(s, name, channel, packages); err != nil {
			return err
		}
	}
	blobs := c.packs
	for _, pkg := range slices.SortedFunc(mapKeys(packages), func(a, b digest.Digest) int { return bytes.Compare(a[:], b[:]) }) {
		if err := c.pkg(s, pkg, blobs); err != nil {
			return err
		}
	}
	if err := c.blobs(s.ctx, blobs); err != nil {
		return err
	}
	if err := s.store.Flush(s.ctx); err != nil {
		return err
	}
	return c.unused(s)
}

func mapKeys[K comparable, V any](m map[K]V) func(func(K) bool) {
	return func(yield func(K) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// channel checks the files of a channel, and adds its packages.
func (c *checking) channel(s *state, name, channel string, packages map[digest.Digest]bool) error {
	c.result.Channels++
	t, err := s.target(repo.PointerPath(name, channel))
	if err != nil {
		return err
	}
	file, err := repo.OffersOf(t.Custom)
	if err != nil {
		return err
	}
	sums := map[string]digest.Digest{pointerFile(name, channel, t): digest.Digest(t.Hashes["sha256"])}
	if file != nil {
		sums[repo.OffersPath(name, channel, file.SHA256)] = file.SHA256
	}
	for path, sum := range sums {
		c.needed[path] = true
		data, err := s.read(path)
		if err == nil && digest.Of(data) != sum {
			err = errDiffers
		}
		if err == nil {
			continue
		}
		if err := c.mend(s.ctx, path, err, func(copied Storage) (Object, error) {
			data, _, err := copied.Read(s.ctx, path)
			if err == nil && digest.Of(data) != sum {
				err = errDiffers
			}
			return Object{Path: path, Data: data}, err
		}); err != nil {
			return err
		}
	}
	if err := s.store.Flush(s.ctx); err != nil {
		return err
	}
	list, err := s.offersOf(name, channel, t)
	if err != nil {
		return nil // it is a fault already
	}
	for _, o := range list {
		packages[o.Package] = true
		for _, d := range o.Deltas {
			c.packs[d.Pack] = d.Size
		}
	}
	return nil
}

var (
	errDiffers = errkind.Fixed("it is not what was signed")
	errMissing = errkind.Fixed("missing")
)

// mend notes a fault and, with a copy, stages the file that get returns. The error is one of
// the storage, not of the file.
func (c *checking) mend(ctx context.Context, path string, fault error, get func(Storage) (Object, error)) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if k := errkind.KindOf(fault); k == errkind.Unavailable || k == errkind.Interrupted {
		return fault
	}
	if errors.Is(fault, fs.ErrNotExist) {
		fault = errMissing
	}
	f := Fault{Path: path, Error: fault.Error()}
	if _, old := c.store.(flat); old {
		f.Path = repo.FlatPath(path)
	}
	if c.o.From != nil {
		o, err := get(c.o.From)
		if err == nil {
			c.mu.Lock()
			err = c.store.Put(ctx, o)
			c.mu.Unlock()
			if err != nil {
				return err
			}
			f.Mended = true
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.result.Faults = append(c.result.Faults, f)
	return nil
}

// pkg checks the manifest of a package, and adds the blobs of it and its subpackages.
func (c *checking) pkg(s *state, pkg digest.Digest, blobs map[digest.Digest]int64) error {
	path := repo.BlobPath(pkg)
	if c.needed[path] {
		return nil
	}
	c.needed[path] = true
	c.result.Packages++
	m, size, err := readMeta(s.ctx, s.store, pkg)
	if err != nil {
		if err := c.mend(s.ctx, path, cmp.Or(errors.Unwrap(err), err), func(copied Storage) (Object, error) {
			return c.copyBlob(s.ctx, copied, pkg, -1)
		}); err != nil {
			return err
		}
		if err := s.store.Flush(s.ctx); err != nil {
			return err
		}
		if m, size, err = readMeta(s.ctx, s.store, pkg); err != nil {
			return nil // it is a fault already
		}
	}
	c.result.Blobs++
	c.result.Bytes += size
	for _, b := range m.Blobs() {
		blobs[b.Digest] = b.Size
	}
	packages, err := required(s.ctx, s.store, m)
	if err != nil {
		if packages, err = c.mendSystem(s, m, blobs, err); err != nil {
			return err
		}
	}
	for _, p := range packages {
		if err := c.pkg(s, p, blobs); err != nil {
			return err
		}
	}
	return nil
}

// mendSystem mends the system.json of a package, which names further packages, and returns what
// the package requires. If it cannot be mended it is a fault, and nothing is known of them.
func (c *checking) mendSystem(s *state, m *manifest.Meta, blobs map[digest.Digest]int64, fault error) ([]digest.Digest, error) {
	d := systemFile(m).Blob
	size, path := blobs[d], repo.BlobPath(d)
	if !c.needed[path] {
		c.needed[path] = true
		c.result.Blobs++
		c.result.Bytes += size
		if err := c.mend(s.ctx, path, cmp.Or(errors.Unwrap(fault), fault), func(copied Storage) (Object, error) { return c.copyBlob(s.ctx, copied, d, size) }); err != nil {
			return nil, err
		}
		if err := s.store.Flush(s.ctx); err != nil {
			return nil, err
		}
	}
	packages, err := required(s.ctx, s.store, m)
	if err != nil {
		return nil, nil // it is a fault already
	}
	return packages, nil
}

// blobs checks the content of packages.
func (c *checking) blobs(ctx context.Context, blobs map[digest.Digest]int64) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for d, size := range blobs {
		path := repo.BlobPath(d)
		if c.needed[path] {
			continue
		}
		c.needed[path] = true
		c.result.Blobs++
		c.result.Bytes += size
		g.Go(func() error {
			var err error
			if c.o.Quick {
				_, err = c.store.Stat(ctx, path)
			} else {
				err = verifyBlob(ctx, c.store, d, size, io.Discard)
				if err != nil && !errors.Is(err, fs.ErrNotExist) {
					err = verifyBlob(ctx, c.store, d, size, io.Discard) // the transfer may have been cut
				}
			}
			if err == nil {
				return nil
			}
			return c.mend(ctx, path, err, func(copied Storage) (Object, error) { return c.copyBlob(ctx, copied, d, size) })
		})
	}
	return g.Wait()
}

// copyBlob copies a blob to a file of its own, and verifies it. A negative size means that of
// the largest manifest at most.
func (c *checking) copyBlob(ctx context.Context, from Storage, d digest.Digest, size int64) (Object, error) {
	f, err := os.Create(filepath.Join(c.tmp, d.String()))
	if err != nil {
		return Object{}, err
	}
	defer f.Close()
	if err := verifyBlob(ctx, from, d, size, f); err != nil {
		return Object{}, err
	}
	return Object{Path: repo.BlobPath(d), From: f.Name()}, errors.Join(f.Chmod(served), f.Close())
}

// verifyBlob verifies a stored blob, and writes its stored form to w.
func verifyBlob(ctx context.Context, from Storage, d digest.Digest, size int64, w io.Writer) error {
	r, err := from.Open(ctx, repo.BlobPath(d))
	if err != nil {
		return err
	}
	defer r.Close()
	limit := size
	if size < 0 {
		limit = manifest.MaxSize
	}
	dec, err := zstd.NewReader(io.TeeReader(contextReader{ctx, r}, w), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(repo.MaxWindow))
	if err != nil {
		return err
	}
	defer dec.Close()
	sum, n, err := digest.Read(io.LimitReader(dec, limit+1))
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return errkind.Errorf("damaged: %w", err)
	case size >= 0 && n != size || sum != d:
		return errDiffers
	}
	return nil
}

// unused counts the blobs and offers that no channel needs.
func (c *checking) unused(s *state) error {
	for _, prefix := range []string{"channels/", "blobs/"} {
		err := s.store.List(s.ctx, prefix, func(path string, i Info) error {
			if !c.needed[path] {
				c.result.Unused++
				c.result.UnusedBytes += i.Size
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// mending is the storage of a repository whose numbered metadata is taken from a copy where
// it is missing or damaged. Signatures are verified by its user. The timestamp is not taken:
// the copy may be older.
type mending struct {
	Storage
	c        *checking
	snapshot string // the path that the timestamp names
}

// may reports whether a file is taken from the copy. A later root or snapshot of the copy is
// not: the copy may be newer, too.
func (m *mending) may(path string) bool {
	switch {
	case !strings.HasPrefix(path, "metadata/") || path == timestampPath || strings.HasSuffix(path, ".root.json"):
		return false
	case strings.HasSuffix(path, ".snapshot.json"):
		return path == m.snapshot
	}
	return true
}

func (m *mending) Read(ctx context.Context, path string) ([]byte, string, error) {
	data, tag, err := m.Storage.Read(ctx, path)
	if t, terr := metadata.Timestamp().FromBytes(data); path == timestampPath && err == nil && terr == nil && t.Signed.Meta["snapshot.json"] != nil {
		m.snapshot = numbered(t.Signed.Meta["snapshot.json"].Version, metadata.SNAPSHOT)
	}
	if err == nil && json.Valid(data) || !m.may(path) || errkind.Is(err, errkind.Unavailable) {
		return data, tag, err
	}
	copied, _, cerr := m.c.o.From.Read(ctx, path)
	if cerr != nil || !json.Valid(copied) {
		return data, tag, err
	}
	fault := Fault{Path: path, Error: "damaged", Mended: true}
	if err != nil {
		fault.Error = errMissing.Error()
	}
	err = m.Storage.Put(ctx, Object{Path: path, Data: copied})
	if err == nil {
		err = m.Storage.Flush(ctx)
	}
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	m.c.result.Faults = append(m.c.result.Faults, fault)
	return copied, "", err
}
