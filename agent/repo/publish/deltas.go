package publish

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

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

// requestsDir has the requests of publications for packs, until these are signed.
const requestsDir = deltasDir + "requests/"

// request names the packs that the offer of a package is to have.
type request struct {
	Name    string          `json:"name"`
	Channel string          `json:"channel"`
	Package digest.Digest   `json:"package"`
	From    []digest.Digest `json:"from"` // older packages; zero means a pack of all blobs
}

func (r *request) path() string {
	return requestsDir + r.Package.String() + "." + r.Channel + ".json"
}

// request stages the request for the packs of a package, unless all of them are made. It
// returns the offers of those that are, and the number of the others.
func (p *publication) request(s *state, res *Result) (made []delta.Offer, pending int, err error) {
	r := request{Name: res.Name, Channel: res.Channel, Package: res.Package}
	if r.From, err = s.earlier(res.Name, res.Channel, res.Package, p.o.DeltasFrom, p.o.DeltasWithin); err != nil {
		return nil, 0, err
	}
	if p.o.WholePack {
		r.From = append(r.From, digest.Digest{})
	}
	for _, from := range r.From {
		n, known, err := readNote(s.ctx, s.store, from, res.Package)
		switch {
		case err != nil:
			return nil, 0, err
		case !known:
			pending++
		case n.Offer != nil:
			made = append(made, *n.Offer)
		}
	}
	if pending == 0 {
		return made, 0, nil
	}
	data, err := json.Marshal(r)
	if err != nil {
		return nil, 0, err
	}
	return made, pending, s.store.Put(s.ctx, Object{Path: r.path(), Data: data})
}

// copyRequest stages the request for the packs of a package in another channel, too.
func (s *state) copyRequest(name, from, to string, pkg digest.Digest) error {
	r := request{Name: name, Channel: from, Package: pkg}
	data, err := s.read(r.path())
	if from == to || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || json.Unmarshal(data, &r) != nil {
		return err
	}
	r.Channel = to
	if data, err = json.Marshal(r); err != nil {
		return err
	}
	return s.store.Put(s.ctx, Object{Path: r.path(), Data: data})
}

// earlier returns the last packages that a channel has offered, other than pkg, the newest
// first: a number of them, and those that it has offered within a time before now.
func (s *state) earlier(name, channel string, pkg digest.Digest, most int, within time.Duration) (list []digest.Digest, err error) {
	if most <= 0 && within <= 0 {
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
	replaced := s.now // when the next version was published
	for _, f := range files {
		if len(f.packages) == 0 || len(list) == delta.MaxOffers-1 { // one more is for all blobs
			continue
		}
		if old := f.packages[0]; old != pkg && !slices.Contains(list, old) && (len(list) < most || replaced.After(s.now.Add(-within))) {
			list = append(list, old)
		}
		replaced = f.published
	}
	return list, nil
}

func notePath(from, to digest.Digest) string {
	return deltasDir + from.String() + "-" + to.String() + ".json"
}

// readNote returns the note of a pack. Known is false if the pack has to be made.
func readNote(ctx context.Context, store Storage, from, to digest.Digest) (n note, known bool, err error) {
	data, _, err := store.Read(ctx, notePath(from, to))
	if errors.Is(err, fs.ErrNotExist) {
		return n, false, nil
	}
	if err != nil {
		return n, false, err
	}
	if json.Unmarshal(data, &n) != nil {
		return n, false, nil
	}
	if n.Offer == nil {
		return n, true, nil
	}
	kept, err := store.Keep(ctx, repo.BlobPath(n.Offer.Pack))
	return n, kept && n.Offer.Validate() == nil && n.Offer.From == from, err
}
