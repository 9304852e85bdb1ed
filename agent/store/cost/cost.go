// Package cost works out what a package would cost that is not here: which bytes would
// be fetched, and which the store would grow by. It writes nothing and protects nothing,
// so that its answer is about this moment.
//
// Concurrency: Costs is safe for concurrent use. Its mutex is not held while it reads.
package cost

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/resolve"
)

// maxManifest is how large a manifest may be that is read for its cost alone.
const maxManifest = 64 << 20

// block is what file systems allot at a time.
const block = 4096

// Cost is what a package would cost, in bytes, without compression.
type Cost struct {
	Fetch int64 // of its blobs that the store does not have
	Write int64 // the same in whole blocks
}

// ErrUnknown means that a manifest is not here and was not to be read.
var ErrUnknown = errors.New("the manifest is not here")

// Costs works costs out for one store.
type Costs struct {
	store *store.Store
	mu    sync.Mutex
	last  digest.Digest             // guarded by mu: the package that metas are of
	metas map[digest.Digest]fetched // guarded by mu: read from repositories for last
}

// New returns Costs for a store.
func New(s *store.Store) *Costs { return &Costs{store: s} }

// Of computes the cost of a package with its subpackages. Manifests that the
// store does not have are read from src; if src is nil, the error is
// ErrUnknown.
func (c *Costs) Of(ctx context.Context, pkg digest.Digest, src resolve.Source) (cost Cost, err error) {
	c.mu.Lock()
	if c.last != pkg || c.metas == nil {
		c.last, c.metas = pkg, map[digest.Digest]fetched{}
	}
	have := c.metas // of this package, also when another one becomes the last meanwhile
	c.mu.Unlock()
	seen := map[digest.Digest]bool{pkg: true}
	counted := map[store.Key]bool{}
	for todo := []digest.Digest{pkg}; len(todo) > 0; todo = todo[1:] {
		m, size, err := c.manifest(ctx, todo[0], src, have)
		if err != nil {
			return Cost{}, err
		}
		cost.add(size)
		for _, w := range store.Wants(m) {
			if !counted[w.Key] && !c.store.Has(w.Key) {
				cost.add(w.Size)
			}
			counted[w.Key] = true
		}
		for _, sub := range m.Subpackages {
			if !seen[sub] {
				seen[sub] = true
				todo = append(todo, sub)
			}
		}
	}
	return cost, nil
}

func (c *Cost) add(size int64) {
	c.Fetch += size
	c.Write += (size + block - 1) / block * block
}

// fetched is a manifest that was read from a repository.
type fetched struct {
	*manifest.Meta
	size int64
}

// manifest returns a manifest, and how many bytes of it would be fetched. Have, which mu
// guards, holds those that were read.
func (c *Costs) manifest(ctx context.Context, pkg digest.Digest, src resolve.Source, have map[digest.Digest]fetched) (*manifest.Meta, int64, error) {
	if c.store.Has(store.MetaKey(pkg)) {
		m, err := c.store.Meta(pkg)
		return m, 0, err
	}
	c.mu.Lock()
	known, ok := have[pkg]
	c.mu.Unlock()
	if ok {
		return known.Meta, known.size, nil
	}
	if src == nil {
		return nil, 0, ErrUnknown
	}
	in, err := src.Blob(ctx, pkg, 0)
	if err != nil {
		return nil, 0, err
	}
	defer in.Close()
	b, err := io.ReadAll(io.LimitReader(in, maxManifest+1))
	switch {
	case err != nil:
		return nil, 0, err
	case len(b) > maxManifest:
		return nil, 0, errkind.New(errkind.Invalid, "cannot work out the cost of package %s: its manifest is larger than %d MiB", pkg.Short(), maxManifest>>20)
	case digest.Of(b) != pkg:
		return nil, 0, errkind.New(errkind.Untrusted, "cannot trust the manifest of package %s: its content is another one", pkg.Short())
	}
	m, err := manifest.Parse(b)
	if err != nil {
		return nil, 0, err
	}
	c.mu.Lock()
	have[pkg] = fetched{m, int64(len(b))}
	c.mu.Unlock()
	return m, int64(len(b)), nil
}
