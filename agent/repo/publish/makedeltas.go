package publish

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/lull/lull/agent/delta"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo"
)

// DeltaOptions are the options of MakeDeltas.
type DeltaOptions struct {
	Common
	// Packages restricts it to the requests of these packages. Nil means all requests.
	Packages []digest.Digest
	// Made is called after each pack. It may be nil.
	Made func(done, total int)
}

// MadeDeltas are the packs that the offer of a package has.
type MadeDeltas struct {
	Name    string
	Channel string
	Package digest.Digest
	Deltas  []delta.Offer
}

// MakeDeltas makes the packs that publications have requested, and signs them into the offers
// of their packages. It holds the lock of the repository while it adds a pack and while it
// signs, not while it makes one. An interrupted call loses the pack that it was making: the
// next one continues. Equal packages make equal packs, on any machine.
func MakeDeltas(ctx context.Context, dir string, o DeltaOptions) ([]MadeDeltas, error) {
	m := &deltaMaker{ctx: ctx, o: o, lost: map[[2]digest.Digest]bool{}}
	if err := m.run(dir); err != nil {
		kind := errkind.KindOf(err)
		if errors.Is(err, context.Canceled) {
			kind = errkind.Interrupted
		}
		return nil, errkind.New(kind, "cannot make the deltas of the repository %s: %w", dir, err)
	}
	return m.results, nil
}

// deltaMaker is one run of MakeDeltas.
type deltaMaker struct {
	ctx     context.Context
	o       DeltaOptions
	store   Storage                   // of the last transaction
	lost    map[[2]digest.Digest]bool // packages, old and new, that are not whole any more
	results []MadeDeltas
}

func (m *deltaMaker) run(dir string) error {
	var pairs [][2]digest.Digest
	err := m.o.transact(m.ctx, dir, false, func(s *state) error {
		requests, err := m.requests(s)
		if err != nil {
			return err
		}
		for _, r := range requests {
			for _, from := range r.From {
				if pair := [2]digest.Digest{from, r.Package}; !slices.Contains(pairs, pair) {
					pairs = append(pairs, pair)
				}
			}
		}
		return nil
	})
	if err != nil || len(pairs) == 0 {
		return err
	}
	for i, p := range pairs {
		err := m.ensure(p[0], p[1])
		if errors.Is(err, fs.ErrNotExist) {
			m.lost[p] = true
		} else if err != nil {
			return err
		}
		if m.o.Made != nil {
			m.o.Made(i+1, len(pairs))
		}
	}
	return m.o.transact(m.ctx, dir, false, m.sign)
}

// requests returns the requests whose packages are offered. Without other publishers, the
// others are removed.
func (m *deltaMaker) requests(s *state) (list []request, err error) {
	m.store = s.store
	var unused []string
	err = m.store.List(m.ctx, requestsDir, func(path string, _ Info) error {
		data, err := s.read(path)
		if err != nil {
			return err
		}
		var r request
		if json.Unmarshal(data, &r) != nil || r.path() != path || len(r.From) > delta.MaxOffers {
			unused = append(unused, path)
			return nil
		}
		if m.o.Packages != nil && !slices.Contains(m.o.Packages, r.Package) {
			return nil
		}
		offers, err := s.offers(r.Name, r.Channel)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(offers, func(o repo.Offer) bool { return o.Package == r.Package }) {
			unused = append(unused, path)
			return nil
		}
		list = append(list, r)
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(a, b request) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Channel, b.Channel), cmp.Compare(a.path(), b.path()))
	})
	if len(unused) > 0 && !m.store.Shared() {
		err = m.store.Remove(m.ctx, unused)
	}
	return list, err
}

// sign signs the packs of all requests into their offers, and removes those requests.
func (m *deltaMaker) sign(s *state) error {
	requests, err := m.requests(s)
	if err != nil {
		return err
	}
	m.results = nil
	var done []string
	signing := false
	for len(requests) > 0 {
		first, n := requests[0], 1
		for n < len(requests) && requests[n].Name == first.Name && requests[n].Channel == first.Channel {
			n++
		}
		list, err := s.offers(first.Name, first.Channel)
		if err != nil {
			return err
		}
		changed := false
		for _, r := range requests[:n] {
			i := slices.IndexFunc(list, func(o repo.Offer) bool { return o.Package == r.Package })
			deltas, complete, err := m.made(r, list[i].Deltas)
			if err != nil {
				return err
			}
			if complete {
				done = append(done, r.path())
			}
			if !slices.Equal(deltas, list[i].Deltas) {
				list[i].Deltas = deltas
				changed = true
			}
			m.results = append(m.results, MadeDeltas{r.Name, r.Channel, r.Package, deltas})
		}
		if changed {
			if err := s.writeOffers(list); err != nil {
				return err
			}
			signing = true
		}
		requests = requests[n:]
	}
	if signing {
		if err := s.writeAll(); err != nil {
			return err
		}
	}
	return m.store.Remove(m.ctx, done)
}

