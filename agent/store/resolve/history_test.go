package resolve_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/gc"
	"github.com/lull/lull/agent/store/index"
	"github.com/lull/lull/agent/store/resolve"
	"github.com/lull/lull/agent/store/storetest"
)

// history is a store beside a simple model of it: sets.
type history struct {
	s    *store.Store
	r    *storetest.Repo
	ix   *index.Indices
	res  *resolve.Resolver
	pool []digest.Digest

	resident map[store.Key]bool
	trees    map[digest.Digest]bool
	set      map[string][]digest.Digest // index → packages
	leases   []*index.Lease
	runs     []digest.Digest // those of a tracker
	stale    *gc.Plan

	tidy bool   // there has been a collection of everything since the start
	left uint64 // before it
}

// needs lists what a package consists of.
func (h *history) needs(pkg digest.Digest) (keys []store.Key, subs []digest.Digest) {
	m, err := manifest.Parse(h.r.Content(pkg))
	if err != nil {
		panic(err)
	}
	keys = append(keys, store.MetaKey(pkg))
	for _, w := range store.Wants(m) {
		keys = append(keys, w.Key)
	}
	return keys, slices.Collect(maps.Values(m.Subpackages))
}

// reach follows packages as far as their metas are resident.
func (h *history) reach(pkgs []digest.Digest) (map[store.Key]bool, map[digest.Digest]bool) {
	keys, seen := map[store.Key]bool{}, map[digest.Digest]bool{}
	for todo := slices.Clone(pkgs); len(todo) > 0; {
		pkg := todo[0]
		todo = todo[1:]
		if seen[pkg] || !h.resident[store.MetaKey(pkg)] {
			continue
		}
		seen[pkg] = true
		k, subs := h.needs(pkg)
		for _, key := range k {
			keys[key] = true
		}
		todo = append(todo, subs...)
	}
	return keys, seen
}

func (h *history) roots() []digest.Digest {
	var roots []digest.Digest
	for _, set := range h.set {
		roots = append(roots, set...)
	}
	for _, l := range h.leases {
		roots = append(roots, l.Package())
	}
	return append(roots, h.runs...)
}

// add is what a resolve does.
func (h *history) add(pkg digest.Digest) {
	if h.trees[pkg] {
		return
	}
	keys, subs := h.needs(pkg)
	for _, k := range keys {
		h.resident[k] = true
	}
	h.trees[pkg] = true
	for _, sub := range subs {
		h.add(sub)
	}
}

