package publish

import (
	"cmp"
	"context"
	"os"
	"slices"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/repo"
)

// Catalog reads what a repository offers, as it was when ReadCatalog was called. It holds no
// lock: offers and blobs are files that are written once. A prune or a removal that comes
// later may delete some of them. Its methods may be called from any goroutine until the
// context of ReadCatalog ends.
type Catalog struct {
	state    *state
	channels map[string][]channelTarget // by name
	root     []byte
}

type channelTarget struct {
	channel string
	target  *metadata.TargetFiles
}

// ReadCatalog verifies the metadata of a repository. It changes nothing and needs no private
// key.
func ReadCatalog(ctx context.Context, dir string, c Common) (*Catalog, error) {
	r := &Catalog{channels: map[string][]channelTarget{}}
	err := c.transact(ctx, dir, false, func(s *state) error {
		r.state = s
		paths, err := s.targetPaths()
		if err != nil {
			return err
		}
		for _, path := range paths {
			name, channel, ok := repo.SplitPointerPath(path)
			if !ok {
				continue
			}
			t, err := s.target(path)
			if err != nil {
				return err
			}
			r.channels[name] = append(r.channels[name], channelTarget{channel, t})
		}
		r.root, err = os.ReadFile(s.keys.anchor())
		return err
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// Names returns the names of the packages, sorted.
func (r *Catalog) Names() []string { return slices.Sorted(mapKeys(r.channels)) }

// Root returns the trusted root of the repository.
func (r *Catalog) Root() []byte { return r.root }

// Offers returns the offers of each channel of a package: those of the channel stable first,
// then by the channel's name. Error Untrusted: a file is not the signed one.
func (r *Catalog) Offers(name string) (all []repo.Offers, err error) {
	for _, c := range r.channels[name] {
		list, err := r.state.offersOf(name, c.channel, c.target)
		if err != nil {
			return nil, err
		}
		all = append(all, list)
	}
	slices.SortFunc(all, func(a, b repo.Offers) int {
		stable := func(l repo.Offers) int {
			if l[0].Channel == "stable" {
				return 0
			}
			return 1
		}
		return cmp.Or(stable(a)-stable(b), strings.Compare(a[0].Channel, b[0].Channel))
	})
	return all, nil
}

// Manifest returns the manifest of a package, whose hash it verifies.
func (r *Catalog) Manifest(ctx context.Context, pkg digest.Digest) (*manifest.Meta, error) {
	m, _, err := readMeta(ctx, r.state.store, pkg)
	return m, err
}

// File returns the content of a file of a package, whose hash it verifies. Error Invalid: it
// has more than limit bytes.
func (r *Catalog) File(ctx context.Context, e *manifest.Entry, limit int64) ([]byte, error) {
	if e.Size > limit {
		return nil, errkind.New(errkind.Invalid, "cannot use a file of %d bytes, where %d are allowed", e.Size, limit)
	}
	data, err := readBlob(ctx, r.state.store, e.Blob, e.Size)
	if err != nil {
		return nil, err
	}
	return data, nil
}
