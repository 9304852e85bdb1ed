// Package storetest makes packages for tests: a Repo holds blobs in memory and
// delivers them as a source of resolves does, counted and, where a test wants
// it, broken.
//
// A Repo is safe for concurrent use, its hooks are set before it is used.
package storetest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/lull/lull/agent/delta"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/store"
)

// Repo holds the blobs of packages.
type Repo struct {
	// Before, if set, is asked before a blob is delivered.
	Before func(ctx context.Context, d digest.Digest, offset int64) error
	// Mangle, if set, changes what is delivered.
	Mangle func(d digest.Digest, r io.Reader) io.Reader

	// Packs are the packs that make a package.
	Packs map[digest.Digest][]delta.Offer

	mu      sync.Mutex
	blobs   map[digest.Digest][]byte
	fetches map[digest.Digest]int
	offsets []int64
}

// New returns an empty Repo.
func New() *Repo {
	return &Repo{blobs: map[digest.Digest][]byte{}, fetches: map[digest.Digest]int{}}
}

// Add adds a blob.
func (r *Repo) Add(b []byte) digest.Digest {
	d := digest.Of(b)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blobs[d] = b
	return d
}

// Spec describes a package. A path in Files that ends in "*" is executable.
type Spec struct {
	Name, Version string
	Files         map[string]string
	Links         map[string]string
	Subs          map[string]digest.Digest
}

// Package adds a package and returns its hash.
func (r *Repo) Package(t testing.TB, s Spec) digest.Digest {
	t.Helper()
	m := r.Meta(s)
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return r.Add(b)
}

// Meta adds the content of a package and returns its meta.
func (r *Repo) Meta(s Spec) *manifest.Meta {
	m := &manifest.Meta{Launch: manifest.Launch{Name: s.Name, Version: s.Version, Subpackages: s.Subs}}
	if m.Version == "" {
		m.Version = "1"
	}
	for path, content := range s.Files {
		e := manifest.Entry{Path: path, Blob: r.Add([]byte(content)), Size: int64(len(content))}
		if n := len(path) - 1; path[n] == '*' {
			e.Path, e.Exec = path[:n], true
		}
		m.Entries = append(m.Entries, e)
	}
	for path, target := range s.Links {
		m.Entries = append(m.Entries, manifest.Entry{Path: path, Type: manifest.TypeSymlink, Symlink: target})
	}
	return m
}

// Blob delivers the content of a blob from an offset on.
func (r *Repo) Blob(ctx context.Context, d digest.Digest, offset int64) (io.ReadCloser, error) {
	if r.Before != nil {
		if err := r.Before(ctx, d, offset); err != nil {
			return nil, err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	b, ok := r.blobs[d]
	if !ok {
		return nil, fmt.Errorf("cannot find blob %s: %w", d.Short(), fs.ErrNotExist)
	}
	r.fetches[d]++
	r.offsets = append(r.offsets, offset)
	var out io.Reader = bytes.NewReader(b[min(offset, int64(len(b))):])
	if r.Mangle != nil {
		out = r.Mangle(d, out)
	}
	return io.NopCloser(out), nil
}

// Deltas implements resolve.DeltaSource.
func (r *Repo) Deltas(pkg digest.Digest) []delta.Offer { return r.Packs[pkg] }

// Delta adds the pack from one package, or from nothing, to another, of the files whose paths
// are the same.
func (r *Repo) Delta(t testing.TB, from, to digest.Digest) delta.Offer {
	t.Helper()
	old, made := new(manifest.Meta), r.parsed(t, to)
	o := delta.Offer{From: from, Format: delta.Format}
	pairs := []delta.Pair{{New: delta.File{Digest: to, Size: int64(len(r.Content(to)))}}}
	if !from.IsZero() {
		old = r.parsed(t, from)
		pairs[0].Old = &delta.File{Digest: from, Size: int64(len(r.Content(from)))}
	}
	for _, e := range made.Entries {
		pair := delta.Pair{New: delta.File{Digest: e.Blob, Size: e.Size, Exec: e.Exec}}
		known := !e.IsFile()
		for _, x := range old.Entries {
			known = known || x.Blob == e.Blob
			if x.Path == e.Path && x.IsFile() {
				pair.Old = &delta.File{Digest: x.Blob, Size: x.Size, Exec: x.Exec}
			}
		}
		if !known {
			pairs = append(pairs, pair)
		}
	}
	for _, p := range pairs {
		o.Content += p.New.Size
	}
	var b bytes.Buffer
	err := delta.Encode(t.Context(), &b, pairs, func(f delta.File) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(r.Content(f.Digest))), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	o.Pack, o.Size, o.Replaces = r.Add(b.Bytes()), int64(b.Len()), max(o.Content, int64(b.Len()+1))
	if r.Packs == nil {
		r.Packs = map[digest.Digest][]delta.Offer{}
	}
	r.Packs[to] = append(r.Packs[to], o)
	return o
}

func (r *Repo) parsed(t testing.TB, pkg digest.Digest) *manifest.Meta {
	t.Helper()
	m, err := manifest.Parse(r.Content(pkg))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Content is what a blob holds.
func (r *Repo) Content(d digest.Digest) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.blobs[d]
}

// Fetches returns how often a blob has been delivered.
func (r *Repo) Fetches(d digest.Digest) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fetches[d]
}

// Total is the number of deliveries.
func (r *Repo) Total() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.fetches {
		n += f
	}
	return n
}

