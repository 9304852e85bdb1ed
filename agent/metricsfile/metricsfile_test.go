package metricsfile

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/metrics"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/gc"
	"github.com/lull/lull/agent/store/index"
	"github.com/lull/lull/agent/store/storetest"
)

// world is a store and the other sources of a File, and a writer whose path a test may
// change.
type world struct {
	*writer
	at string // metrics.textfile
}

func newWorld(t testing.TB, path string) *world {
	t.Helper()
	root := t.TempDir()
	s, err := store.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	db, err := state.Open(filepath.Join(root, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	w := &world{at: path}
	w.writer = newWriter(context.Background(), New("1", nil, nil), Sources{
		Path: func() string { return w.at }, Store: s, Indices: index.New(), State: db, Log: slog.Default(),
		Repositories: func() map[string]time.Time { return nil },
		Current:      func(string) uint32 { return 0 },
		Refreshes:    func() ([]metrics.Trouble, []metrics.Pending) { return nil, nil },
		Runs:         func() *metrics.Runs { return nil },
		Services:     func() []metrics.Services { return nil },
	})
	w.Indices.OnChange(func(name string) {
		if name == index.WritingIndex {
			w.file.StoreChanged()
		}
	})
	return w
}

// figure reads one figure from the file.
func figure(t testing.TB, path, name string) int {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (\S+)$`).FindSubmatch(b)
	if found == nil {
		return -1
	}
	n, err := strconv.ParseFloat(string(found[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return int(n)
}

// TestMetricsFollow: changed indices are re-counted, and unchanged ones are not. A count that
// would be too early is delayed.
func TestMetricsFollow(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "lull.prom")
	w := newWorld(t, path)
	list := storetest.Metas(t, w.Store, "p", 3)
	w.Indices.SetBase(rootsOf(list[:1]))
	if again := w.write(); again != 0 {
		t.Errorf("again after %v, want 0", again)
	}
	blobs := func(name string) int { return figure(t, path, `lull_index_blobs{index="`+name+`"}`) }
	if n := blobs("base"); n != 21 {
		t.Errorf("%d blobs in base, want 21", n)
	}
	if n := figure(t, path, "lull_store_blobs"); n != 3 {
		t.Errorf("%d blobs in the store, want 3", n)
	}
	if again := w.write(); again != 0 {
		t.Errorf("nothing has changed: again after %v, want 0", again)
	}

	w.walkAfter = time.Now().Add(time.Hour)
	w.Indices.SetCache(rootsOf(list))
	if again := w.write(); again < 59*time.Minute || again > time.Hour {
		t.Errorf("got a walk after %v, want after 59 minutes to an hour", again)
	}
	if n := blobs("cache"); n != 0 {
		t.Errorf("got %d blobs in cache, want 0 (not counted yet)", n)
	}
	w.walkAfter = time.Time{}
	if again := w.write(); again != 0 {
		t.Errorf("again after %v, want 0", again)
	}
	if n := blobs("cache"); n != 63 {
		t.Errorf("%d blobs in cache, want 63", n)
	}

	// A package is counted during its download as soon as its manifest is there.
	late := storetest.Metas(t, w.Store, "late", 1)[0]
	key := w.Store.BlobPath(store.MetaKey(late))
	if err := os.Rename(key, key+"-"); err != nil {
		t.Fatal(err)
	}
	writing := w.Indices.BeginWriting(late, "test")
	w.walkAfter = time.Time{}
	w.write()
	if n, p := blobs("writing"), figure(t, path, `lull_index_packages{index="writing"}`); n != 0 || p != 1 {
		t.Errorf("writing: got %d blobs of %d packages, want 0 of 1", n, p)
	}
	if err := os.Rename(key+"-", key); err != nil {
		t.Fatal(err)
	}
	w.walkAfter = time.Time{}
	w.write()
	if n := blobs("writing"); n != 21 {
		t.Errorf("%d blobs in writing, want 21", n)
	}
	writing.End()
	w.walkAfter = time.Time{}
	w.write()
	if n := blobs("writing"); n != 0 {
		t.Errorf("%d blobs in writing after its end, want 0", n)
	}
	if n := figure(t, path, "lull_store_blobs"); n != 4 {
		t.Errorf("%d blobs in the store, want 4", n)
	}

	start := time.Now()
	result, err := gc.Collect(t.Context(), w.Store, w.Indices, gc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w.file.Collected(result, start, err)
	w.walkAfter = time.Time{}
	w.write()
	for name, want := range map[string]int{"lull_collections_total": 1, "lull_collection_last_freed_bytes": 0, "lull_store_blobs": 3, "lull_collection_freed_blobs_total": 1} {
		if n := figure(t, path, name); name == "lull_collection_last_freed_bytes" && n <= 0 || name != "lull_collection_last_freed_bytes" && n != want {
			t.Errorf("%s is %d, want %d", name, n, want)
		}
	}
	w.remove()
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("got %v left (%v), want nothing", left, err)
	}
}

// TestMetricsNowhere: without the directory the write fails and its error is kept. Once the
// directory exists the file is written.
func TestMetricsNowhere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "missing")
	path := filepath.Join(dir, "lull.prom")
	w := newWorld(t, path)
	w.write()
	if text := w.file.Failure(); !strings.HasPrefix(text, "cannot write the metrics in "+path+": ") {
		t.Errorf("the failure is %q; want text that begins with %q", text, "cannot write the metrics in "+path+": ")
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	w.write()
	if text := w.file.Failure(); text != "" || figure(t, path, "lull_collections_total") != 0 {
		t.Errorf("got failure %q or another number of collections, want none and 0", text)
	}

	// Another path, then none.
	w.at = filepath.Join(dir, "other.prom")
	w.write()
	if _, err := os.Stat(path); !os.IsNotExist(err) || figure(t, w.at, "lull_collections_total") != 0 {
		t.Errorf("after another path: got %v about the former one, want it removed, and 0 collections in %s", err, w.at)
	}
	w.at = ""
	w.write()
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("got %v left (%v), want nothing", left, err)
	}
	if text := w.file.Failure(); text != "" {
		t.Errorf("the failure is %q; want no text", text)
	}
}

// BenchmarkMetrics10000 writes the figures with that many packages in base. These do not
// change; another value does, each time.
func BenchmarkMetrics10000(b *testing.B) {
	w := newWorld(b, filepath.Join(b.TempDir(), "lull.prom"))
	w.Indices.SetBase(rootsOf(storetest.Metas(b, w.Store, "p", 10000)))
	start := time.Now()
	w.write()
	b.ReportMetric(float64(time.Since(start).Milliseconds()), "ms-first")
	for b.Loop() {
		w.file.SectionEnded("refresh", time.Second)
		w.write()
	}
}

func rootsOf(list []digest.Digest) (roots []index.Root) {
	for _, d := range list {
		roots = append(roots, index.Root{Package: d})
	}
	return roots
}
