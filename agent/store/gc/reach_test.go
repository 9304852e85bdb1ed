package gc

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/index"
	"github.com/lull/lull/agent/store/storetest"
)

// TestReach: content that is reached in several ways counts once, and the
// reached content is what a collection keeps.
func TestReach(t *testing.T) {
	w := newWorld(t)
	gone := digest.Of([]byte("not there"))
	for name, roots := range map[string][]index.Root{
		"nothing":     nil,
		"one":         {installed(w.one)},
		"twice":       {installed(w.two), installed(w.two)},
		"both":        {installed(w.one), installed(w.two)},
		"a sub alone": {installed(w.runtime)},
		"all":         {installed(w.one), installed(w.tool), installed(w.two), installed(w.fonts)},
	} {
		got, err := Reach(context.Background(), w.s, map[string][]index.Root{name: roots})
		if err != nil {
			t.Fatal(err)
		}
		goes := w.plan(t, roots...).keys()
		want := Reached{Whole: true}
		for k := range storetest.Keys(t, w.s) {
			if !goes[k] {
				want.Blobs++
				want.Bytes += int64(len(w.r.Content(k.Digest)))
			}
		}
		for _, u := range w.plan(t, roots...).Packages {
			if u.KeptBy != "" {
				want.Packages++
			}
		}
		if got[name] != want {
			t.Errorf("%s: got %+v, want %+v", name, got[name], want)
		}
	}
	got, err := Reach(context.Background(), w.s, map[string][]index.Root{
		"open":    {{Package: gone}, installed(w.fonts), {Holder: "doubt"}},
		"writing": {installed(w.fonts)},
	})
	if r := got["open"]; err != nil || r.Whole || r.Packages != 2 || r.Blobs != 2 {
		t.Errorf("with a package that is not there: %+v, %v", r, err)
	}
	if r := got["writing"]; !r.Whole || r.Packages != 1 || r.Blobs != 2 {
		t.Errorf("beside a package that is not there: %+v", r)
	}
}

// benchmarkReach has that many packages of twenty files, a quarter of them shared.
func benchmarkReach(b *testing.B, count int) {
	s, r := storetest.Open(b), storetest.New()
	var roots []index.Root
	for p := range count {
		m := &manifest.Meta{Launch: manifest.Launch{Name: fmt.Sprintf("p%d", p), Version: "1"}}
		for i := range 20 {
			text := fmt.Sprintf("%d of %d", i, p)
			if i%4 == 0 {
				text = fmt.Sprintf("%d of all", i)
			}
			m.Entries = append(m.Entries, manifest.Entry{Path: fmt.Sprintf("f%02d", i), Blob: digest.Of([]byte(text)), Size: 8})
		}
		data, err := m.Encode()
		if err != nil {
			b.Fatal(err)
		}
		pkg := r.Add(data)
		if err := os.WriteFile(s.BlobPath(store.MetaKey(pkg)), data, 0o444); err != nil {
			b.Fatal(err)
		}
		roots = append(roots, index.Root{Index: index.InstalledIndex, Package: pkg})
	}
	for b.Loop() {
		got, err := Reach(context.Background(), s, map[string][]index.Root{index.InstalledIndex: roots})
		if err != nil || got[index.InstalledIndex].Blobs != count*16+5 {
			b.Fatal(err, got)
		}
	}
}

func BenchmarkReach100(b *testing.B) { benchmarkReach(b, 100) }

func BenchmarkReach10000(b *testing.B) { benchmarkReach(b, 10000) }
