package publish

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/lull/lull/agent/delta"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/repo"
)

// deltasDir has the notes of deltas that were made. They save making them again, and are
// not for machines.
const deltasDir = "deltas/"

// note is the result of making a delta.
type note struct {
	Offer *delta.Offer `json:"offer"` // nil means that it is not smaller than whole blobs
}

// deltas makes packs from the last versions of a channel to a package, whose blobs are in
// place, and one of all blobs. A version that is not whole in the
// repository any more is passed over.
func (p *publication) deltas(s *state, res *Result) ([]delta.Offer, error) {
	earlier, err := s.earlier(res.Name, res.Channel, res.Package, min(p.o.DeltasFrom, delta.MaxOffers-1))
	if err != nil {
		return nil, err
	}
	if p.o.WholePack {
		earlier = append(earlier, digest.Digest{})
	}
	if len(earlier) == 0 {
		return nil, nil
	}
	if err := s.store.Flush(s.ctx); err != nil { // blobs are read
		return nil, err
	}
	var offers []delta.Offer
	for _, from := range earlier {
		n, err := p.delta(s, from, res.Package)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n.Offer != nil {
			offers = append(offers, *n.Offer)
		}
	}
	return offers, nil
}

// earlier returns the last packages that a channel has offered, other than pkg, the newest
// first.
func (s *state) earlier(name, channel string, pkg digest.Digest, most int) (list []digest.Digest, err error) {
	if most <= 0 {
		return nil, nil
	}
	var files []former
	prefix := "channels/" + name + "/"
	err = s.store.List(s.ctx, prefix, func(p string, _ Info) error {
		if parts := strings.SplitN(path.Base(p), ".", 2); len(parts) == 2 && (parts[1] == channel+".json" || parts[1] == channel+".offers.json") {
			files = append(files, former{path: p})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i := range files {
		f := s.readFormer(files[i].path)
		f.path = files[i].path
		files[i] = f
	}
	slices.SortFunc(files, func(a, b former) int {
		return cmp.Or(b.published.Compare(a.published), cmp.Compare(a.path, b.path))
	})
	for _, f := range files {
		if len(f.packages) > 0 && f.packages[0] != pkg && !slices.Contains(list, f.packages[0]) && len(list) < most {
			list = append(list, f.packages[0])
		}
	}
	return list, nil
}

// delta returns the pack from one package to another, made now or before.
func (p *publication) delta(s *state, from, to digest.Digest) (note, error) {
	path := deltasDir + from.String() + "-" + to.String() + ".json"
	if data, _, err := s.store.Read(s.ctx, path); err == nil {
		var n note
		if json.Unmarshal(data, &n) == nil {
			if n.Offer == nil {
				return n, nil
			}
			kept, err := s.store.Keep(s.ctx, repo.BlobPath(n.Offer.Pack))
			if err != nil || kept && n.Offer.Validate() == nil && n.Offer.From == from {
				return n, err
			}
		}
	}
	n, err := p.makeDelta(s, from, to)
	if err != nil {
		return n, err
	}
	data, err := json.Marshal(n)
	if err != nil {
		return n, err
	}
	if err := p.batch.commit(s.ctx); err != nil {
		return n, err
	}
	if err := s.store.Flush(s.ctx); err != nil { // the pack is in place before its note
		return n, err
	}
	if err := s.store.Put(s.ctx, Object{Path: path, Data: data}); err != nil {
		return n, err
	}
	return n, s.store.Flush(s.ctx)
}

func (p *publication) makeDelta(s *state, from, to digest.Digest) (n note, err error) {
	var old []located
	if !from.IsZero() {
		if old, err = s.contentOf(from); err != nil {
			return n, err
		}
	}
	made, err := s.contentOf(to)
	if err != nil {
		return n, err
	}
	pairs := pairsOf(old, made)
	o := delta.Offer{From: from}
	for _, pair := range pairs {
		i, err := s.store.Stat(s.ctx, repo.BlobPath(pair.New.Digest))
		if err != nil {
			return n, err
		}
		o.Content += pair.New.Size
		o.Replaces += i.Size
	}
	if len(pairs) == 0 || o.Content == 0 {
		return n, nil
	}
	f, err := os.CreateTemp(p.batch.tmp, "pack")
	if err != nil {
		return n, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	h := digest.New()
	w := bufio.NewWriter(io.MultiWriter(f, h))
	if err := delta.Encode(s.ctx, w, pairs, s.openFile); err != nil {
		return n, err
	}
	if err := w.Flush(); err != nil {
		return n, err
	}
	if o.Size, err = f.Seek(0, io.SeekCurrent); err != nil {
		return n, err
	}
	o.Pack = digest.From(h)
	if o.Validate() != nil { // it is not smaller
		return n, nil
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return n, err
	}
	return note{&o}, p.batch.addPack(s.ctx, o.Pack, f)
}

// addPack adds a pack to the batch, as a blob.
func (b *batch) addPack(ctx context.Context, d digest.Digest, r io.Reader) error {
	if wanted, err := b.wanted(ctx, d); err != nil || !wanted {
		return err
	}
	c, err := newCompressor()
	if err != nil {
		return err
	}
	defer c.enc.Close()
	_, err = b.write(d, contextReader{ctx, r}, c)
	return err
}

// openFile returns the content of a blob.
func (s *state) openFile(f delta.File) (io.ReadCloser, error) {
	r, err := s.store.Open(s.ctx, repo.BlobPath(f.Digest))
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
func (s *state) contentOf(pkg digest.Digest) (list []located, err error) {
	var add func(pkg digest.Digest, prefix string) error
	seen := map[digest.Digest]bool{}
	add = func(pkg digest.Digest, prefix string) error {
		if seen[pkg] {
			return nil
		}
		seen[pkg] = true
		m, size, err := readMeta(s.ctx, s.store, pkg)
		if err != nil {
			return err
		}
		list = append(list, located{prefix, delta.File{Digest: pkg, Size: size}})
		for _, e := range m.Entries {
			if e.IsFile() {
				list = append(list, located{prefix + "/" + e.Path, delta.File{Digest: e.Blob, Size: e.Size, Exec: e.Exec}})
			}
		}
		for _, name := range slices.Sorted(mapKeys(m.Subpackages)) {
			if err := add(m.Subpackages[name], prefix+"//"+name); err != nil {
				return err
			}
		}
		return nil
	}
	return list, add(pkg, "")
}

var versions = regexp.MustCompile(`[0-9]+`)

// pairsOf pairs the files that only the newer package has with those of the older one: of
// the same path, of one that differs by numbers alone, or, if it is the only one, of the same
// name. Files that are too large are left out. Without an older package, similar files are
// beside each other.
func pairsOf(old, made []located) (pairs []delta.Pair) {
	have := map[digest.Digest]bool{}
	var byPath, byNumber, byName = map[string]*delta.File{}, map[string]*delta.File{}, map[string]*delta.File{}
	numberless := func(p string) string { return versions.ReplaceAllString(p, "0") }
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