// made returns the packs of a request that are made, and others that the offer has already.
// Complete means that no pack of the request is left to be made.
func (m *deltaMaker) made(r request, signed []delta.Offer) (deltas []delta.Offer, complete bool, err error) {
	complete = true
	for _, from := range r.From {
		n, known, err := readNote(m.ctx, m.store, from, r.Package)
		if err != nil {
			return nil, false, err
		}
		if !known {
			complete = complete && m.lost[[2]digest.Digest{from, r.Package}]
		} else if n.Offer != nil {
			deltas = append(deltas, *n.Offer)
		}
	}
	for _, o := range signed {
		if len(deltas) < delta.MaxOffers && !slices.ContainsFunc(deltas, func(d delta.Offer) bool { return d.From == o.From }) {
			deltas = append(deltas, o)
		}
	}
	return deltas, complete, nil
}

// ensure makes a pack, unless it is made, and adds it to the repository with its note.
func (m *deltaMaker) ensure(from, to digest.Digest) error {
	if _, known, err := readNote(m.ctx, m.store, from, to); err != nil || known {
		return err
	}
	f, err := temporary()
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := m.make(f, from, to)
	if err != nil {
		return err
	}
	data, err := json.Marshal(n)
	if err != nil {
		return err
	}
	release, err := m.store.Lock(m.ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := m.add(n, f, Object{Path: notePath(from, to), Data: data}); err != nil {
		m.store.Discard()
		return err
	}
	return nil
}

// add adds a pack and then its note.
func (m *deltaMaker) add(n note, pack io.ReadSeeker, written Object) error {
	if n.Offer != nil {
		b, err := newBatch(m.store)
		if err != nil {
			return err
		}
		defer b.close()
		if _, err := pack.Seek(0, io.SeekStart); err != nil {
			return err
		}
		if err := b.addPack(m.ctx, n.Offer.Pack, pack); err != nil {
			return err
		}
		if err := b.commit(m.ctx); err != nil {
			return err
		}
		if err := m.store.Flush(m.ctx); err != nil { // the pack is in place before its note
			return err
		}
	}
	if err := m.store.Put(m.ctx, written); err != nil {
		return err
	}
	return m.store.Flush(m.ctx)
}

// make writes the pack from one package to another to f.
func (m *deltaMaker) make(f *os.File, from, to digest.Digest) (n note, err error) {
	var old []located
	if !from.IsZero() {
		if old, err = m.contentOf(from); err != nil {
			return n, err
		}
	}
	content, err := m.contentOf(to)
	if err != nil {
		return n, err
	}
	pairs := pairsOf(old, content)
	o := delta.Offer{From: from, Format: delta.Format}
	for _, pair := range pairs {
		i, err := m.store.Stat(m.ctx, repo.BlobPath(pair.New.Digest))
		if err != nil {
			return n, err
		}
		o.Content += pair.New.Size
		o.Replaces += i.Size
	}
	if len(pairs) == 0 || o.Content == 0 {
		return n, nil
	}
	h, size := digest.New(), counter(0)
	w := bufio.NewWriter(io.MultiWriter(f, h, &size))
	if err := delta.Encode(m.ctx, w, pairs, m.openFile); err != nil {
		return n, err
	}
	if err := w.Flush(); err != nil {
		return n, err
	}
	o.Pack, o.Size = digest.From(h), int64(size)
	if o.Validate() != nil { // it is not smaller
		return n, nil
	}
	switch err := m.check(f, o.Size); {
	case errors.Is(err, errWrongPack), errors.Is(err, delta.ErrMalformed): // machines would fetch whole blobs
		return n, nil
	case err != nil:
		return n, err
	}
	return note{&o}, nil
}

// temporary returns a new file without a name. Its error is not that of a blob which is missing.
func temporary() (*os.File, error) {
	f, err := os.CreateTemp("", "lull-pack-")
	if err != nil {
		return nil, fmt.Errorf("a temporary file: %v", err)
	}
	return f, os.Remove(f.Name())
}

// errWrongPack means that a pack does not make the files that it should.
var errWrongPack = errors.New("the pack makes other files")

// check makes the files of a pack, and compares their hashes. Nothing is offered that an error
// of the encoder has spoilt.
func (m *deltaMaker) check(pack io.ReaderAt, size int64) error {
	p, err := delta.Open(pack, size)
	if err != nil {
		return err
	}
	old, err := temporary()
	if err != nil {
		return err
	}
	defer old.Close()
	at := int64(0)
	open := func(f delta.File) (io.ReaderAt, error) {
		r, err := m.openFile(f)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		n, err := io.Copy(old, r)
		part := io.NewSectionReader(old, at, n)
		at += n
		return part, err
	}
	return p.Decode(m.ctx, open, func(f delta.File) (io.WriteCloser, error) {
		return &hashed{digest.New(), f.Digest}, nil
	})
}

// hashed is a file that is only compared with its hash.
type hashed struct {
	hash.Hash
	want digest.Digest
}

func (h *hashed) Close() error {
	if digest.From(h.Hash) != h.want {
		return errWrongPack
	}
	return nil
}

// counter counts the bytes that are written to it.
type counter int64

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}

