package gc

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/index"
	"github.com/lull/lull/agent/store/storetest"
)

// world has two versions of an app, which share a blob and a subpackage with a
// subpackage of its own, and a lone tool.
type world struct {
	s                              *store.Store
	r                              *storetest.Repo
	one, two, runtime, fonts, tool digest.Digest
}

func newWorld(t testing.TB) *world {
	w := &world{s: storetest.Open(t), r: storetest.New()}
	w.fonts = w.r.Package(t, storetest.Spec{Name: "fonts", Files: map[string]string{"sans": "sans 789"}})
	w.runtime = w.r.Package(t, storetest.Spec{Name: "runtime", Files: map[string]string{"libc": "libc"}, Subs: map[string]digest.Digest{"fonts": w.fonts}})
	subs := map[string]digest.Digest{"rt": w.runtime}
	w.one = w.r.Package(t, storetest.Spec{Name: "app", Version: "1", Subs: subs, Files: map[string]string{"bin/app*": "app 1", "help": "help"}})
	w.two = w.r.Package(t, storetest.Spec{Name: "app", Version: "2", Subs: subs, Files: map[string]string{"bin/app*": "app 22", "help": "help"}})
	w.tool = w.r.Package(t, storetest.Spec{Name: "tool", Files: map[string]string{"bin/tool*": "tool", "x": "libc", "y": "libc"}})
	for _, pkg := range []digest.Digest{w.one, w.two, w.tool} {
		w.r.Put(t, w.s, pkg)
	}
	return w
}

func (w *world) plan(t testing.TB, roots ...index.Root) *Plan {
	t.Helper()
	p, err := MakePlan(context.Background(), w.s, roots)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func installed(pkg digest.Digest) index.Root {
	return index.Root{Index: index.InstalledIndex, Package: pkg, Holder: "org.x"}
}

func blob(content string, exec bool) store.Key {
	return store.Key{Digest: digest.Of([]byte(content)), Exec: exec}
}

func (p *Plan) keys() map[store.Key]bool {
	m := map[store.Key]bool{}
	for _, v := range p.Blobs {
		m[v.Key] = true
	}
	return m
}

func TestPlan(t *testing.T) {
	w := newWorld(t)
	p := w.plan(t, installed(w.two))
	want := map[store.Key]bool{
		blob("app 1", true): true, store.MetaKey(w.one): true, blob("tool", true): true, store.MetaKey(w.tool): true,
	}
	if got := p.keys(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("victims %v, want %v", got, want)
	}
	if len(p.Trees) != 2 || !slices.Contains(p.Trees, w.one) || !slices.Contains(p.Trees, w.tool) {
		t.Errorf("got trees %v to go, want %v", p.Trees, []digest.Digest{w.one, w.tool})
	}
	var bytes int64
	for _, v := range p.Blobs {
		if n := int64(len(w.r.Content(v.Key.Digest))); v.Size != n {
			t.Errorf("%v has %d bytes", v, n)
		}
		bytes += v.Size
	}
	if p.Bytes != bytes {
		t.Errorf("%d bytes, want %d", p.Bytes, bytes)
	}
	size := func(pkg digest.Digest, more int64) int64 { return int64(len(w.r.Content(pkg))) + more }
	for _, c := range []struct {
		what              string
		pkg               digest.Digest
		exclusive, shared int64
		keptBy            string
	}{
		// Its subpackages are needed by version 2 too, "libc" by the tool.
		{"one", w.one, size(w.one, 5), size(w.runtime, 4+4) + size(w.fonts, 8), ""},
		{"two", w.two, size(w.two, 6), size(w.runtime, 4+4) + size(w.fonts, 8), "installed"},
		{"runtime", w.runtime, 0, size(w.runtime, 4) + size(w.fonts, 8), "installed"},
		{"fonts", w.fonts, 0, size(w.fonts, 8), "installed"},
		{"tool", w.tool, size(w.tool, 4), 4, ""},
	} {
		i := slices.IndexFunc(p.Packages, func(u Usage) bool { return u.Package == c.pkg })
		if i < 0 {
			t.Errorf("%s is not listed", c.what)
			continue
		}
		if u := p.Packages[i]; u.Exclusive != c.exclusive || u.Shared != c.shared || u.KeptBy != c.keptBy || u.Version == "" {
			t.Errorf("%s: %+v, want %d, %d, %q", c.what, u, c.exclusive, c.shared, c.keptBy)
		}
	}
	// With one super gone, what the subpackages take is the other's alone.
	if _, err := Execute(context.Background(), w.s, rooted(w.two), p, Options{}); err != nil {
		t.Fatal(err)
	}
	for _, u := range w.plan(t, installed(w.two)).Packages {
		if want := size(w.two, 6+4+4) + size(w.runtime, 0) + size(w.fonts, 8); u.Package == w.two && (u.Shared != 0 || u.Exclusive != want) {
			t.Errorf("two: got %+v, want 0 bytes shared and %d exclusive", u, want)
		}
	}
}

func rooted(pkgs ...digest.Digest) *index.Indices {
	ix := index.New()
	var roots []index.Root
	for _, p := range pkgs {
		roots = append(roots, installed(p))
	}
	ix.SetInstalled(roots)
	return ix
}

// TestExecuteIsPlan: exactly the plan's victims are removed, to the blob and byte.
func TestExecuteIsPlan(t *testing.T) {
	for _, c := range []struct {
		what string
		keep func(w *world) []digest.Digest
	}{
		{"two", func(w *world) []digest.Digest { return []digest.Digest{w.two} }},
		{"runtime", func(w *world) []digest.Digest { return []digest.Digest{w.runtime} }},
		{"nothing", func(w *world) []digest.Digest { return nil }},
		{"all", func(w *world) []digest.Digest { return []digest.Digest{w.one, w.two, w.tool} }},
		{"unknown", func(w *world) []digest.Digest { return []digest.Digest{w.fonts, digest.Of([]byte("?"))} }},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := newWorld(t)
			ix := rooted(c.keep(w)...)
			p := w.plan(t, ix.Snapshot()...)
			before := storetest.Keys(t, w.s)
			res, err := Execute(context.Background(), w.s, ix, p, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(res, Result{Blobs: len(p.Blobs), Packages: len(p.Trees), Bytes: p.Bytes}) {
				t.Errorf("%+v, but the plan has %d blobs, %d trees, %d bytes", res, len(p.Blobs), len(p.Trees), p.Bytes)
			}
			after := storetest.Keys(t, w.s)
			for k := range before {
				if after[k] == p.keys()[k] {
					t.Errorf("%v: planned to go %v, but there %v; want it there unless it was planned to go", k, p.keys()[k], after[k])
				}
			}
			for _, pkg := range p.Trees {
				if w.s.HasPackage(pkg) {
					t.Errorf("the tree %s is there, want it gone as planned", pkg.Short())
				}
			}
			storetest.Clean(t, w.s)
			if again := w.plan(t, ix.Snapshot()...); len(again.Blobs)+len(again.Trees) != 0 {
				t.Errorf("a second plan has blobs %v and trees %v, want none", again.Blobs, again.Trees)
			}
		})
	}
}