// TestHistories: collection never removes what an index reaches, and removes
// the rest; resolving restores what it removed. If no loss of protection was
// counted since, there is nothing to remove.
func TestHistories(t *testing.T) {
	dir := memory(t)
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		root := filepath.Join(dir, fmt.Sprint(n))
		defer os.RemoveAll(root)
		h := &history{
			r: storetest.New(), resident: map[store.Key]bool{}, trees: map[digest.Digest]bool{}, set: map[string][]digest.Digest{},
		}
		h.reopen(t, root)
		h.fill(t)
		some := rapid.SliceOfNDistinct(rapid.SampledFrom(h.pool), 0, 3, rapid.ID[digest.Digest])
		one := rapid.SampledFrom(h.pool)
		t.Repeat(map[string]func(*rapid.T){
			"resolve": func(t *rapid.T) {
				pkg := one.Draw(t, "package")
				if err := h.res.Resolve(context.Background(), pkg, h.r, "test", nil); err != nil {
					t.Fatal(err)
				}
				h.add(pkg)
			},
			"fail": func(t *rapid.T) {
				ctx, cancel := context.WithCancel(context.Background())
				cancel()
				if pkg := one.Draw(t, "package"); h.res.Resolve(ctx, pkg, h.r, "test", nil) == nil && !h.trees[pkg] {
					t.Fatal("resolved though cancelled")
				}
			},
			"lease": func(t *rapid.T) {
				h.leases = append(h.leases, h.ix.Lease(one.Draw(t, "package"), "client", 1))
			},
			"close": func(t *rapid.T) {
				if len(h.leases) > 0 {
					i := rapid.IntRange(0, len(h.leases)-1).Draw(t, "lease")
					h.leases[i].Close()
					h.leases = slices.Delete(h.leases, i, i+1)
				}
			},
			"start": func(t *rapid.T) {
				h.runs = append(h.runs, one.Draw(t, "package"))
				h.ix.Changed(index.OpenIndex)
			},
			"exit": func(t *rapid.T) {
				if len(h.runs) > 0 {
					h.runs = h.runs[1:]
					h.ix.Changed(index.OpenIndex)
				}
			},
			"set": func(t *rapid.T) {
				set := some.Draw(t, "packages")
				which := rapid.SampledFrom([]string{index.BaseIndex, index.CacheIndex, index.RetainedIndex, index.InstalledIndex}).Draw(t, "index")
				h.set[which] = set
				h.assign(which, set)
			},
			"plan": func(t *rapid.T) { h.stale = h.plan(t) },
			"collect by an old plan": func(t *rapid.T) {
				if h.stale == nil {
					return
				}
				keys, trees := h.reach(h.roots())
				if _, err := gc.Execute(context.Background(), h.s, h.ix, h.stale, gc.Options{}); err != nil {
					t.Fatal(err)
				}
				h.stale = nil
				// The victims depend on the plan; reached content stays.
				for k := range keys {
					if !h.s.Has(k) {
						t.Fatalf("%v is gone, want it resident since a root reaches it", k)
					}
				}
				for pkg := range trees {
					if h.trees[pkg] && !h.s.HasPackage(pkg) {
						t.Fatalf("tree %v is gone, want it kept since a root reaches it", pkg)
					}
				}
				h.look()
			},
			"collect": func(t *rapid.T) {
				h.left = h.ix.ReleaseCount()
				plan := h.plan(t)
				res, err := gc.Execute(context.Background(), h.s, h.ix, plan, gc.Options{})
				if err != nil || res.Bytes != plan.Bytes || res.Blobs != len(plan.Blobs) || res.Packages != len(plan.Trees) {
					t.Fatalf("%+v, %v, not what the plan says", res, err)
				}
				h.tidy = true
				keys, trees := h.reach(h.roots())
				maps.DeleteFunc(h.resident, func(k store.Key, _ bool) bool { return !keys[k] })
				maps.DeleteFunc(h.trees, func(pkg digest.Digest, _ bool) bool { return !trees[pkg] })
				if blobs, _, err := h.s.Usage(); err != nil || blobs != len(h.resident) {
					t.Fatalf("%d blobs, want %d (%v)", blobs, len(h.resident), err)
				}
			},
			"collect a little": func(t *rapid.T) {
				if _, err := gc.Execute(context.Background(), h.s, h.ix, h.plan(t), gc.Options{Free: 1}); err != nil {
					t.Fatal(err)
				}
				h.look()
				for pkg := range h.trees {
					keys, subs := h.needs(pkg)
					for _, k := range keys {
						if !h.resident[k] {
							t.Fatalf("%v has lost %v", pkg, k)
						}
					}
					for _, sub := range subs {
						if !h.trees[sub] {
							t.Fatalf("%v has lost %v", pkg, sub)
						}
					}
				}
			},
			"restart": func(t *rapid.T) { h.reopen(t, root) },
			"": func(t *rapid.T) {
				for _, pkg := range h.pool {
					keys, _ := h.needs(pkg)
					for _, k := range keys {
						if h.s.Has(k) != h.resident[k] {
							t.Fatalf("%v: resident %v, want %v", k, h.s.Has(k), h.resident[k])
						}
					}
				}
				if trees := h.s.Packages(); len(trees) != len(h.trees) || slices.ContainsFunc(trees, func(pkg digest.Digest) bool { return !h.trees[pkg] }) {
					t.Fatalf("trees %v\nwant %v", trees, h.trees)
				}
				if writing := h.ix.Of(index.WritingIndex); len(writing) > 0 {
					t.Fatalf("got %v in the writing index, want nothing left", writing)
				}
				if h.tidy && h.ix.ReleaseCount() == h.left {
					if plan := h.plan(t); len(plan.Blobs)+len(plan.Trees)+len(plan.Partials) > 0 {
						t.Fatalf("nothing has lost its protection since the last collection, and yet it is to go: %+v", plan)
					}
				}
			},
		})
	})
}

// memory is a scratch directory in memory if there is one: these tests flush
// often, and are not about the disk.
func memory(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "lull-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (h *history) plan(t *rapid.T) *gc.Plan {
	plan, err := gc.MakePlan(context.Background(), h.s, h.ix.Snapshot())
	if err != nil || len(plan.Doubts) > 0 {
		t.Fatal(err, plan.Doubts)
	}
	return plan
}

// look takes over what the store has.
func (h *history) look() {
	maps.DeleteFunc(h.resident, func(k store.Key, _ bool) bool { return !h.s.Has(k) })
	maps.DeleteFunc(h.trees, func(pkg digest.Digest, _ bool) bool { return !h.s.HasPackage(pkg) })
}

