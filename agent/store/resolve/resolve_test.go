package resolve_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"go.uber.org/goleak"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/gc"
	"github.com/lull/lull/agent/store/index"
	"github.com/lull/lull/agent/store/resolve"
	"github.com/lull/lull/agent/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type world struct {
	s                       *store.Store
	r                       *storetest.Repo
	ix                      *index.Indices
	res                     *resolve.Resolver
	one, two, runtime, tool digest.Digest
}

func newWorld(t testing.TB) *world {
	w := &world{s: storetest.Open(t), r: storetest.New()}
	w.open(w.s)
	fonts := w.r.Package(t, storetest.Spec{Name: "fonts", Files: map[string]string{"sans": strings.Repeat("sans", 5000)}})
	w.runtime = w.r.Package(t, storetest.Spec{Name: "runtime", Files: map[string]string{"libc": "libc", "tool*": "same"}, Subs: map[string]digest.Digest{"fonts": fonts}})
	// fonts is reached in two ways.
	subs := map[string]digest.Digest{"rt": w.runtime, "fonts": fonts}
	w.one = w.r.Package(t, storetest.Spec{Name: "app", Version: "1", Subs: subs, Files: map[string]string{"bin/app*": "app 1", "help": "help", "plain": "same", "exec*": "same"}})
	w.two = w.r.Package(t, storetest.Spec{Name: "app", Version: "2", Subs: subs, Files: map[string]string{"bin/app*": "app 22", "help": "help"}})
	w.tool = w.r.Package(t, storetest.Spec{Name: "tool", Files: map[string]string{"bin/tool*": "tool", "x": "libc"}})
	return w
}

func (w *world) open(s *store.Store) {
	w.s = s
	w.ix = index.New()
	w.res = resolve.New(s, w.ix)
}

func (w *world) resolve(t testing.TB, pkg digest.Digest) {
	t.Helper()
	if err := w.res.Resolve(context.Background(), pkg, w.r, "test", nil); err != nil {
		t.Fatal(err)
	}
}

// idle fails the test if a resolve has left a trace in the writing index.
func (w *world) idle(t testing.TB) {
	t.Helper()
	if roots := w.ix.Of(index.WritingIndex); len(roots) > 0 {
		t.Errorf("left in the writing index: %v", roots)
	}
}

func TestResolve(t *testing.T) {
	w := newWorld(t)
	var done, total int64
	var first resolve.Progress // with sizes
	progress := func(p resolve.Progress) {
		if first == (resolve.Progress{}) && p.Fetch > 0 {
			if first = p; w.r.Fetches(digest.Of([]byte("same"))) > 0 {
				t.Error("content was fetched before the sizes were known")
			}
		} else if p.Fetch != first.Fetch || p.Write != first.Write {
			t.Errorf("the sizes change from %+v to %+v", first, p)
		}
		d, n := p.Done, p.Total
		if d < done || d > n || total != 0 && n != total {
			t.Errorf("progress goes from %d of %d to %d of %d, want it to grow up to the same total", done, total, d, n)
		}
		done, total = d, n
	}
	if err := w.res.Resolve(context.Background(), w.one, w.r, "test", progress); err != nil {
		t.Fatal(err)
	}
	if done != total || total == 0 {
		t.Errorf("progress ends with %d of %d, want all of a total above 0", done, total)
	}
	if first.Done != 0 || first.Fetch != total || first.Write < total {
		t.Errorf("before content is fetched: %+v, want %d bytes to fetch", first, total)
	}
	if !w.s.HasPackage(w.one) || !w.s.HasPackage(w.runtime) {
		t.Error("no tree")
	}
	storetest.Clean(t, w.s)
	w.idle(t)
	for d, name := range map[digest.Digest]string{digest.Of([]byte("same")): "a blob in two forms", w.runtime: "a meta", digest.Of([]byte(strings.Repeat("sans", 5000))): "a blob of a subpackage"} {
		if n := w.r.Fetches(d); n != 1 {
			t.Errorf("%s was fetched %d times, want 1", name, n)
		}
	}
	// Resident content is not re-fetched.
	before := w.r.Total()
	w.resolve(t, w.one)
	if n := w.r.Total() - before; n != 0 {
		t.Errorf("%d fetches for what is there, want 0", n)
	}
	w.resolve(t, w.two)
	if n := w.r.Total() - before; n != 2 {
		t.Errorf("%d fetches for the new meta and blob, want 2", n)
	}
	storetest.Clean(t, w.s)
}

func TestFetchThenResolve(t *testing.T) {
	w := newWorld(t)
	if err := w.res.Fetch(context.Background(), w.one, w.r, "test", nil); err != nil {
		t.Fatal(err)
	}
	if missing, err := w.s.Missing(w.one); err != nil || len(missing) > 0 || w.s.HasPackage(w.one) {
		t.Errorf("after Fetch: got %v missing, %v, and a tree: %v; want nothing missing, no error and no tree", missing, err, w.s.HasPackage(w.one))
	}
	before := w.r.Total()
	w.resolve(t, w.one)
	if w.r.Total() != before {
		t.Error("fetched again")
	}
	storetest.Clean(t, w.s)
}

// TestWantedFirst: every blob is in the writing index when it is fetched.
func TestWantedFirst(t *testing.T) {
	w := newWorld(t)
	w.r.Before = func(_ context.Context, d digest.Digest, _ int64) error {
		if !w.ix.Protects(store.Key{Digest: d}) && !w.ix.Protects(store.Key{Digest: d, Exec: true}) {
			t.Errorf("%q is fetched before it is in the writing index, want it registered first", w.r.Content(d))
		}
		return nil
	}
	w.resolve(t, w.one)
	w.idle(t)
}

func TestUntrusted(t *testing.T) {
	bad := digest.Of([]byte("app 1"))
	for _, c := range []struct {
		what   string
		mangle func(io.Reader) io.Reader
		kind   errkind.Kind
	}{
		{"altered", func(io.Reader) io.Reader { return strings.NewReader("evil!") }, errkind.Untrusted},
		{"longer", func(r io.Reader) io.Reader { return io.MultiReader(r, strings.NewReader("more")) }, errkind.Untrusted},
		{"truncated", func(r io.Reader) io.Reader { return strings.NewReader("") }, errkind.Untrusted},
		{"broken off", func(r io.Reader) io.Reader { return iotest.ErrReader(errors.New("cannot read: reset by peer")) }, errkind.Failed},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := newWorld(t)
			w.r.Mangle = func(d digest.Digest, r io.Reader) io.Reader {
				if d == bad {
					return c.mangle(r)
				}
				return r
			}
			err := w.res.Resolve(context.Background(), w.one, w.r, "test", nil)
			if !errkind.Is(err, c.kind) {
				t.Errorf("%v is of kind %s", err, errkind.KindOf(err))
			}
			if w.s.HasPackage(w.one) || w.s.Has(store.Key{Digest: bad, Exec: true}) {
				t.Error("it is there all the same")
			}
			w.idle(t)
			// With a good source the rest is not re-fetched.
			w.r.Mangle = nil
			before := w.r.Total()
			w.resolve(t, w.one)
			if n := w.r.Total() - before; n > 8 {
				t.Errorf("got %d fetches, want at most 8", n)
			}
			storetest.Clean(t, w.s)
		})
	}
}

// TestBadMeta: a meta with the right hash that is none.
func TestBadMeta(t *testing.T) {
	w := newWorld(t)
	junk := w.r.Add([]byte(`{"name":"a", "version":"1"}`))
	if err := w.res.Resolve(context.Background(), junk, w.r, "test", nil); !errkind.Is(err, errkind.Untrusted) || !strings.Contains(err.Error(), "insignificant space") {
		t.Error(err)
	}
	w.idle(t)
}

// TestBrokenStream: a stream that breaks off resumes where it was, and does
// not restart.
func TestBrokenStream(t *testing.T) {
	w := newWorld(t)
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	pkg := w.r.Package(t, storetest.Spec{Name: "big", Files: map[string]string{"big": string(big)}})
	w.r.Mangle = func(d digest.Digest, r io.Reader) io.Reader {
		if d == digest.Of(big) {
			return io.MultiReader(io.LimitReader(r, 300<<10), iotest.ErrReader(errors.New("reset by peer")))
		}
		return r
	}
	w.resolve(t, pkg)
	if n := w.r.Fetches(digest.Of(big)); n != 4 {
		t.Errorf("%d fetches, want 4", n)
	}
	storetest.Clean(t, w.s)
}

// TestResumes: another process continues an interrupted fetch, and restarts it
// if the beginning is broken.
func TestResumes(t *testing.T) {
	for _, spoilt := range []bool{false, true} {
		w := newWorld(t)
		big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		pkg := w.r.Package(t, storetest.Spec{Name: "big", Files: map[string]string{"big": string(big), "small": "small"}})
		ctx, cancel := context.WithCancel(context.Background())
		w.r.Mangle = func(d digest.Digest, r io.Reader) io.Reader {
			if d != digest.Of(big) {
				return r
			}
			return io.MultiReader(io.LimitReader(r, 512<<10), cancelReader(cancel))
		}
		if err := w.res.Resolve(ctx, pkg, w.r, "test", nil); !errkind.Is(err, errkind.Interrupted) {
			t.Fatal(err)
		}
		w.idle(t)
		part := filepath.Join(w.s.Root(), "tmp", pkg.String(), digest.Of(big).String())
		fi, err := os.Stat(part)
		if err != nil {
			t.Fatal(err)
		}
		if fi.Size() != 512<<10 {
			t.Fatalf("the partial file has %d bytes, want %d", fi.Size(), 512<<10)
		}
		if spoilt {
			storetest.Replace(t, part, make([]byte, fi.Size()))
		}
		again, err := store.Open(w.s.Root())
		if err != nil {
			t.Fatal(err)
		}
		w.open(again)
		w.r.Mangle = nil
		before, offsets := w.r.Fetches(digest.Of(big)), len(w.r.Offsets())
		w.resolve(t, pkg)
		want := 1
		if spoilt {
			want = 2 // once behind what is there, once from the start
		}
		if n := w.r.Fetches(digest.Of(big)) - before; n != want || !slices.Contains(w.r.Offsets()[offsets:], 512<<10) {
			t.Errorf("spoilt %v: got %d fetches from the offsets %v, want %d and one from %d", spoilt, n, w.r.Offsets()[offsets:], want, 512<<10)
		}
		storetest.Clean(t, w.s)
	}
}

type cancelReader context.CancelFunc

func (c cancelReader) Read([]byte) (int, error) {
	c()
	return 0, context.Canceled
}

