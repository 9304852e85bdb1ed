package resolve

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/lull/lull/agent/delta"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/faultpoint"
	"github.com/lull/lull/agent/store"
)

// DeltaSource is a Source that may have packs: differences from older packages.
type DeltaSource interface {
	Source
	// Deltas returns the packs that make a package. It sends no request.
	Deltas(pkg digest.Digest) []delta.Offer
}

// fromDelta makes the missing blobs from a pack and the blobs of an older package, or from a
// pack of all blobs, if that is fewer bytes to fetch. A pack that fails is not used again: what is missing then is
// fetched as whole blobs. The error is that of a context that is done.
func (j *job) fromDelta() error {
	src, ok := j.src.(DeltaSource)
	if !ok || j.tried {
		return nil
	}
	j.tried = true
	o, ok := j.chooseDelta(src.Deltas(j.pkg))
	if !ok {
		return nil
	}
	err := j.useDelta(o)
	if j.ctx.Err() != nil {
		return j.ctx.Err()
	}
	if err == nil || !errors.Is(err, errRefused) { // the admission of the blobs reports it
		if j.r.DeltaUsed != nil {
			j.r.DeltaUsed(err)
		}
	}
	return nil
}

// chooseDelta returns the smallest pack that can be decoded, from a resident package or from
// nothing, if the blobs that are missing are larger.
func (j *job) chooseDelta(offers []delta.Offer) (best delta.Offer, ok bool) {
	for _, o := range offers {
		if o.Validate() == nil && o.Format <= delta.Format && (o.From.IsZero() || j.r.store.HasPackage(o.From)) && (!ok || o.Size < best.Size) {
			best, ok = o, true
		}
	}
	if !ok {
		return best, false
	}
	if j.ingest.Has(packKey(best)) {
		return best, true // fetched by a resolve that was interrupted
	}
	var wants []store.Want
	if best.From.IsZero() { // other packages may have most of it
		metas, err := j.metas()
		if err != nil {
			return best, false
		}
		wants = wanted(metas)
	} else {
		j.register([]store.Want{{Key: store.MetaKey(j.pkg)}})
		m, err := j.ingest.Meta(j.pkg)
		if err != nil {
			return best, true
		}
		wants = store.Wants(m)
	}
	j.register(wants)
	missing, err := j.missing(wants)
	if err != nil {
		return best, false
	}
	var rest int64
	for _, w := range missing {
		rest += max(0, w.Size-j.ingest.Partial(w.Key))
	}
	// How well they compress is known of all blobs that the pack makes.
	return best, float64(rest)/float64(best.Content)*float64(best.Replaces) > float64(best.Size)
}

func packKey(o delta.Offer) store.Key { return store.Key{Digest: o.Pack} }

// useDelta fetches a pack and decodes it.
func (j *job) useDelta(o delta.Offer) (err error) {
	pack := store.Want{Key: packKey(o), Size: o.Size}
	defer func() {
		if j.ctx.Err() == nil {
			err = errors.Join(err, j.ingest.Forget(pack.Key))
		}
	}()
	if !j.ingest.Has(pack.Key) {
		if err := j.admit([]store.Want{pack, {Key: store.MetaKey(j.pkg), Size: o.Content}}, 0); err != nil {
			return err
		}
		if old, err := j.r.store.Meta(o.From); err == nil {
			j.named(old.Name) // the manifest is in the pack: the version is not known yet
		}
		j.lacks(1)
		j.expect([]store.Want{pack})
		if err := j.fetchOne(j.ctx, pack); err != nil {
			return err
		}
	}
	if err := faultpoint.Hit("resolve.delta.fetched"); err != nil {
		return err
	}
	f, err := os.Open(j.ingest.Path(pack.Key))
	if err != nil {
		return err
	}
	defer f.Close()
	p, err := delta.Open(f, o.Size)
	if err != nil {
		return err
	}
	var wants []store.Want
	var total int64
	for _, f := range p.Files() {
		wants = append(wants, store.Want{Key: keyOf(f), Size: f.Size})
		if total += f.Size; total > o.Content {
			return fmt.Errorf("the pack makes more than %d bytes", o.Content)
		}
	}
	j.register(wants)
	p.Scratch = j.ingest.Scratch
	if n := p.ScratchSize(); n > 0 {
		if err := j.admit([]store.Want{{Key: store.MetaKey(j.pkg), Size: o.Content + n}}, 0); err != nil {
			return err
		}
	}
	var open []*lazyFile
	old := func(f delta.File) (io.ReaderAt, error) { return j.residentFile(f, &open) }
	if err := p.Decode(j.ctx, old, j.madeFile); err != nil {
		return err
	}
	return faultpoint.Hit("resolve.delta.decoded")
}

func keyOf(f delta.File) store.Key { return store.Key{Digest: f.Digest, Exec: f.Exec} }

// residentFile returns an old file of a pack.
func (j *job) residentFile(f delta.File, open *[]*lazyFile) (io.ReaderAt, error) {
	k := keyOf(f)
	if !j.r.store.Has(k) {
		k.Exec = !k.Exec
	}
	if !j.r.store.Has(k) {
		return nil, errkind.New(errkind.NotFound, "blob %s is not resident", f.Digest.Short())
	}
	return &lazyFile{path: j.r.store.BlobPath(k), open: open}, nil
}

// lazyFile is a file that is opened when it is read. A pack may need thousands: only some are
// open at once.
type lazyFile struct {
	path string
	f    *os.File
	open *[]*lazyFile // of the pack, the last opened one at the end
}

const openFiles = 64

func (l *lazyFile) ReadAt(b []byte, off int64) (int, error) {
	if l.f == nil {
		if len(*l.open) == openFiles {
			if err := (*l.open)[0].Close(); err != nil {
				return 0, err
			}
		}
		var err error
		if l.f, err = os.Open(l.path); err != nil {
			return 0, err
		}
		*l.open = append(*l.open, l)
	}
	return l.f.ReadAt(b, off)
}

// Close closes the file, which may be read again.
func (l *lazyFile) Close() error {
	if l.f == nil {
		return nil
	}
	f := l.f
	l.f = nil
	*l.open = slices.DeleteFunc(*l.open, func(o *lazyFile) bool { return o == l })
	return f.Close()
}

// madeFile begins a new file of a pack, unless it is there.
func (j *job) madeFile(f delta.File) (io.WriteCloser, error) {
	k := keyOf(f)
	if j.r.store.Has(k) || j.ingest.Has(k) {
		return nil, nil
	}
	if j.ingest.Partial(k) > 0 { // of whole blobs: the pack begins at the first byte
		if err := j.ingest.Forget(k); err != nil {
			return nil, err
		}
	}
	w, err := j.ingest.Create(k, f.Size)
	if err != nil {
		return nil, err
	}
	return &made{Writer: w, ingest: j.ingest, key: k}, nil
}

// made is a file that a pack makes. A file that a failure cuts off is not kept: another
// source could not continue it.
type made struct {
	*store.Writer
	ingest *store.Ingest
	key    store.Key
}

func (m *made) Close() error {
	err := m.Writer.Close()
	if err != nil {
		return errors.Join(err, m.ingest.Forget(m.key))
	}
	return faultpoint.Hit("resolve.delta.made")
}