// TestOrder: after any interruption, a remaining tree has all its blobs.
func TestOrder(t *testing.T) {
	w := newWorld(t)
	p := w.plan(t)
	gone := map[store.Key]bool{}
	trees := map[digest.Digest]bool{w.one: true, w.two: true, w.runtime: true, w.fonts: true, w.tool: true}
	whole := func() {
		for pkg := range trees {
			m, err := w.s.Meta(pkg)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range append(store.Wants(m), store.Want{Key: store.MetaKey(pkg)}) {
				if gone[want.Key] {
					t.Errorf("%s %s has lost %s", m.Name, m.Version, w.r.Content(want.Key.Digest))
				}
			}
			for _, sub := range m.Subpackages {
				if !trees[sub] {
					t.Errorf("%s %s has lost a subpackage", m.Name, m.Version)
				}
			}
		}
	}
	for _, st := range p.steps {
		delete(trees, st.tree)
		whole()
		for _, v := range p.Blobs[st.from:st.to] {
			gone[v.Key] = true
			whole()
		}
	}
	if len(trees) > 0 {
		t.Errorf("trees that do not go: %v", trees)
	}
	if p.Trees[0] != w.tool {
		t.Errorf("the smallest package does not go first")
	}
}

func TestFree(t *testing.T) {
	w := newWorld(t)
	orphan := w.r.Add([]byte(strings.Repeat("orphan", 10)))
	path := w.s.BlobPath(store.Key{Digest: orphan})
	if err := os.WriteFile(path, w.r.Content(orphan), 0o444); err != nil {
		t.Fatal(err)
	}
	ix := rooted(w.two)
	res, err := Execute(context.Background(), w.s, ix, w.plan(t, ix.Snapshot()...), Options{Free: 1})
	if err != nil || res.Blobs != 1 || w.s.Has(store.Key{Digest: orphan}) || res.Bytes != 60 {
		t.Errorf("the first collection: got %+v, %v; want only the orphan %s of 60 bytes gone, and no error", res, err, orphan.Short())
	}
	res, err = Execute(context.Background(), w.s, ix, w.plan(t, ix.Snapshot()...), Options{Free: 1})
	if err != nil || res.Packages != 1 || w.s.HasPackage(w.tool) || !w.s.HasPackage(w.one) {
		t.Errorf("the second collection: got %+v, %v; want 1 package gone, tool %s and not %s, and no error", res, err, w.tool.Short(), w.one.Short())
	}
	storetest.Clean(t, w.s)
}

