package publish

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo"
)

// PruneOptions select the content that remains in a repository.
type PruneOptions struct {
	Common
	// Offered reports whether a channel of a package continues to offer pkg, its newest
	// one. Older offers remain if their package is kept. Nil means that all channels and
	// offers remain.
	Offered func(name, channel string, pkg digest.Digest) bool
	// Kept are further packages whose blobs remain.
	Kept []digest.Digest
	// Grace is the time for which a version remains after it was offered last, and a file
	// that nothing refers to after it was written.
	Grace time.Duration
	// DryRun deletes nothing.
	DryRun bool
}

// MinSharedGrace is the least Grace in shared storage, where a publication that has begun may
// need content that no signature names yet. A publisher writes blobs again that are older than
// half of it.
const MinSharedGrace = 48 * time.Hour

// Pruned is the result of Prune.
type Pruned struct {
	Channels int
	Blobs    int
	Bytes    int64 // compressed
	Others   int   // unused offers and metadata
}

// Prune deletes channels and offers that are no longer needed, and then the blobs that
// neither a channel nor a kept package needs, nor the system of such a package. A reader sees the metadata without a channel
// before its blobs are deleted. The next Prune deletes the rest of an interrupted one. Error
// Invalid: an offered package is not whole, so that it is unknown what it needs.
func Prune(ctx context.Context, dir string, o PruneOptions) (p Pruned, err error) {
	if o.Storage != nil && o.Storage.Shared() && o.Grace < MinSharedGrace {
		return p, errkind.New(errkind.Usage, "cannot prune the repository %s: in a bucket, the time that unused content remains must be at least %.0f hours", dir, MinSharedGrace.Hours())
	}
	err = o.change(ctx, dir, "prune the repository %s", false, func(s *state) error {
		r := &pruning{state: s, o: o, files: map[string]bool{}, needed: map[digest.Digest]bool{}}
		err := r.run()
		p = r.result
		return err
	})
	return p, err
}

// pruning is one run of Prune.
type pruning struct {
	*state
	o      PruneOptions
	files  map[string]bool        // files below channels that remain
	needed map[digest.Digest]bool // blobs that remain
	result Pruned
}

func (r *pruning) run() error {
	offered, changed, err := r.channels()
	if err != nil {
		return err
	}
	if changed && !r.o.DryRun {
		if err := r.writeAll(); err != nil {
			return err
		}
	}
	for _, pkg := range offered {
		if err := closure(r.ctx, r.store, pkg, r.needed, false); err != nil {
			return err
		}
	}
	former, unused, err := r.formerOffers()
	if err != nil {
		return err
	}
	for _, pkg := range append(former, r.o.Kept...) {
		if err := closure(r.ctx, r.store, pkg, r.needed, true); err != nil {
			return err
		}
	}
	old, err := r.oldMetadata()
	if err != nil {
		return err
	}
	blobs, err := r.unusedBlobs()
	if err != nil {
		return err
	}
	notes, err := r.unusedNotes()
	if err != nil {
		return err
	}
	if err := r.stillCurrent(); err != nil {
		return err
	}
	unused = append(unused, notes...)
	r.result.Others = len(unused) + len(old)
	if r.o.DryRun {
		return nil
	}
	return r.store.Remove(r.ctx, slices.Concat(unused, old, blobs))
}

// channels removes the channels and offers that are not needed from the targets, and returns
// the packages of the others.
func (r *pruning) channels() (offered []digest.Digest, changed bool, err error) {
	paths, err := r.targetPaths()
	if err != nil {
		return nil, false, err
	}
	for _, path := range paths {
		name, channel, ok := repo.SplitPointerPath(path)
		if !ok {
			continue
		}
		list, err := r.offers(name, channel)
		if err != nil {
			return nil, false, err
		}
		kept := list
		if r.o.Offered != nil {
			if !r.o.Offered(name, channel, list[0].Package) {
				if err := r.setTarget(path, nil); err != nil {
					return nil, false, err
				}
				r.result.Channels++
				changed = true
				continue
			}
			kept = slices.DeleteFunc(slices.Clone(list), func(o repo.Offer) bool {
				return o.Package != list[0].Package && !slices.Contains(r.o.Kept, o.Package)
			})
		}
		if len(kept) < len(list) {
			if err := r.writeOffers(kept); err != nil {
				return nil, false, err
			}
			changed = true
		}
		files, err := r.state.files(name, channel)
		if err != nil {
			return nil, false, err
		}
		for _, f := range files {
			r.files[f] = true
		}
		for _, offer := range kept {
			offered = append(offered, offer.Package)
			for _, d := range offer.Deltas {
				r.needed[d.Pack] = true
			}
		}
	}
	return offered, changed, nil
}

// former is a file of offers that are not in force.
type former struct {
	path      string
	published time.Time // of its newest version
	modified  time.Time
	packages  []digest.Digest
	packs     []digest.Digest
}

