package resolve_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand"
	"os"
	"testing"

	"github.com/lull/lull/agent/delta"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/index"
	"github.com/lull/lull/agent/store/resolve"
	"github.com/lull/lull/agent/store/storetest"
)

// versions is a store with a package, and a repository with a pack from it to the next
// version.
type versions struct {
	s        *store.Store
	r        *storetest.Repo
	res      *resolve.Resolver
	ix       *index.Indices
	one, two digest.Digest
	offer    delta.Offer
	big, exe []byte // of two
	results  []error
}

func newVersions(t *testing.T) *versions {
	t.Helper()
	v := &versions{s: storetest.Open(t), r: storetest.New(), ix: index.New()}
	rnd := rand.New(rand.NewSource(1))
	old := make([]byte, 300<<10)
	rnd.Read(old)
	v.big = append(append(append([]byte(nil), old[:100<<10]...), "inserted"...), old[100<<10:]...)
	v.exe = append([]byte("#!/bin/sh\n"), old[:5000]...)
	v.one = v.r.Package(t, storetest.Spec{Name: "app", Files: map[string]string{"big": string(old), "run*": string(old[:5000]), "same": "same"}})
	v.two = v.r.Package(t, storetest.Spec{Name: "app", Version: "2", Files: map[string]string{"big": string(v.big), "run*": string(v.exe), "same": "same", "new": "new"}})
	v.offer = v.r.Delta(t, v.one, v.two)
	v.open()
	v.ix.SetInstalled([]index.Root{{Package: v.one, Holder: "test"}})
	if err := v.res.Resolve(t.Context(), v.one, v.r, "test", nil); err != nil {
		t.Fatal(err)
	}
	if len(v.results) > 0 {
		t.Errorf("the first version used packs with the results %v, want no pack used", v.results)
	}
	return v
}

func (v *versions) open() {
	v.res = resolve.New(v.s, v.ix)
	v.res.DeltaUsed = func(err error) { v.results = append(v.results, err) }
}

// resolve resolves the second version, and checks the result.
func (v *versions) resolve(t *testing.T) {
	t.Helper()
	if err := v.res.Resolve(t.Context(), v.two, v.r, "test", nil); err != nil {
		t.Fatal(err)
	}
	v.whole(t)
}

// whole checks that the second version and the store are whole.
func (v *versions) whole(t *testing.T) {
	t.Helper()
	if !v.s.HasPackage(v.two) {
		t.Error("no tree")
	}
	if b, err := os.ReadFile(v.s.PackageDir(v.two) + "/big"); err != nil || !bytes.Equal(b, v.big) {
		t.Errorf("big has %d bytes, want %d: %v", len(b), len(v.big), err)
	}
	storetest.Clean(t, v.s)
	for k := range storetest.Keys(t, v.s) {
		if k.Digest == v.offer.Pack {
			t.Error("the pack became a blob")
		}
	}
}

// TestDelta: one request brings a new version.
func TestDelta(t *testing.T) {
	v := newVersions(t)
	before := v.r.Total()
	var at resolve.Progress
	if err := v.res.Resolve(t.Context(), v.two, v.r, "test", func(p resolve.Progress) { at = p }); err != nil {
		t.Fatal(err)
	}
	v.whole(t)
	if at.Fetch != v.offer.Size || at.Write < v.offer.Size+v.offer.Content {
		t.Errorf("%+v at the end, want the pack of %d bytes to be fetched, and that and %d to be written", at, v.offer.Size, v.offer.Content)
	}
	if n := v.r.Total() - before; n != 1 || v.r.Fetches(v.offer.Pack) != 1 {
		t.Errorf("got %d requests, %d of them for the pack, want 1 for the pack alone", n, v.r.Fetches(v.offer.Pack))
	}
	if len(v.results) != 1 || v.results[0] != nil {
		t.Errorf("got the results %v of using packs, want one without an error", v.results)
	}
}

// TestWholePack: a pack of all blobs brings a package to a store that has none of them.
func TestWholePack(t *testing.T) {
	v := newVersions(t)
	v.s, v.ix = storetest.Open(t), index.New()
	v.open()
	v.offer = v.r.Delta(t, digest.Digest{}, v.two)
	before := v.r.Total()
	v.resolve(t)
	if n := v.r.Total() - before; n != 2 || v.r.Fetches(v.offer.Pack) != 1 {
		t.Errorf("%d requests, want those for the manifest and the pack", n)
	}
	if len(v.results) != 1 || v.results[0] != nil {
		t.Errorf("got the results %v of using packs, want one without an error", v.results)
	}
}

// TestWholePackUnused: with most of the blobs, the others are fetched one by one.
func TestWholePackUnused(t *testing.T) {
	v := newVersions(t)
	almost := v.r.Package(t, storetest.Spec{Name: "app", Version: "2", Files: map[string]string{"big": string(v.big), "run*": string(v.exe)}})
	v.r.Packs = nil
	v.offer = v.r.Delta(t, digest.Digest{}, v.two)
	v.r.Put(t, v.s, almost)
	v.resolve(t)
	if v.r.Fetches(v.offer.Pack) > 0 {
		t.Error("the pack was fetched")
	}
}

