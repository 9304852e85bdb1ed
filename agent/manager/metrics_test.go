package manager

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/agent/digest"
	"github.com/lull/lull/agent/index"
	"github.com/lull/lull/agent/meta"
	"github.com/lull/lull/agent/problem"
	"github.com/lull/lull/agent/store"
)

// fill puts metas of that many packages, of twenty files each, into the store, and
// returns their hashes.
func fill(t testing.TB, s *store.Store, prefix string, count int) (list []digest.Digest) {
	t.Helper()
	for p := range count {
		m := &meta.Meta{Launch: meta.Launch{Name: fmt.Sprintf("%s%d", prefix, p), Version: "1"}}
		for i := range 20 {
			m.Entries = append(m.Entries, meta.Entry{Path: fmt.Sprintf("f%02d", i), Blob: digest.Of(fmt.Appendf(nil, "%s %d %d", prefix, p, i)), Size: 10})
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

// figure reads one from the file.
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

// TestMetricsFollow: what has changed is counted again, what has not is not, and
// what would be counted too often is, later.
func TestMetricsFollow(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "lull.prom")
	m := newManager(t, "gc: {reserve: 0}\nmetrics: {textfile: "+path+"}\n")
	w := &metricsWriter{m: m, reached: map[string]reached{}}
	list := fill(t, m.store, "p", 3)
	m.indices.SetBase(rootsOf(list[:1]))
	if again := w.write(); again != 0 {
		t.Errorf("again after %v", again)
	}
	blobs := func(name string) int { return figure(t, path, `lull_index_blobs{index="`+name+`"}`) }
	if n := blobs("base"); n != 21 {
		t.Errorf("%d blobs in base", n)
	}
	if n := figure(t, path, "lull_store_blobs"); n != 3 {
		t.Errorf("%d blobs in the store", n)
	}
	if again := w.write(); again != 0 {
		t.Errorf("nothing has changed: again after %v", again)
	}

	w.walkAfter = time.Now().Add(time.Hour)
	m.indices.SetCache(rootsOf(list))
	if again := w.write(); again < 59*time.Minute || again > time.Hour {
		t.Errorf("too early: again after %v", again)
	}
	if n := blobs("cache"); n != 0 {
		t.Errorf("%d blobs in cache, which were not to be counted yet", n)
	}
	w.walkAfter = time.Time{}
	if again := w.write(); again != 0 {
		t.Errorf("again after %v", again)
	}
	if n := blobs("cache"); n != 63 {
		t.Errorf("%d blobs in cache", n)
	}

	// A package that is being fetched is counted as soon as its meta is there.
	late := fill(t, m.store, "late", 1)[0]
	key := m.store.BlobPath(store.MetaKey(late))
	if err := os.Rename(key, key+"-"); err != nil {
		t.Fatal(err)
	}
	writing := m.indices.BeginWriting(late, "test")
	w.walkAfter = time.Time{}
	w.write()
	if n, p := blobs("writing"), figure(t, path, `lull_index_packages{index="writing"}`); n != 0 || p != 1 {
		t.Errorf("%d blobs of %d packages in writing", n, p)
	}
	if err := os.Rename(key+"-", key); err != nil {
		t.Fatal(err)
	}
	w.walkAfter = time.Time{}
	w.write()
	if n := blobs("writing"); n != 21 {
		t.Errorf("%d blobs in writing", n)
	}
	writing.End()
	w.walkAfter = time.Time{}
	w.write()
	if n := blobs("writing"); n != 0 {
		t.Errorf("%d blobs in writing after its end", n)
	}
	if n := figure(t, path, "lull_store_blobs"); n != 4 {
		t.Errorf("%d blobs in the store", n)
	}

	if _, err := m.Collect(context.Background(), 0); err != nil {
		t.Fatal(err)
	}
	w.walkAfter = time.Time{}
	w.write()
	for name, want := range map[string]int{"lull_collections_total": 1, "lull_collection_last_freed_bytes": 0, "lull_store_blobs": 3, "lull_collection_freed_blobs_total": 1} {
		if n := figure(t, path, name); name == "lull_collection_last_freed_bytes" && n <= 0 || name != "lull_collection_last_freed_bytes" && n != want {
			t.Errorf("%s is %d, want %d", name, n, want)
		}
	}
	w.remove()
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestMetricsNowhere: a folder that is not there stops nothing; the doctor tells,
// and when it is there the file is.
func TestMetricsNowhere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "missing")
	path := filepath.Join(dir, "lull.prom")
	m := newManager(t, "metrics: {textfile: "+path+"}\n")
	w := &metricsWriter{m: m, reached: map[string]reached{}}
	seen := func() (state, text string) {
		m.checkMetrics(func(name, s, seen, advice string) { state, text = s, seen })
		return state, text
	}
	w.write()
	if state, text := seen(); state != checkWarn || !strings.HasPrefix(text, "cannot write the metrics in "+path+": ") {
		t.Errorf("the doctor says %s: %s", state, text)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	w.write()
	if state, _ := seen(); state != checkOK || figure(t, path, "lull_collections_total") != 0 {
		t.Error("it is not written")
	}

	// Another place in the policy, a bad one, none.
	other := filepath.Join(dir, "other.prom")
	set := func(text string) error {
		if err := os.WriteFile(m.policyFile(), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		err := m.Reload()
		w.write()
		return err
	}
	if err := set("metrics: {textfile: " + other + "}\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) || figure(t, other, "lull_collections_total") != 0 {
		t.Errorf("it has not moved: %v", err)
	}
	if err := set("metrics: {textfile: lull.prom}\n"); !problem.Is(err, problem.BadPolicy) || figure(t, other, "lull_collections_total") != 0 {
		t.Errorf("a bad policy changes something: %v", err)
	}
	if err := set(""); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if state, text := seen(); state != "" {
		t.Errorf("the doctor says %s: %s", state, text)
	}
}

// BenchmarkMetrics10000 writes them with that many packages in base, of which nothing
// has changed; something else has, each time.
func BenchmarkMetrics10000(b *testing.B) {
	m := newManager(b, "gc: {reserve: 0}\nmetrics: {textfile: "+filepath.Join(b.TempDir(), "lull.prom")+"}\n")
	m.indices.SetBase(rootsOf(fill(b, m.store, "p", 10000)))
	w := &metricsWriter{m: m, reached: map[string]reached{}}
	start := time.Now()
	w.write()
	b.ReportMetric(float64(time.Since(start).Milliseconds()), "ms-first")
	for b.Loop() {
		m.figures.metrics.HeldOff("refresh", time.Second)
		w.write()
	}
}

func rootsOf(list []digest.Digest) (roots []index.Root) {
	for _, d := range list {
		roots = append(roots, index.Root{Package: d})
	}
	return roots
}