// Offsets lists the offsets that were asked for.
func (r *Repo) Offsets() []int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]int64(nil), r.offsets...)
}

// Put makes a package with its subpackages resident and materialises it,
// without a resolver.
func (r *Repo) Put(t testing.TB, s *store.Store, pkg digest.Digest) {
	t.Helper()
	if err := r.put(s, pkg); err != nil {
		t.Fatal(err)
	}
	if err := s.Materialise(pkg); err != nil {
		t.Fatal(err)
	}
}

func (r *Repo) put(s *store.Store, pkg digest.Digest) error {
	i, err := s.Ingest(pkg)
	if err != nil {
		return err
	}
	defer i.Close()
	m, err := manifest.Parse(r.Content(pkg))
	if err != nil {
		return err
	}
	wants := append(store.Wants(m), store.Want{Key: store.MetaKey(pkg), Size: -1})
	wants, err = s.Absent(wants)
	if err != nil {
		return err
	}
	for _, w := range wants {
		out, err := i.Create(w.Key, w.Size)
		if err != nil {
			return err
		}
		if _, err := out.Write(r.Content(w.Key.Digest)); err != nil {
			return err
		}
		if err := out.Close(); err != nil {
			return err
		}
	}
	if err := i.Commit(); err != nil {
		return err
	}
	for _, sub := range m.Subpackages {
		if err := r.put(s, sub); err != nil {
			return err
		}
	}
	return nil
}

// Open opens a store in a scratch directory.
func Open(t testing.TB) *store.Store {
	t.Helper()
	s, err := store.Open(filepath.Join(t.TempDir(), "root"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Keys lists the resident blobs.
func Keys(t testing.TB, s *store.Store) map[store.Key]bool {
	t.Helper()
	keys := map[store.Key]bool{}
	if err := s.Blobs(func(k store.Key, _ int64) bool { keys[k] = true; return true }); err != nil {
		t.Fatal(err)
	}
	return keys
}

// Clean fails the test if the store has findings, or leftovers in trash/, tmp/
// or packages/.
func Clean(t testing.TB, s *store.Store) {
	t.Helper()
	findings, _, err := s.Verify(context.Background(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range findings {
		t.Errorf("%s %s", f.What, f.Problem)
	}
	for _, pattern := range []string{"trash/*/*", "trash/*.*", "tmp/*", "packages/.*"} {
		left, err := filepath.Glob(filepath.Join(s.Root(), pattern))
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v %v", left, err)
		}
	}
}

// Replace puts other content in place of a file, with the same mode, as a
// broken disk would.
func Replace(t testing.TB, path string, content []byte) {
	t.Helper()
	fi, err := os.Stat(path)
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err == nil {
		err = os.WriteFile(path, content, 0o600)
	}
	if err == nil {
		err = os.Chmod(path, fi.Mode().Perm())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Metas writes the metas of that many packages, of twenty files each, into the store, and
// returns their hashes.
func Metas(t testing.TB, s *store.Store, prefix string, count int) (list []digest.Digest) {
	t.Helper()
	for p := range count {
		m := &manifest.Meta{Launch: manifest.Launch{Name: fmt.Sprintf("%s%d", prefix, p), Version: "1"}}
		for i := range 20 {
			m.Entries = append(m.Entries, manifest.Entry{Path: fmt.Sprintf("f%02d", i), Blob: digest.Of(fmt.Appendf(nil, "%s %d %d", prefix, p, i)), Size: 10})
		}
		data, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		pkg := digest.Of(data)
		if err := os.WriteFile(s.BlobPath(store.MetaKey(pkg)), data, 0o444); err != nil {
			t.Fatal(err)
		}
		list = append(list, pkg)
	}
	return list
}
