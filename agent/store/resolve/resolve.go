// Package resolve makes packages resident: it finds out what is missing,
// fetches it, and builds the tree.
//
// Words: a resolve is one call of Resolve, Fetch or Repair. A source delivers
// the content of blobs. A flight is a blob that some resolve has claimed and
// not yet made resident; no other resolve fetches it meanwhile. To admit is to
// see to it, before anything is fetched, that the disk can take it. A transfer is
// a resolve as it is shown while it is under way.
//
// Order: the package is registered in the writing index before anything else;
// a pack of differences from a resident package comes first, if the source has one, and
// failing that, manifests, as they name the rest; every key is registered
// before the store is asked for it; where most is resident, the trees are begun,
// which shows what is missing; then content, in parallel; one flush; names; the
// trees. A resolve that fails keeps what it has fetched in the store's tmp/, where
// the next one continues.
//
// The writing entry ends with the resolve. A caller that needs the package to
// stay holds it in another index (a lease, installed, retained) before the
// resolve.
//
// Concurrency: a Resolver is safe for concurrent use, its exported fields are
// set before the first use. Resolves of one package follow each other. A
// resolve waits for flights of another only after having published its own and
// released its claims, so that no two wait for each other.
package resolve

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/faultpoint"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/index"
)

// Source delivers the content of a blob, decompressed, from an offset on. What
// it delivers need not be trusted: it is verified on the way into the store.
type Source interface {
	Blob(ctx context.Context, d digest.Digest, offset int64) (io.ReadCloser, error)
}

// Resolver resolves into one store.
type Resolver struct {
	// Collect frees space when the disk is full or would be; may be nil.
	Collect func(ctx context.Context) error
	// Parallel is the number of blobs that are fetched at the same time; 0 means 8.
	Parallel int
	// Progressed, which may be nil, is called when the transfers have changed beyond
	// their beginning and end, twice a second at the most, from any goroutine. It must
	// not block.
	Progressed func()
	// DeltaUsed, which may be nil, is called after a pack was used, or could not be.
	DeltaUsed func(error)

	store   *store.Store
	indices *index.Indices

	transfers transfers

	mu      sync.Mutex                      // guards what follows
	flights map[digest.Digest]*flight       // blobs
	active  map[digest.Digest]chan struct{} // packages being resolved; closed at the end
	pledged int64                           // bytes admitted and not yet written
}

type flight struct{ landed chan struct{} }

// New returns a resolver for the store, whose protections are in indices.
func New(s *store.Store, ix *index.Indices) *Resolver {
	return &Resolver{store: s, indices: ix, flights: map[digest.Digest]*flight{}, active: map[digest.Digest]chan struct{}{},
		transfers: transfers{jobs: map[*job]struct{}{}}}
}

// Resolve makes a package with its subpackages resident and builds their trees.
// A package whose tree is there is resolved already. Holder is who it is for,
// as shown by the writing index. Progress, which may be nil, is called by one
// goroutine at a time.
//
// Errors: NoSpace names need, free and freeable bytes; Untrusted, content that
// is not what the package names; Interrupted, ctx is done; else the source's
// error.
func (r *Resolver) Resolve(ctx context.Context, pkg digest.Digest, src Source, holder string, progress func(Progress)) error {
	return r.begin(ctx, pkg, src, holder, progress, (*job).resolve)
}

// Fetch is Resolve without the trees.
func (r *Resolver) Fetch(ctx context.Context, pkg digest.Digest, src Source, holder string, progress func(Progress)) error {
	return r.begin(ctx, pkg, src, holder, progress, (*job).fetch)
}

// Repair is Resolve for a package whose tree may exist but be broken: missing
// blobs are fetched, and the tree is rebuilt in any case. See
// store.DropCorrupt.
func (r *Resolver) Repair(ctx context.Context, pkg digest.Digest, src Source, holder string, progress func(Progress)) error {
	return r.begin(ctx, pkg, src, holder, progress, (*job).repair)
}

func (r *Resolver) begin(ctx context.Context, pkg digest.Digest, src Source, holder string, progress func(Progress), do func(*job) error) error {
	j := &job{r: r, pkg: pkg, src: src, ctx: ctx, holder: holder, since: time.Now(), progress: progress}
	r.enter(j)
	j.writing = r.indices.BeginWriting(pkg, holder)
	defer j.writing.End()
	defer r.leave(j)
	err := r.alone(ctx, pkg, func() error { return do(j) })
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return errkind.New(errkind.Interrupted, "cannot resolve package %s: %w", pkg.Short(), context.Cause(ctx))
	}
	var p *errkind.Error
	if errors.As(err, &p) {
		return err
	}
	return errkind.New(errkind.KindOf(err), "cannot resolve package %s: %w", pkg.Short(), err)
}

// alone runs do while no other resolve of the same package runs.
func (r *Resolver) alone(ctx context.Context, pkg digest.Digest, do func() error) error {
	for {
		r.mu.Lock()
		other, taken := r.active[pkg]
		mine := make(chan struct{})
		if !taken {
			r.active[pkg] = mine
		}
		r.mu.Unlock()
		if !taken {
			defer func() {
				r.mu.Lock()
				defer r.mu.Unlock()
				delete(r.active, pkg)
				close(mine)
			}()
			return do()
		}
		select {
		case <-other:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// job is one resolve.
type job struct {
	r        *Resolver
	pkg      digest.Digest
	src      Source
	ctx      context.Context
	holder   string
	since    time.Time
	writing  *index.Writing
	progress func(Progress)

	stage  func(digest.Digest, metas) (*store.Staging, []store.Want, error) // nil if there are no trees
	ingest *store.Ingest
	claims []*group // made by us, not yet published
	tried  bool     // a pack

	mu      sync.Mutex // guards what follows, and calls of progress
	title   string     // name and version of the package; "" until its meta is there
	at      Progress
	counted time.Time // since when Done grows, from
	from    int64
	left    int // blobs
	pledged int64
}

// Progress is how far a resolve is, in bytes.
type Progress struct {
	Done, Total int64 // what is there and what is wanted, of what was missing at the beginning
	// Fetch and Write are determined before content is fetched, and are zero until then and if
	// nothing is missing. Fetch is what is fetched: a pack as it is, blobs without their
	// compression. Write is the space on the disk that was admitted for it.
	Fetch, Write int64
	// Speed is how many bytes have arrived per second since they were first counted; zero in
	// the first second, and when all are there.
	Speed int64
}

func (j *job) resolve() error {
	if j.r.store.HasPackage(j.pkg) {
		return nil
	}
	j.stage = j.r.store.Stage
	return j.run()
}

func (j *job) fetch() error {
	if j.r.store.HasPackage(j.pkg) {
		return nil
	}
	return j.run()
}

func (j *job) repair() error {
	j.stage = j.r.store.Restage
	return j.run()
}

// run does all of it. A failure for want of space is retried once after a
// collection.
func (j *job) run() (err error) {
	if j.ingest, err = j.r.store.Ingest(j.pkg); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, j.ingest.Close()) }()
	defer j.releaseReservation()
	err = j.attempt()
	if errkind.Is(err, errkind.NoSpace) && j.r.Collect != nil && j.ctx.Err() == nil && !errors.Is(err, errRefused) {
		if e := j.r.Collect(j.ctx); e != nil {
			full := errkind.New(errkind.NoSpace, "%w; %v", err, e)
			full.Hint = errkind.HintOf(e) // what blocks a collection blocks this resolve
			return full
		}
		err = j.attempt()
	}
	return err
}

func (j *job) attempt() (err error) {
	defer j.release()
	if err := j.fromDelta(); err != nil {
		return err
	}
	metas, err := j.metas()
	if err != nil {
		return err
	}
	if err := faultpoint.Hit("resolve.metas"); err != nil {
		return err
	}
	wants := wanted(metas)
	j.register(wants)
	if err := j.dropOthers(metas, wants); err != nil {
		return err
	}
	trees, missing, err := j.begin(metas, wants)
	defer func() {
		if trees != nil {
			err = errors.Join(err, trees.Close())
		}
	}()
	if err != nil {
		return err
	}
	if trees != nil {
		wants = missing // the others are linked
	}
	if err := j.content(missing, len(wants)); err != nil {
		return err
	}
	if err := faultpoint.Hit("resolve.fetched"); err != nil {
		return err
	}
	if err := j.publish(); err != nil {
		return err
	}
	if err := faultpoint.Hit("resolve.published"); err != nil {
		return err
	}
	if err := j.ctx.Err(); err != nil {
		return err
	}
	if j.stage == nil {
		return nil
	}
	if trees == nil {
		if trees, _, err = j.stage(j.pkg, metas); err != nil {
			return err
		}
	}
	return trees.Finish()
}

// dropOthers drops what earlier resolves have fetched and the package does not need: a pack.
func (j *job) dropOthers(metas metas, wants []store.Want) error {
	need := make(map[store.Key]bool, len(metas)+len(wants))
	for pkg := range metas {
		need[store.MetaKey(pkg)] = true
	}
	for _, w := range wants {
		need[w.Key] = true
	}
	return j.ingest.ForgetOthers(func(k store.Key) bool { return need[k] })
}

// begin finds the missing blobs, and begins the trees if most is resident:
// linking a blob checks for it. If little is resident, their directories would
// be left around for as long as the rest takes to arrive; and if there is no
// room even for directories, the missing content must still be reported.
func (j *job) begin(metas metas, wants []store.Want) (trees *store.Staging, missing []store.Want, err error) {
	most := false
	if j.stage != nil {
		if most, err = j.mostly(wants); err != nil {
			return nil, nil, err
		}
	}
	if most {
		trees, missing, err = j.stage(j.pkg, metas)
		if !errkind.Is(err, errkind.NoSpace) {
			return trees, j.unfetched(missing), err
		}
	}
	missing, err = j.missing(wants)
	return nil, missing, err
}

// mostly reports whether most of wants is resident, by a sample: they are sorted by
// their hashes, so that every n-th is a random one.
func (j *job) mostly(wants []store.Want) (bool, error) {
	const size = 64
	var sample []store.Want
	for i := 0; i < len(wants); i += 1 + len(wants)/size {
		sample = append(sample, wants[i])
	}
	absent, err := j.r.store.Absent(sample)
	return 2*len(absent) <= len(sample), err
}

// metas are those of a package and of all below it.
type metas = map[digest.Digest]*manifest.Meta

// metas fetches and reads the metas of the package and its subpackages, level
// by level.
func (j *job) metas() (metas, error) {
	metas := metas{}
	level := []digest.Digest{j.pkg}
	for len(level) > 0 {
		wants := make([]store.Want, len(level))
		for i, pkg := range level {
			wants[i] = store.Want{Key: store.MetaKey(pkg), Size: -1}
		}
		j.register(wants)
		missing, err := j.missing(wants)
		if err != nil {
			return nil, err
		}
		if err := j.get(missing); err != nil {
			return nil, err
		}
		var next []digest.Digest
		for _, pkg := range level {
			m, err := j.meta(pkg)
			if err != nil {
				return nil, err
			}
			metas[pkg] = m
			next = slices.AppendSeq(next, maps.Values(m.Subpackages))
		}
		slices.SortFunc(next, digest.Digest.Compare)
		level = slices.DeleteFunc(slices.Compact(next), func(pkg digest.Digest) bool { return metas[pkg] != nil })
	}
	m := metas[j.pkg]
	j.named(m.Name + " " + m.Version)
	return metas, nil
}

// meta reads a resident manifest. If the disk has damaged it, it is
// re-fetched.
func (j *job) meta(pkg digest.Digest) (*manifest.Meta, error) {
	m, err := j.ingest.Meta(pkg)
	if !errors.Is(err, store.ErrCorrupt) {
		return m, err
	}
	key := store.MetaKey(pkg)
	if err := j.r.store.DropBlob(key); err != nil {
		return nil, err
	}
	if err := j.get([]store.Want{{Key: key, Size: -1}}); err != nil {
		return nil, err
	}
	return j.ingest.Meta(pkg)
}

// wanted is the content of all of them, sorted.
func wanted(metas metas) (wants []store.Want) {
	for _, m := range metas {
		wants = append(wants, store.Wants(m)...)
	}
	if len(metas) > 1 { // those of one are sorted, and different
		wants = store.Distinct(wants)
	}
	return wants
}

// content fetches everything else, with room for so many links.
func (j *job) content(missing []store.Want, links int) error {
	if err := j.admit(missing, links); err != nil {
		return err
	}
	j.expect(missing)
	if err := j.get(missing); err != nil {
		return err
	}
	j.finished()
	return nil
}

// register is due before the store is asked for wants.
func (j *job) register(wants []store.Want) {
	keys := make([]store.Key, len(wants))
	for i, w := range wants {
		keys[i] = w.Key
	}
	j.writing.Add(keys...)
}

// missing leaves out what is resident or has been fetched.
func (j *job) missing(wants []store.Want) ([]store.Want, error) {
	absent, err := j.r.store.Absent(wants)
	return j.unfetched(absent), err
}

// unfetched leaves out what has been fetched.
func (j *job) unfetched(absent []store.Want) []store.Want {
	return slices.DeleteFunc(absent, func(w store.Want) bool { return j.ingest.Has(w.Key) })
}