// addPack adds a pack to the batch, as a blob.
func (b *batch) addPack(ctx context.Context, d digest.Digest, r io.Reader) error {
	if wanted, err := b.wanted(ctx, d); err != nil || !wanted {
		return err
	}
	c, err := newCompressor(false)
	if err != nil {
		return err
	}
	defer c.enc.Close()
	_, err = b.write(d, contextReader{ctx, r}, c)
	return err
}

// openFile returns the content of a blob.
func (m *deltaMaker) openFile(f delta.File) (io.ReadCloser, error) {
	r, err := m.store.Open(m.ctx, repo.BlobPath(f.Digest))
	if err != nil {
		return nil, err
	}
	dec, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(repo.MaxWindow))
	if err != nil {
		r.Close()
		return nil, err
	}
	return &content{dec, r}, nil
}

// content is a blob that is being read.
type content struct {
	*zstd.Decoder
	r io.Closer
}

func (c *content) Close() error {
	c.Decoder.Close()
	return c.r.Close()
}

// located is a file of a package, at its path or, in a subpackage, below that one's name.
type located struct {
	path string
	file delta.File
}

// contentOf lists the files of a package and its subpackages, with their manifests, which
// come first.
func (m *deltaMaker) contentOf(pkg digest.Digest) (list []located, err error) {
	var add func(pkg digest.Digest, prefix string) error
	seen := map[digest.Digest]bool{}
	add = func(pkg digest.Digest, prefix string) error {
		if seen[pkg] {
			return nil
		}
		seen[pkg] = true
		meta, size, err := readMeta(m.ctx, m.store, pkg)
		if err != nil {
			return err
		}
		list = append(list, located{prefix, delta.File{Digest: pkg, Size: size}})
		for _, e := range meta.Entries {
			if e.IsFile() {
				list = append(list, located{prefix + "/" + e.Path, delta.File{Digest: e.Blob, Size: e.Size, Exec: e.Exec}})
			}
		}
		for _, name := range slices.Sorted(mapKeys(meta.Subpackages)) {
			if err := add(meta.Subpackages[name], prefix+"//"+name); err != nil {
				return err
			}
		}
		return nil
	}
	return list, add(pkg, "")
}

var versions = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`[0-9]+`) })

// pairsOf pairs the files that only the newer package has with those of the older one: of
// the same path, of one that differs by numbers alone, or, if it is the only one, of the same
// name. Files that are too large are left out. Without an older package, similar files are
// beside each other.
func pairsOf(old, made []located) (pairs []delta.Pair) {
	have := map[digest.Digest]bool{}
	var byPath, byNumber, byName = map[string]*delta.File{}, map[string]*delta.File{}, map[string]*delta.File{}
	numberless := func(p string) string { return versions().ReplaceAllString(p, "0") }
	for i := range old {
		f := &old[i].file
		have[f.Digest] = true
		if f.Size == 0 || f.Size > delta.MaxFile {
			continue
		}
		p := old[i].path
		byPath[p], byNumber[numberless(p)] = f, f
		if _, again := byName[path.Base(p)]; again {
			f = nil
		}
		byName[path.Base(p)] = f
	}
	if len(old) == 0 && len(made) > 0 {
		rest := slices.Clone(made[1:]) // after the manifest
		slices.SortStableFunc(rest, func(a, b located) int {
			return cmp.Or(cmp.Compare(path.Ext(a.path), path.Ext(b.path)), cmp.Compare(path.Base(a.path), path.Base(b.path)), cmp.Compare(a.path, b.path))
		})
		made = append(made[:1:1], rest...)
	}
	for _, x := range made {
		if have[x.file.Digest] || x.file.Size > delta.MaxFile {
			continue
		}
		have[x.file.Digest] = true
		pairs = append(pairs, delta.Pair{New: x.file, Old: cmp.Or(byPath[x.path], byNumber[numberless(x.path)], byName[path.Base(x.path)])})
	}
	return pairs
}