// reopen is a restart of the agent: leases are gone, durable indices stay.
func (h *history) reopen(t *rapid.T, root string) {
	s, err := store.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	h.s, h.ix, h.leases, h.stale, h.tidy = s, index.New(), nil, nil, false
	h.ix.AddProvider(func() (roots []index.Root) {
		for _, pkg := range h.runs {
			roots = append(roots, index.Root{Package: pkg, Holder: "run"})
		}
		return roots
	})
	h.res = resolve.New(s, h.ix)
	for which, set := range h.set {
		h.assign(which, set)
	}
}

func (h *history) assign(which string, set []digest.Digest) {
	var roots []index.Root
	for _, pkg := range set {
		roots = append(roots, index.Root{Package: pkg, Holder: which})
	}
	switch which {
	case index.BaseIndex:
		h.ix.SetBase(roots)
	case index.CacheIndex:
		h.ix.SetCache(roots)
	case index.RetainedIndex:
		h.ix.SetRetained(roots)
	case index.InstalledIndex:
		h.ix.SetInstalled(roots)
	}
}

// fill makes packages of few contents, so that much is shared.
func (h *history) fill(t *rapid.T) {
	for i := range 6 {
		spec := storetest.Spec{Name: fmt.Sprintf("p%d", i), Files: map[string]string{}, Subs: map[string]digest.Digest{}}
		for j, c := range rapid.SliceOfN(rapid.IntRange(0, 5), 0, 4).Draw(t, "contents") {
			path := fmt.Sprintf("f%d", j)
			if rapid.Bool().Draw(t, "exec") {
				path += "*"
			}
			spec.Files[path] = fmt.Sprintf("content %d", c)
		}
		for j := range i {
			if rapid.IntRange(0, 3).Draw(t, "sub") == 0 {
				spec.Subs[fmt.Sprintf("s%d", j)] = h.pool[j]
			}
		}
		m := h.r.Meta(spec)
		b, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		h.pool = append(h.pool, h.r.Add(b))
	}
}

// TestCollectBeside resolves and uses packages while a collector runs without
// a pause: what is leased is whole, always.
func TestCollectBeside(t *testing.T) {
	w := newWorld(t)
	s, err := store.Open(memory(t))
	if err != nil {
		t.Fatal(err)
	}
	w.open(s)
	var pool []digest.Digest
	for i := range 12 {
		files := map[string]string{}
		for j := range 60 {
			files[fmt.Sprintf("d%d/f%d", j%5, j)] = fmt.Sprintf("content %d", (i/2*40+j)%300)
		}
		pool = append(pool, w.r.Package(t, storetest.Spec{Name: fmt.Sprintf("p%d", i), Files: files, Subs: map[string]digest.Digest{"rt": w.runtime}}))
	}
	rounds := 150
	if testing.Short() {
		rounds = 30
	}
	var users, collector sync.WaitGroup
	var stop atomic.Bool
	var collected atomic.Int64
	collector.Go(func() {
		for !stop.Load() {
			res, err := gc.Collect(context.Background(), w.s, w.ix, gc.Options{})
			if err != nil {
				t.Error(err)
				return
			}
			collected.Add(int64(res.Packages))
		}
	})
	for u := range 4 {
		users.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(u)))
			for range rounds {
				if !w.use(t, pool[rng.IntN(len(pool))]) {
					return
				}
			}
		})
	}
	users.Wait()
	stop.Store(true)
	collector.Wait()
	if _, err := gc.Collect(context.Background(), w.s, w.ix, gc.Options{}); err != nil {
		t.Error(err)
	}
	if left := storetest.Keys(t, w.s); len(left) > 0 {
		t.Errorf("%d blobs are left", len(left))
	}
	storetest.Clean(t, w.s)
	if collected.Load() == 0 {
		t.Error("nothing was collected")
	}
}

// use leases a package, resolves it and checks that all of it is resident.
func (w *world) use(t *testing.T, pkg digest.Digest) bool {
	lease := w.ix.Lease(pkg, "user", 1)
	defer lease.Close()
	if err := w.res.Resolve(context.Background(), pkg, w.r, "user", nil); err != nil {
		t.Error(err)
		return false
	}
	missing, err := w.s.Missing(pkg)
	if err != nil || len(missing) > 0 {
		t.Errorf("Missing: got %v, %v; want nothing missing and no error", missing, err)
		return false
	}
	m, err := w.s.TreeMeta(pkg)
	if err != nil {
		t.Error(err)
		return false
	}
	for _, e := range m.Entries {
		b, err := os.ReadFile(filepath.Join(w.s.PackageDir(pkg), e.Path))
		if err != nil || digest.Of(b) != e.Blob {
			t.Errorf("%s: got content %q with hash %s, error %v; want hash %s and no error", e.Path, b, digest.Of(b), err, e.Blob)
			return false
		}
	}
	return true
}