// formerOffers returns the packages of the files whose grace has not ended, and the other
// files. The grace of a file begins when the next one of its channel was published.
func (r *pruning) formerOffers() (packages []digest.Digest, unused []string, err error) {
	channels := map[string][]former{}
	err = r.store.List(r.ctx, "channels/", func(p string, i Info) error {
		f := former{path: p, modified: i.Modified}
		key := p
		if r.o.Grace > 0 {
			f = r.readFormer(p)
			f.path, f.modified = p, i.Modified
			parts := strings.SplitN(path.Base(p), ".", 3) // hash, channel, the rest
			key = path.Dir(p)
			if len(parts) == 3 {
				key += "/" + parts[1]
			}
		}
		channels[key] = append(channels[key], f)
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	since := r.now.Add(-r.o.Grace)
	for _, list := range channels {
		slices.SortFunc(list, func(a, b former) int {
			return cmp.Or(a.published.Compare(b.published), cmp.Compare(a.path, b.path))
		})
		for i, f := range list {
			next := slices.IndexFunc(list[i:], func(o former) bool { return o.published.After(f.published) })
			switch {
			case r.files[f.path]:
			case r.o.Grace > 0 && (f.modified.After(since) || next > 0 && list[i+next].published.After(since)):
				packages = append(packages, f.packages...)
				for _, pack := range f.packs {
					r.needed[pack] = true
				}
			default:
				unused = append(unused, f.path)
			}
		}
	}
	slices.Sort(unused)
	return packages, unused, nil
}

// readFormer reads a file below channels. One that is damaged has no packages.
func (s *state) readFormer(path string) (f former) {
	data, err := s.read(path)
	if err != nil {
		return f
	}
	list, err := repo.ParseOffers(data)
	if err != nil {
		p, err := repo.ParsePointer(data)
		if err != nil {
			return f
		}
		list = repo.Offers{{Pointer: *p}}
	}
	for _, o := range list {
		f.packages = append(f.packages, o.Package)
		for _, d := range o.Deltas {
			f.packs = append(f.packs, d.Pack)
		}
	}
	f.published = list[0].Published
	return f
}

// closure adds a package, its blobs and what it requires to needed. With missing, a package
// that is not in the repository adds nothing.
func closure(ctx context.Context, store Storage, pkg digest.Digest, needed map[digest.Digest]bool, missing bool) error {
	if needed[pkg] {
		return nil
	}
	m, _, err := readMeta(ctx, store, pkg)
	if missing && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return errkind.New(errkind.KindOf(err), "%w", err).WithHint("lull repo check --from COPY mends a repository")
	}
	needed[pkg] = true
	for _, b := range m.Blobs() {
		needed[b.Digest] = true
	}
	packages, err := required(ctx, store, m)
	if missing && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return errkind.New(errkind.KindOf(err), "%w", err).WithHint("lull repo check --from COPY mends a repository")
	}
	for _, p := range packages {
		if err := closure(ctx, store, p, needed, missing); err != nil {
			return err
		}
	}
	return nil
}

// unusedBlobs returns the blobs that are not needed and older than the grace. A publisher
// that uses such a blob again in shared storage writes it again first.
func (r *pruning) unusedBlobs() (list []string, err error) {
	since := r.now.Add(-r.o.Grace)
	err = r.store.List(r.ctx, "blobs/", func(path string, i Info) error {
		if d, ok := blobOf(path); !ok || r.needed[d] || r.o.Grace > 0 && i.Modified.After(since) {
			return nil
		}
		list = append(list, path)
		r.result.Blobs++
		r.result.Bytes += i.Size
		return nil
	})
	return list, err
}

// unusedNotes returns the notes of deltas that no offer names, and the requests for those
// of packages that are not offered.
func (r *pruning) unusedNotes() (list []string, err error) {
	since := r.now.Add(-r.o.Grace)
	err = r.store.List(r.ctx, deltasDir, func(path string, i Info) error {
		if r.o.Grace > 0 && i.Modified.After(since) {
			return nil
		}
		data, err := r.read(path)
		if err != nil {
			return err
		}
		if strings.HasPrefix(path, requestsDir) {
			var q request
			if json.Unmarshal(data, &q) != nil || !r.needed[q.Package] {
				list = append(list, path)
			}
			return nil
		}
		var n note
		if json.Unmarshal(data, &n) != nil || n.Offer == nil || !r.needed[n.Offer.Pack] {
			list = append(list, path)
		}
		return nil
	})
	return list, err
}

// blobOf returns the digest of a blob's path.
func blobOf(path string) (digest.Digest, bool) {
	name, zst := strings.CutSuffix(path[strings.LastIndexByte(path, '/')+1:], ".zst")
	d, err := digest.Parse(name)
	return d, zst && err == nil && path == repo.BlobPath(d)
}

// oldMetadata returns the versions that are too old for any reader, and those that a
// publisher has left that did not finish.
func (r *pruning) oldMetadata() (list []string, err error) {
	newest := map[string]int64{metadata.TARGETS: r.targets.Signed.Version, metadata.SNAPSHOT: r.snapshot.Signed.Version}
	for _, role := range r.usedBins() {
		newest[role] = r.snapshot.Signed.Meta[role+".json"].Version
	}
	since := r.now.Add(-r.o.Grace)
	err = r.store.List(r.ctx, "metadata/", func(path string, i Info) error {
		number, rest, _ := strings.Cut(strings.TrimPrefix(path, "metadata/"), ".")
		version, err := strconv.ParseInt(number, 10, 64)
		top, known := newest[strings.TrimSuffix(rest, ".json")]
		if err != nil || !known || i.Modified.After(since) {
			return nil
		}
		if version <= top-keepVersions || version > top {
			list = append(list, path)
		}
		return nil
	})
	return list, err
}

// stillCurrent returns errLost if another publisher has changed the repository since it was
// read: its packages may need other blobs.
func (r *pruning) stillCurrent() error {
	if !r.store.Shared() {
		return nil
	}
	_, err := r.store.Stat(r.ctx, numbered(r.snapshot.Signed.Version+1, metadata.SNAPSHOT))
	switch {
	case err == nil:
		return errLost
	case errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return err
}