// TestStalePlan: what has become protected since the plan stays.
func TestStalePlan(t *testing.T) {
	for _, c := range []struct {
		what    string
		protect func(w *world, ix *index.Indices)
	}{
		{"leased", func(w *world, ix *index.Indices) { ix.Lease(w.one, "client", 1) }},
		{"retained", func(w *world, ix *index.Indices) { ix.SetRetained([]index.Root{{Package: w.one}}) }},
		{"written", func(w *world, ix *index.Indices) { ix.BeginWriting(w.one, "resolve") }},
		{"run", func(w *world, ix *index.Indices) {
			ix.AddProvider(func() []index.Root { return []index.Root{{Package: w.one}} })
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := newWorld(t)
			ix := rooted()
			p := w.plan(t, ix.Snapshot()...)
			c.protect(w, ix)
			if _, err := Execute(context.Background(), w.s, ix, p, Options{}); err != nil {
				t.Fatal(err)
			}
			if !w.s.HasPackage(w.one) || !w.s.HasPackage(w.fonts) || w.s.HasPackage(w.two) {
				t.Error("wrong packages have gone")
			}
			if missing, err := w.s.Missing(w.one); err != nil || len(missing) > 0 {
				t.Errorf("Missing: got %v, %v; want nothing missing and no error", missing, err)
			}
			storetest.Clean(t, w.s)
		})
	}
}

// TestProtectedOnTheWay protects a package after each of the collector's
// looks, when the plan is already half executed.
func TestProtectedOnTheWay(t *testing.T) {
	w := newWorld(t)
	ix := rooted()
	p := w.plan(t)
	x := &execution{ctx: context.Background(), s: w.s, plan: p, guard: newGuard(w.s, ix, p), waste: make(chan waste, 1000)}
	if err := x.guard.look(x.ctx); err != nil {
		t.Fatal(err)
	}
	last := p.Trees[len(p.Trees)-1]
	for i, st := range p.steps {
		if i == 1 {
			ix.Lease(last, "client", 1)
		}
		if err := x.step(st); err != nil {
			t.Fatal(err)
		}
	}
	if !w.s.HasPackage(last) {
		t.Error("the leased package has gone")
	}
	if missing, err := w.s.Missing(last); err != nil || len(missing) > 0 {
		t.Errorf("Missing: got %v, %v; want nothing missing and no error", missing, err)
	}
}

// TestTreeBuiltAgain: a package that has been collected, re-resolved and
// released while the same plan is executed keeps the blobs of its new tree.
func TestTreeBuiltAgain(t *testing.T) {
	w := newWorld(t)
	ix := rooted()
	p := w.plan(t)
	x := &execution{ctx: context.Background(), s: w.s, plan: p, guard: newGuard(w.s, ix, p), waste: make(chan waste, 1000)}
	if err := x.guard.look(x.ctx); err != nil {
		t.Fatal(err)
	}
	for i, st := range p.steps {
		if i == len(p.steps)-2 {
			writing := ix.BeginWriting(w.one, "resolve")
			w.r.Put(t, w.s, w.one)
			writing.End()
		}
		if err := x.step(st); err != nil {
			t.Fatal(err)
		}
	}
	for _, pkg := range []digest.Digest{w.one, w.runtime, w.fonts} {
		if missing, err := w.s.Missing(pkg); err != nil || len(missing) > 0 || !w.s.HasPackage(pkg) {
			t.Errorf("%s: got %v missing, %v, and a tree: %v; want nothing missing, no error and a tree", pkg.Short(), missing, err, w.s.HasPackage(pkg))
		}
	}
	if _, err := Collect(context.Background(), w.s, ix, Options{}); err != nil {
		t.Fatal(err)
	}
	if left := storetest.Keys(t, w.s); len(left) > 0 {
		t.Errorf("left after the next plan: %v", left)
	}
}