// TestDeltaUnused: without the older version, or with most of the blobs, a pack is not
// fetched.
func TestDeltaUnused(t *testing.T) {
	t.Run("no older version", func(t *testing.T) {
		v := newVersions(t)
		v.s = storetest.Open(t)
		v.ix = index.New()
		v.open()
		v.resolve(t)
		if v.r.Fetches(v.offer.Pack) > 0 || len(v.results) > 0 {
			t.Errorf("got %d requests for the pack and the results %v, want none of both", v.r.Fetches(v.offer.Pack), v.results)
		}
	})
	t.Run("a later format", func(t *testing.T) {
		v := newVersions(t)
		v.r.Packs[v.two][0].Format = delta.Format + 1
		v.resolve(t)
		if v.r.Fetches(v.offer.Pack) > 0 || len(v.results) > 0 {
			t.Errorf("got %d requests for the pack and the results %v, want none of both", v.r.Fetches(v.offer.Pack), v.results)
		}
	})
	t.Run("most is there", func(t *testing.T) {
		v := newVersions(t)
		almost := v.r.Package(t, storetest.Spec{Name: "app", Version: "2", Files: map[string]string{"big": string(v.big), "run*": string(v.exe)}})
		v.r.Put(t, v.s, almost)
		i, err := v.s.Ingest(v.two)
		if err != nil {
			t.Fatal(err)
		}
		w, err := i.Create(store.MetaKey(v.two), -1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(v.r.Content(v.two)); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(w.Close(), i.Close()); err != nil {
			t.Fatal(err)
		}
		v.resolve(t)
		if v.r.Fetches(v.offer.Pack) > 0 {
			t.Error("the pack was fetched")
		}
	})
}

// TestDeltaFails: whatever is wrong with a pack, or with the older blobs, whole blobs are
// fetched, and the pack is asked for once.
func TestDeltaFails(t *testing.T) {
	replace := func(v *versions, pack []byte) {
		o := &v.r.Packs[v.two][0]
		o.Pack, o.Size = v.r.Add(pack), int64(len(pack))
		o.Replaces = o.Size + 1
		v.offer = *o
	}
	for name, spoil := range map[string]func(t *testing.T, v *versions){
		"missing":   func(t *testing.T, v *versions) { v.r.Packs[v.two][0].Pack = digest.Of([]byte("none")) },
		"no pack":   func(t *testing.T, v *versions) { replace(v, []byte("not a pack")) },
		"too short": func(t *testing.T, v *versions) { v.r.Packs[v.two][0].Size++ },
		"too long":  func(t *testing.T, v *versions) { v.r.Packs[v.two][0].Size-- },
		"cut":       func(t *testing.T, v *versions) { b := v.r.Content(v.offer.Pack); replace(v, b[:len(b)-1]) },
		"larger":    func(t *testing.T, v *versions) { v.r.Packs[v.two][0].Content-- },
		"old blob": func(t *testing.T, v *versions) {
			for k := range storetest.Keys(t, v.s) {
				if b := v.r.Content(k.Digest); len(b) > 200<<10 {
					damaged := bytes.Clone(b)
					damaged[1000] ^= 1
					if err := errors.Join(os.Remove(v.s.BlobPath(k)), os.WriteFile(v.s.BlobPath(k), damaged, 0o444)); err != nil {
						t.Fatal(err)
					}
				}
			}
		},
		"other content": func(t *testing.T, v *versions) {
			b := bytes.Clone(v.r.Content(v.offer.Pack))
			b[len(b)-3] ^= 1
			replace(v, b)
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVersions(t)
			spoil(t, v)
			if err := v.res.Resolve(t.Context(), v.two, v.r, "test", nil); err != nil {
				t.Fatal(err)
			}
			if b, err := os.ReadFile(v.s.PackageDir(v.two) + "/big"); err != nil || !bytes.Equal(b, v.big) {
				t.Errorf("big has %d bytes, want %d: %v", len(b), len(v.big), err)
			}
			if len(v.results) != 1 || v.results[0] == nil {
				t.Errorf("got the results %v of using packs, want one with an error", v.results)
			}
			if n := v.r.Fetches(digest.Of(v.big)); n != 1 {
				t.Errorf("the blob was fetched %d times, want 1", n)
			}
		})
	}
}

// TestDeltaInterrupted: a pack is fetched from where the first attempt was interrupted, by
// the next resolve and after a restart.
func TestDeltaInterrupted(t *testing.T) {
	v := newVersions(t)
	ctx, cancel := context.WithCancel(t.Context())
	half := len(v.r.Content(v.offer.Pack)) / 2
	v.r.Mangle = func(d digest.Digest, r io.Reader) io.Reader {
		if d != v.offer.Pack {
			return r
		}
		return io.MultiReader(io.LimitReader(r, int64(half)), readerFunc(func([]byte) (int, error) {
			if x := v.res.Transfers(); len(x) != 1 || x[0].Package != v.two || x[0].Name != "app" || x[0].Missing != 1 || x[0].Total != v.offer.Size {
				t.Errorf("the transfers are %+v, want one of app, of 1 blob and %d bytes", x, v.offer.Size)
			}
			cancel()
			return 0, context.Canceled
		}))
	}
	if err := v.res.Resolve(ctx, v.two, v.r, "test", nil); err == nil {
		t.Fatal("it was not interrupted")
	}
	v.r.Mangle = nil
	v.open()
	v.resolve(t)
	offsets := v.r.Offsets()
	if last := offsets[len(offsets)-1]; last != int64(half) {
		t.Errorf("the pack was continued at %d, want %d", last, half)
	}
	if len(v.results) != 1 || v.results[0] != nil {
		t.Errorf("got the results %v of using packs, want one without an error", v.results)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }
