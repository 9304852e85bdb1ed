package publish_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/lull/lull/agent/delta"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/publish"
)

// version is a source whose large file differs from that of the other versions in a few bytes.
func version(t *testing.T, n string) string {
	b := make([]byte, 200<<10)
	rand.New(rand.NewSource(1)).Read(b)
	content := string(b[:50<<10]) + "version " + n + string(b[50<<10:])
	return source(t, map[string]string{"lull.yaml": "name: app\nversion: \"" + n + "\"\n", "big": content, "same": "same"})
}

// decoded returns the files of a pack, made from a repository's blobs.
func decoded(t *testing.T, c *repo.Client, o delta.Offer) map[digest.Digest][]byte {
	t.Helper()
	blob := func(d digest.Digest) []byte {
		r, err := c.Blob(t.Context(), d, 0)
		must(t, err)
		defer r.Close()
		b, err := io.ReadAll(r)
		must(t, err)
		return b
	}
	pack := blob(o.Pack)
	if int64(len(pack)) != o.Size || digest.Of(pack) != o.Pack {
		t.Errorf("the pack has %d bytes, want %d", len(pack), o.Size)
	}
	if o.Format != delta.Format {
		t.Errorf("the offer names format %d, want %d", o.Format, delta.Format)
	}
	p, err := delta.Open(bytes.NewReader(pack), o.Size)
	must(t, err)
	made := map[digest.Digest][]byte{}
	must(t, p.Decode(t.Context(),
		func(f delta.File) (io.ReaderAt, error) { return bytes.NewReader(blob(f.Digest)), nil },
		func(f delta.File) (io.WriteCloser, error) {
			return &buffer{done: func(b []byte) { made[f.Digest] = b }}, nil
		}))
	return made
}

type buffer struct {
	bytes.Buffer
	done func([]byte)
}

func (b *buffer) Close() error { b.done(b.Bytes()); return nil }

// served opens a repository by HTTP.
func served(t *testing.T, dir string) *repo.Client {
	t.Helper()
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(server.Close)
	root, err := os.ReadFile(filepath.Join(dir, "root.json"))
	must(t, err)
	c, err := repo.Open(repo.Config{Name: "main", URL: server.URL, Root: root}, t.TempDir())
	must(t, err)
	t.Cleanup(c.Close)
	return c
}

// makeDeltas makes the deltas of a publication, and adds them to its result.
func makeDeltas(t *testing.T, dir string, r *publish.Result) {
	t.Helper()
	made, err := publish.MakeDeltas(t.Context(), dir, publish.DeltaOptions{})
	must(t, err)
	for _, m := range made {
		if m.Package == r.Package && m.Channel == r.Channel {
			r.Deltas = m.Deltas
		}
	}
	if left := requests(t, dir); len(left) > 0 {
		t.Errorf("requests are left: %q", left)
	}
}

func requests(t *testing.T, dir string) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, "deltas", "requests", "*"))
	must(t, err)
	return list
}

// TestWholePack: one pack has all files of a package with its subpackages.
func TestWholePack(t *testing.T) {
	dir := initRepo(t)
	files := map[string]string{"lull.yaml": "name: app\nversion: \"1\"\n"}
	for i := range 200 {
		files[fmt.Sprintf("d/f%d", i)] = fmt.Sprintf("the content of file %d, which is like that of the others", i)
	}
	r, err := publish.Publish(t.Context(), dir, source(t, files), publish.Options{WholePack: true})
	must(t, err)
	makeDeltas(t, dir, r)
	if len(r.Deltas) != 1 || !r.Deltas[0].From.IsZero() {
		t.Fatalf("got deltas %v, want one from no version", r.Deltas)
	}
	c := served(t, dir)
	must(t, c.Update(t.Context()))
	_, err = c.Offers(t.Context(), "app", "stable")
	must(t, err)
	if signed := c.Deltas(r.Package); len(signed) != 1 || len(decoded(t, c, signed[0])) != 201 {
		t.Errorf("signed %v; want 1 signed and 201 of them", signed)
	}
	if local := open(t, dir); len(local.Deltas(r.Package)) > 0 {
		t.Error("a local repository offers packs")
	}
}

// TestDeltas: packs lead to a new version from the last ones of its channel, in an order and
// with content that do not depend on how often they are made.
func TestDeltas(t *testing.T) {
	dir := initRepo(t)
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	put := func(n string, from int) *publish.Result {
		t.Helper()
		now = now.Add(time.Hour)
		r, err := publish.Publish(t.Context(), dir, version(t, n), publish.Options{DeltasFrom: from, Common: publish.Common{Now: now}})
		must(t, err)
		makeDeltas(t, dir, r)
		return r
	}
	one, two := put("1", 3), put("2", 3)
	if len(one.Deltas) != 0 || len(two.Deltas) != 1 || two.Deltas[0].From != one.Package {
		t.Fatalf("deltas %v, %v; want 0 deltas, 1 deltas and from %v", one.Deltas, two.Deltas, one.Package)
	}
	put("3", 0)
	four := put("4", 2)
	if len(four.Deltas) != 2 || four.Deltas[1].From != two.Package {
		t.Errorf("deltas %v; want 2 deltas and from %v", four.Deltas, two.Package)
	}
	c := served(t, dir)
	must(t, c.Update(t.Context()))
	_, err := c.Offers(t.Context(), "app", "stable")
	must(t, err)
	signed := c.Deltas(four.Package)
	if len(signed) != 2 || signed[0] != four.Deltas[0] {
		t.Fatalf("signed %v, want %v", signed, four.Deltas)
	}
	m := readMeta(t, c, four.Package)
	for _, o := range signed {
		if o.Size > 5000 || o.Replaces < 200<<10 {
			t.Errorf("%d bytes instead of %d", o.Size, o.Replaces)
		}
		made := decoded(t, c, o)
		if len(made) != 2 || made[four.Package] == nil {
			t.Errorf("the pack has %d files, want 2 with the manifest %s", len(made), four.Package)
		}
		for d, b := range made {
			if digest.Of(b) != d {
				t.Errorf("the pack has the content of %s under the name %s, want its hash", digest.Of(b), d)
			}
		}
	}
	if len(m.Entries) != 2 {
		t.Errorf("entries %v; want 2 entries", m.Entries)
	}
	checked, err := publish.Check(t.Context(), dir, publish.CheckOptions{})
	must(t, err)
	if len(checked.Faults) > 0 {
		t.Errorf("got faults %v, want none", checked.Faults)
	}
	// The notes save the work.
	notes, err := filepath.Glob(filepath.Join(dir, "deltas", "*.json"))
	must(t, err)
	if len(notes) != 3 {
		t.Errorf("%d notes, want 3", len(notes))
	}
	if again := put("4", 2); again.Deltas[0] != four.Deltas[0] || again.NewBlobs != 0 {
		t.Errorf("published again: got deltas %v, %d new blobs; want the first to be %v, and no new blobs", again.Deltas, again.NewBlobs, four.Deltas[0])
	}
	for _, n := range notes {
		must(t, os.Remove(n))
	}
	if again := put("4", 2); again.Deltas[0] != four.Deltas[0] || again.Deltas[1] != four.Deltas[1] {
		t.Errorf("made again: %v, want %v", again.Deltas, four.Deltas)
	}
	// What is offered stays.
	_, err = publish.Prune(t.Context(), dir, publish.PruneOptions{Common: publish.Common{Now: now}})
	must(t, err)
	c = open(t, dir)
	must(t, c.Update(t.Context()))
	list, err := c.Offers(t.Context(), "app", "stable")
	must(t, err)
	for _, o := range list[0].Deltas {
		r, err := c.Blob(t.Context(), o.Pack, 0)
		must(t, err)
		r.Close()
	}
	checked, err = publish.Check(t.Context(), dir, publish.CheckOptions{})
	must(t, err)
	if len(checked.Faults) > 0 {
		t.Errorf("after a prune: got faults %v, want none", checked.Faults)
	}
	if len(list[0].Deltas) != 2 {
		t.Errorf("offers %v; want 2 deltas", list)
	}
	missing := filepath.Join(dir, repo.BlobPath(list[0].Deltas[0].Pack))
	must(t, os.Remove(missing))
	checked, err = publish.Check(t.Context(), dir, publish.CheckOptions{})
	must(t, err)
	if len(checked.Faults) != 1 {
		t.Errorf("faults without a pack: %v", checked.Faults)
	}
}