// TestWanted: a blob that a resolve has registered is no victim, though no
// package that needs it is there.
func TestWanted(t *testing.T) {
	w := newWorld(t)
	ix := rooted()
	writing := ix.BeginWriting(digest.Of([]byte("new")), "install")
	writing.Add(blob("tool", true))
	p := w.plan(t, ix.Snapshot()...)
	if p.keys()[blob("tool", true)] {
		t.Error("a wanted blob is a victim")
	}
	writing.Add(blob("libc", false)) // after the plan
	if _, err := Execute(context.Background(), w.s, ix, p, Options{}); err != nil {
		t.Fatal(err)
	}
	if got := storetest.Keys(t, w.s); len(got) != 2 {
		t.Errorf("%v are left", got)
	}
}

func TestDoubt(t *testing.T) {
	for _, c := range []struct {
		what   string
		spoil  func(t *testing.T, w *world)
		roots  func(w *world) []index.Root
		doubts bool
	}{
		{"broken meta", func(t *testing.T, w *world) {
			storetest.Replace(t, w.s.BlobPath(store.MetaKey(w.two)), []byte("{}"))
		}, nil, true},
		{"broken meta of a subpackage", func(t *testing.T, w *world) {
			storetest.Replace(t, w.s.BlobPath(store.MetaKey(w.fonts)), []byte("{}"))
		}, nil, true},
		{"broken meta of a dead package", func(t *testing.T, w *world) {
			storetest.Replace(t, w.s.BlobPath(store.MetaKey(w.tool)), []byte("{}"))
		}, nil, false},
		{"meta lost, tree has it", func(t *testing.T, w *world) { os.Remove(w.s.BlobPath(store.MetaKey(w.two))) }, nil, false},
		{"meta lost, also in the tree", func(t *testing.T, w *world) {
			os.Remove(w.s.BlobPath(store.MetaKey(w.two)))
			os.Remove(filepath.Join(w.s.PackageDir(w.two), ".lull/meta.json"))
		}, nil, true},
		{"subpackage lost", func(t *testing.T, w *world) {
			os.Remove(w.s.BlobPath(store.MetaKey(w.fonts)))
			os.RemoveAll(w.s.PackageDir(w.fonts))
		}, nil, true},
		{"not resident", func(*testing.T, *world) {}, func(w *world) []index.Root {
			return []index.Root{{Index: index.RetainedIndex, Package: digest.Of([]byte("next"))}}
		}, false},
		{"unknown run", func(*testing.T, *world) {}, func(w *world) []index.Root {
			return []index.Root{{Index: index.OpenIndex, Holder: "cgroup that cannot be read"}}
		}, true},
		{"broken meta while written", func(t *testing.T, w *world) {
			storetest.Replace(t, w.s.BlobPath(store.MetaKey(w.tool)), []byte("{}"))
		}, func(w *world) []index.Root { return []index.Root{{Index: index.WritingIndex, Package: w.tool}} }, false},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := newWorld(t)
			c.spoil(t, w)
			roots := []index.Root{installed(w.two)}
			if c.roots != nil {
				roots = append(roots, c.roots(w)...)
			}
			p := w.plan(t, roots...)
			if (len(p.Doubts) > 0) != c.doubts || c.doubts && len(p.Blobs)+len(p.Trees) > 0 {
				t.Fatalf("got doubts %q, %d blobs and %d trees to go; want doubts: %v, and then nothing to go", p.Doubts, len(p.Blobs), len(p.Trees), c.doubts)
			}
			before := len(storetest.Keys(t, w.s))
			_, err := Execute(context.Background(), w.s, rooted(w.two), p, Options{})
			if (err != nil) != c.doubts {
				t.Fatal(err)
			}
			if c.doubts && (len(storetest.Keys(t, w.s)) != before || !strings.HasPrefix(err.Error(), "cannot collect") || errkind.HintOf(err) == "") {
				t.Errorf("got %d blobs after and %d before, error %v with hint %q; want nothing gone, and an error that begins with %q with a hint", len(storetest.Keys(t, w.s)), before, err, errkind.HintOf(err), "cannot collect")
			}
		})
	}
}

// TestDoubtOnTheWay: doubt that arises between plan and execution stops it.
func TestDoubtOnTheWay(t *testing.T) {
	w := newWorld(t)
	ix := rooted()
	p := w.plan(t)
	storetest.Replace(t, w.s.BlobPath(store.MetaKey(w.two)), []byte("{}"))
	ix.Lease(w.two, "client", 1)
	if res, err := Execute(context.Background(), w.s, ix, p, Options{}); err == nil || res.Blobs != 0 || !strings.HasPrefix(err.Error(), "cannot collect") {
		t.Errorf("%+v, %v; want an error, blobs 0 and error that begins with %q", res, err, "cannot collect")
	}
}

