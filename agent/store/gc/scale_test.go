package gc

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"testing"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/index"
	"github.com/lull/lull/agent/store/storetest"
)

// million makes a store with the names of that many blobs, in packages of
// 10,000, which are not materialised. Most names are links to one file.
func million(b *testing.B, blobs int) (*store.Store, []index.Root) {
	s, r := storetest.Open(b), storetest.New()
	var roots []index.Root
	seed := ""
	links := 0
	for p := range blobs / 10000 {
		m := &manifest.Meta{Launch: manifest.Launch{Name: fmt.Sprintf("p%d", p), Version: "1"}}
		for i := range 10000 {
			d := digest.Of(binary.BigEndian.AppendUint64(nil, uint64(p*10000+i)))
			m.Entries = append(m.Entries, manifest.Entry{Path: fmt.Sprintf("d%d/f%d", i/100, i), Blob: d, Size: 8})
			path := s.BlobPath(store.Key{Digest: d})
			var err error
			if links%50000 == 0 {
				seed = path
				err = os.WriteFile(path, nil, 0o444)
			} else {
				err = os.Link(seed, path)
			}
			links++
			if err != nil {
				b.Fatal(err)
			}
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
	return s, roots
}

// benchmarkMark plans with every tenth package unprotected.
func benchmarkMark(b *testing.B, blobs int) {
	s, roots := million(b, blobs)
	var kept []index.Root
	for i, r := range roots {
		if i%10 != 0 {
			kept = append(kept, r)
		}
	}
	for b.Loop() {
		p, err := MakePlan(context.Background(), s, kept)
		if err != nil || len(p.Blobs) != (blobs+9999)/100000*10001 {
			b.Fatal(err, len(p.Blobs))
		}
	}
}

func BenchmarkMark100000(b *testing.B) { benchmarkMark(b, 100000) }

func BenchmarkMark1000000(b *testing.B) { benchmarkMark(b, 1000000) }
