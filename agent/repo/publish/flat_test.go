package publish_test

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/publish"
)

// flattened makes a repository as lull made it before blobs were in 256 directories: nothing in
// its targets says so.
func flattened(t *testing.T) (dir string) {
	t.Helper()
	dir = initRepo(t)
	path := filepath.Join(dir, "metadata", "1.targets.json")
	targets, err := metadata.Targets().FromFile(path)
	must(t, err)
	delete(targets.Signed.UnrecognizedFields, repo.Layout)
	text, err := os.ReadFile(filepath.Join(dir+".keys", "targets.pem"))
	must(t, err)
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	must(t, err)
	signer, err := signature.LoadSigner(key, crypto.Hash(0))
	must(t, err)
	targets.ClearSignatures()
	_, err = targets.Sign(signer)
	must(t, err)
	must(t, targets.ToFile(path, false))
	return dir
}

// TestFlatLayout: a repository of an earlier lull keeps its layout, for publishers and readers.
func TestFlatLayout(t *testing.T) {
	dir := flattened(t)
	src := map[string]string{"lull.yaml": "name: a\nversion: 1\n", "own": "own 1"}
	first, err := publish.Publish(t.Context(), dir, source(t, src), publish.Options{})
	must(t, err)
	blobs := func(pattern string) int {
		list, err := filepath.Glob(filepath.Join(dir, "blobs", pattern))
		must(t, err)
		return len(list)
	}
	if flat, fanned := blobs("*.zst"), blobs("*/*.zst"); flat != 2 || fanned != 0 {
		t.Fatalf("%d blobs in one directory and %d in others, want 2 and 0", flat, fanned)
	}
	c := open(t, dir)
	m := readMeta(t, c, first.Package)
	if got := string(content(t, c, m.Blobs()[0].Digest)); got != "own 1" {
		t.Errorf("the content is %q, want %q", got, "own 1")
	}
	src["lull.yaml"], src["own"] = "name: a\nversion: 2\n", "own 2"
	_, err = publish.Publish(t.Context(), dir, source(t, src), publish.Options{Common: publish.Common{Now: time.Now().Add(time.Hour)}})
	must(t, err)
	copied := filepath.Join(t.TempDir(), "copy")
	must(t, os.CopyFS(copied, os.DirFS(dir)))
	gone := repo.FlatPath(repo.BlobPath(first.Package))
	must(t, os.Remove(filepath.Join(dir, gone)))
	r, err := publish.Check(t.Context(), dir, publish.CheckOptions{From: publish.Directory(copied)})
	must(t, err)
	if len(r.Faults) != 1 || r.Faults[0] != (publish.Fault{Path: gone, Error: "missing", Mended: true}) || r.Unused != 1 {
		t.Errorf("checked: %+v, want %s mended, and the first offer unused", r, gone)
	}
	_, err = publish.Remove(t.Context(), dir, publish.RemoveOptions{ChannelOptions: publish.ChannelOptions{Name: "a"}, All: true})
	must(t, err)
	p, err := publish.Prune(t.Context(), dir, publish.PruneOptions{})
	must(t, err)
	if p.Blobs != 4 || blobs("*") != 0 {
		t.Errorf("pruned %+v, %d are left, want 4 and 0", p, blobs("*"))
	}
}

// TestFanLayout: the blobs of a new repository are in directories named by their first digits.
func TestFanLayout(t *testing.T) {
	dir := initRepo(t)
	_, err := publish.Publish(t.Context(), dir, source(t, map[string]string{"lull.yaml": "name: a\nversion: 1\n", "own": "own 1"}), publish.Options{})
	must(t, err)
	list, err := filepath.Glob(filepath.Join(dir, "blobs", "*", "*"))
	must(t, err)
	if len(list) != 2 {
		t.Errorf("the blobs are %q, want two", list)
	}
	for _, path := range list {
		if name := filepath.Base(path); !strings.HasPrefix(name, filepath.Base(filepath.Dir(path))) {
			t.Errorf("%s is in a directory of another name", path)
		}
	}
}