func TestCancelled(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(context.Background())
	w.r.Before = func(ctx context.Context, d digest.Digest, _ int64) error {
		if d == digest.Of([]byte("help")) {
			cancel()
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
	if err := w.res.Resolve(ctx, w.one, w.r, "test", nil); !errkind.Is(err, errkind.Interrupted) {
		t.Error(err)
	}
	w.idle(t)
	if w.s.HasPackage(w.one) {
		t.Error("it is there all the same")
	}
	w.r.Before = nil
	w.resolve(t, w.one)
	storetest.Clean(t, w.s)
}

// TestConcurrent: many resolves at once fetch each blob once.
func TestConcurrent(t *testing.T) {
	w := newWorld(t)
	var all sync.WaitGroup
	for i := range 20 {
		pkg := []digest.Digest{w.one, w.two, w.tool, w.runtime}[i%4]
		all.Go(func() {
			if err := w.res.Resolve(context.Background(), pkg, w.r, "test", nil); err != nil {
				t.Error(err)
			}
			if !w.s.HasPackage(pkg) {
				t.Error("no tree")
			}
		})
	}
	all.Wait()
	for _, s := range []string{"same", "libc", "help", "app 1", "app 22", "tool"} {
		if n := w.r.Fetches(digest.Of([]byte(s))); n != 1 {
			t.Errorf("%q was fetched %d times, want 1", s, n)
		}
	}
	for _, m := range []digest.Digest{w.one, w.two, w.runtime, w.tool} {
		if n := w.r.Fetches(m); n != 1 {
			t.Errorf("meta %q was fetched %d times, want 1", w.r.Content(m), n)
		}
	}
	storetest.Clean(t, w.s)
	w.idle(t)
}

// TestOtherFails: a resolve does not fail because another did that it waited
// for.
func TestOtherFails(t *testing.T) {
	w := newWorld(t)
	shared := digest.Of([]byte("help"))
	ctx, cancel := context.WithCancel(context.Background())
	fetching := make(chan struct{})
	var first atomic.Bool
	first.Store(true)
	w.r.Before = func(ctx context.Context, d digest.Digest, _ int64) error {
		if d == shared && first.CompareAndSwap(true, false) {
			close(fetching)
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
	var all sync.WaitGroup
	all.Go(func() {
		if err := w.res.Resolve(ctx, w.one, w.r, "one", nil); err == nil {
			t.Error("it was not cancelled")
		}
	})
	<-fetching
	all.Go(func() {
		if err := w.res.Resolve(context.Background(), w.two, w.r, "two", nil); err != nil {
			t.Error(err)
		}
	})
	cancel()
	all.Wait()
	// The cancelled fetch left a beginning to continue with.
	w.ix.SetInstalled([]index.Root{{Package: w.two}})
	if _, err := gc.Collect(context.Background(), w.s, w.ix, gc.Options{}); err != nil {
		t.Fatal(err)
	}
	storetest.Clean(t, w.s)
	if n := w.r.Fetches(shared); n != 1 {
		t.Errorf("fetched %d times, want 1", n)
	}
}

// TestSpoiltMeta: a resident manifest that the disk has damaged is re-fetched.
func TestSpoiltMeta(t *testing.T) {
	w := newWorld(t)
	w.resolve(t, w.runtime)
	if _, err := w.s.TakeTree(w.runtime, func() (bool, error) { return true, nil }); err != nil {
		t.Fatal(err)
	}
	storetest.Replace(t, w.s.BlobPath(store.MetaKey(w.runtime)), []byte("{}"))
	w.resolve(t, w.one)
	if missing, err := w.s.Missing(w.one); err != nil || len(missing) > 0 {
		t.Errorf("Missing: got %v, %v; want nothing missing and no error", missing, err)
	}
}

// TestLostBelow: a missing blob of a subpackage whose tree exists returns with
// the package above it, and so do those that only the trash has.
func TestLostBelow(t *testing.T) {
	libc := store.Key{Digest: digest.Of([]byte("libc"))}
	for name, do := range map[string]func(*world) error{
		"resolve": func(w *world) error { return w.res.Resolve(context.Background(), w.two, w.r, "test", nil) },
		"repair":  func(w *world) error { return w.res.Repair(context.Background(), w.one, w.r, "test", nil) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.resolve(t, w.one)
			if err := w.s.DropBlob(libc); err != nil {
				t.Fatal(err)
			}
			if err := do(w); err != nil {
				t.Fatal(err)
			}
			if !w.s.Has(libc) || w.r.Fetches(libc.Digest) != 2 {
				t.Errorf("got the blob resident: %v, fetched %d times; want true and 2", w.s.Has(libc), w.r.Fetches(libc.Digest))
			}
			taken, _, err := w.s.Trash([]store.Key{libc}, nil, func(store.Key) (bool, error) { return true, nil })
			if err != nil || len(taken) != 1 {
				t.Fatal(taken, err)
			}
			if err := w.res.Repair(context.Background(), w.one, w.r, "test", nil); err != nil || !w.s.Has(libc) || w.r.Fetches(libc.Digest) != 2 {
				t.Errorf("Repair from the trash: got %v, the blob resident: %v, fetched %d times; want no error, true and 2", err, w.s.Has(libc), w.r.Fetches(libc.Digest))
			}
		})
	}
}

func TestRepair(t *testing.T) {
	w := newWorld(t)
	w.resolve(t, w.one)
	storetest.Replace(t, w.s.BlobPath(store.Key{Digest: digest.Of([]byte("help"))}), []byte("hell"))
	storetest.Replace(t, w.s.BlobPath(store.MetaKey(w.runtime)), []byte("{}"))
	os.Remove(filepath.Join(w.s.PackageDir(w.one), "bin/app"))
	findings, _, err := w.s.Verify(context.Background(), nil, nil)
	if err != nil || len(findings) != 3 {
		t.Fatalf("Verify: got %v, %v; want 3 findings and no error", findings, err)
	}
	broken := map[digest.Digest]bool{}
	for _, f := range findings {
		if err := w.s.DropCorrupt(f); err != nil {
			t.Error(err)
		}
		for _, pkg := range f.Packages {
			broken[pkg] = true
		}
	}
	for pkg := range broken {
		if err := w.res.Repair(context.Background(), pkg, w.r, "repair", nil); err != nil {
			t.Error(err)
		}
	}
	storetest.Clean(t, w.s)
}

// TestTakenBack: content of the trash is not re-fetched.
func TestTakenBack(t *testing.T) {
	w := newWorld(t)
	w.resolve(t, w.tool)
	all := func() (bool, error) { return true, nil }
	tree, err := w.s.TakeTree(w.tool, all)
	if err != nil {
		t.Fatal(err)
	}
	taken, _, err := w.s.Trash([]store.Key{store.MetaKey(w.tool), {Digest: digest.Of([]byte("tool")), Exec: true}, {Digest: digest.Of([]byte("libc"))}}, nil, func(store.Key) (bool, error) { return true, nil })
	if err != nil || len(taken) != 3 {
		t.Fatal(taken, err)
	}
	before := w.r.Total()
	w.resolve(t, w.tool)
	if n := w.r.Total() - before; n != 0 {
		t.Errorf("%d fetches, want 0", n)
	}
	if deleted, err := w.s.Purge(taken); err != nil || len(deleted) != 0 {
		t.Errorf("Purge: got %v, %v; want nothing deleted, as all was restored, and no error", deleted, err)
	}
	if _, err := w.s.DiscardTree(tree); err != nil {
		t.Error(err)
	}
	storetest.Clean(t, w.s)
}

func BenchmarkResolve15000(b *testing.B) {
	w := newWorld(b)
	files := map[string]string{}
	for i := range 15000 {
		files[fmt.Sprintf("usr/lib/d%03d/file%05d", i/60, i)] = strings.Repeat(fmt.Sprintf("content %d ", i), 1000)
	}
	pkg := w.r.Package(b, storetest.Spec{Name: "large", Files: files})
	for b.Loop() {
		w.resolve(b, pkg)
		b.StopTimer()
		if _, err := gc.Collect(context.Background(), w.s, w.ix, gc.Options{}); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func BenchmarkCollect15000(b *testing.B) {
	w := newWorld(b)
	files := map[string]string{}
	for i := range 15000 {
		files[fmt.Sprintf("usr/lib/d%03d/file%05d", i/60, i)] = strings.Repeat(fmt.Sprintf("content %d ", i), 1000)
	}
	pkg := w.r.Package(b, storetest.Spec{Name: "large", Files: files})
	for b.Loop() {
		b.StopTimer()
		w.resolve(b, pkg)
		b.StartTimer()
		if _, err := gc.Collect(context.Background(), w.s, w.ix, gc.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