func TestPartials(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"stale", "wanted", "busy"} {
		i, err := w.s.Ingest(digest.Of([]byte(name)))
		if err != nil {
			t.Fatal(err)
		}
		out, err := i.Create(store.Key{Digest: digest.Of([]byte("long"))}, 100)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(make([]byte, 40))
		out.Suspend()
		if name != "busy" {
			i.Close()
		} else {
			defer i.Abort()
		}
	}
	ix := rooted(w.one, w.two, w.tool, digest.Of([]byte("wanted")))
	p := w.plan(t, ix.Snapshot()...)
	if len(p.Partials) != 1 || p.Partials[0] != (Partial{digest.Of([]byte("stale")), 40}) || p.Bytes != 40 {
		t.Errorf("got partial files %+v and %d bytes to go, want only the stale one of 40 bytes", p.Partials, p.Bytes)
	}
	res, err := Execute(context.Background(), w.s, ix, p, Options{})
	if err != nil || res.Bytes != 40 {
		t.Errorf("%+v, %v; want no error and bytes 40", res, err)
	}
	if left, _ := filepath.Glob(filepath.Join(w.s.Root(), "tmp/*")); len(left) != 2 {
		t.Errorf("left: %v", left)
	}
}

func TestCancelled(t *testing.T) {
	w := newWorld(t)
	p := w.plan(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Execute(ctx, w.s, rooted(), p, Options{}); !errkind.Is(err, errkind.Interrupted) {
		t.Error(err)
	}
	if _, err := MakePlan(ctx, w.s, nil); err == nil {
		t.Error("a plan in spite of all")
	}
}

func TestWhy(t *testing.T) {
	w := newWorld(t)
	os.MkdirAll(filepath.Join(w.s.Root(), "current"), 0o755)
	os.Symlink("../packages/"+w.two.String(), filepath.Join(w.s.Root(), "current/app"))
	ix := rooted(w.two)
	ix.SetBase([]index.Root{{Package: w.runtime, Holder: "system"}})
	ix.Lease(w.fonts, "viewer", 77)
	writing := ix.BeginWriting(digest.Of([]byte("new")), "install")
	writing.Add(blob("tool", true))
	two, runtime, fonts := w.two.String(), w.runtime.String(), w.fonts.String()
	rt, fn := "rt "+w.runtime.Short(), "fonts "+w.fonts.Short()
	libc := []Chain{{"base", runtime, "libc", "system", 0}, {"installed", two, rt + " → libc", "org.x", 0}}
	for _, c := range []struct {
		what string
		want []Chain
	}{
		{two, []Chain{{"installed", two, "", "org.x", 0}}},
		{w.two.Short(), []Chain{{"installed", two, "", "org.x", 0}}},
		{two[:4], []Chain{{"installed", two, "", "org.x", 0}}},
		{"packages/" + two, []Chain{{"installed", two, "", "org.x", 0}}},
		{"current/app", []Chain{{"installed", two, "", "org.x", 0}}},
		{"current/app/.lull", []Chain{{"installed", two, "", "org.x", 0}}},
		{"current/app/bin/app", []Chain{{"installed", two, "bin/app", "org.x", 0}}},
		{"current/app/.lull/sub/rt/libc", libc},
		{blob("libc", false).String(), libc},
		{filepath.Join(w.s.Root(), "blobs", blob("libc", false).String()[:2], blob("libc", false).String()), libc},
		{fonts, []Chain{{"base", runtime, fn, "system", 0}, {"installed", two, rt + " → " + fn, "org.x", 0}, {"open", fonts, "", "viewer", 77}}},
		{w.one.String(), nil},
		{blob("app 1", true).String(), nil},
		{blob("tool", true).String(), []Chain{{"writing", digest.Of([]byte("new")).String(), "wanted by the resolve", "install", 0}}},
	} {
		got, err := Why(w.s, ix.Snapshot(), c.what)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s\n\tgot  %v, %v\n\twant %v", c.what, got, err, c.want)
		}
	}
	for what, kind := range map[string]errkind.Kind{
		digest.Of([]byte("nothing")).String(): errkind.NotFound,
		"0123456789abcdef":                    errkind.NotFound,
		two[:3]:                               errkind.NotFound, // too short: a path
		"packages/nothing":                    errkind.NotFound,
		"/etc/passwd":                         errkind.Invalid,
		"blobs":                               errkind.Invalid,
		"../../etc":                           errkind.Invalid,
	} {
		if got, err := Why(w.s, ix.Snapshot(), what); !errkind.Is(err, kind) || !strings.HasPrefix(err.Error(), "cannot determine why") {
			t.Errorf("Why(%s) = %v, %v; want an error of kind %s that begins with cannot determine why", what, got, err, kind)
		}
	}
}
