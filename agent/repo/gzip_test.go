package repo_test

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/lull/lull/agent/lib/errkind"
)

// zipping serves files compressed to clients that accept it, as nginx does with gzip on, or
// the content of instead in their place.
func zipping(dir string, instead []byte) http.HandlerFunc {
	// Compressed before the transfer, whose time is bounded.
	var zipped []byte
	if instead != nil {
		zipped = gzipped(instead)
	}
	return func(w http.ResponseWriter, r *http.Request) {
		data, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(r.URL.Path)))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") || strings.HasPrefix(r.URL.Path, "/blobs/") {
			http.ServeFileFS(w, r, os.DirFS(dir), strings.TrimPrefix(r.URL.Path, "/"))
			return
		}
		w.Header().Set("Content-Encoding", "gzip")
		if zipped != nil {
			_, _ = w.Write(zipped)
			return
		}
		_, _ = w.Write(gzipped(data))
	}
}

func gzipped(data []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write(data) // a buffer takes everything
	_ = z.Close()
	return b.Bytes()
}

// TestCompressedOnTheWire: metadata and pointers may be compressed. Their expanded form is
// bounded and checked as before.
func TestCompressedOnTheWire(t *testing.T) {
	f := binnedFixture(t)
	h := zipping(f.dir, nil)
	var compressed atomic.Int32
	c := f.client(f.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h(w, r); w.Header().Get("Content-Encoding") == "gzip" {
			compressed.Add(1)
		}
	})), t.TempDir())
	if err := install(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if n := compressed.Load(); n != 5 { // timestamp, snapshot, targets, a bin, a pointer
		t.Errorf("%d files came compressed, want 5", n)
	}
	for name, bad := range map[string]struct {
		instead []byte
		kind    errkind.Kind
		want    string
	}{
		"a bomb":     {make([]byte, 64<<20), errkind.Untrusted, "it is too large"},
		"a web page": {[]byte(portal), errkind.Unavailable, "a web page came back instead"},
		"garbage":    {[]byte("garbage"), errkind.Untrusted, "it is garbage"},
	} {
		err := f.client(f.serve(zipping(f.dir, bad.instead)), t.TempDir()).Update(t.Context())
		if !errkind.Is(err, bad.kind) || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s: %s: %v; want an error of kind %v and %q in the error", name, errkind.KindOf(err), err, bad.kind, bad.want)
		}
	}
	broken := func(body []byte) error {
		return f.client(f.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/metadata/timestamp.json" {
				http.NotFound(w, r)
				return
			}
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(body)
		})), t.TempDir()).Update(t.Context())
	}
	whole := gzipped(f.read("metadata/timestamp.json"))
	for name, body := range map[string][]byte{"not compressed": []byte("{}"), "cut": whole[:len(whole)/2]} {
		if err := broken(body); !errkind.Is(err, errkind.Unavailable) {
			t.Errorf("%s: %s: %v; want an error of kind %v", name, errkind.KindOf(err), err, errkind.Unavailable)
		}
	}
}
