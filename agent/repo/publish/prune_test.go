package publish_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/publish"
)

// TestPrune: content that no channel and no kept package needs is deleted, and no other. It
// can be re-published.
func TestPrune(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "repo")
	if err := publish.Init(t.Context(), dir, publish.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	put := func(name, version string) digest.Digest {
		t.Helper()
		src := t.TempDir()
		for file, text := range map[string]string{"lull.yaml": "name: " + name + "\nversion: \"" + version + "\"\n", "own": name + version, "shared": "shared"} {
			if err := os.WriteFile(filepath.Join(src, file), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		r, err := publish.Publish(t.Context(), dir, src, publish.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return r.Package
	}
	blobs := func() (n int) {
		t.Helper()
		list, err := filepath.Glob(filepath.Join(dir, "blobs", "*", "*.zst"))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	prune := func(wantChannels, wantBlobs, left int, kept []digest.Digest, names ...string) {
		t.Helper()
		offered := map[string]digest.Digest{}
		p, err := publish.Prune(t.Context(), dir, publish.PruneOptions{Kept: kept, Offered: func(name, channel string, pkg digest.Digest) bool {
			offered[name+"@"+channel] = pkg
			return slices.Contains(names, name)
		}})
		if err != nil || p.Channels != wantChannels || p.Blobs != wantBlobs || blobs() != left {
			t.Errorf("pruned %+v, %v, asked for %v, left %d blobs; want %d channels, %d blobs, %d left", p, err, slices.Sorted(maps.Keys(offered)), blobs(), wantChannels, wantBlobs, left)
		}
	}
	a1, a2, b1 := put("a", "1"), put("a", "2"), put("b", "1")
	if n := blobs(); n != 7 { // three manifests, three own files, and a shared one
		t.Fatalf("%d blobs are published, want 7", n)
	}
	prune(0, 0, 7, []digest.Digest{a1, a2, b1}, "a", "b")
	prune(0, 2, 5, nil, "a", "b")                // version 1 of a
	prune(1, 0, 5, []digest.Digest{b1, a1}, "a") // b is kept by a revision; a1 is not in the repository any more
	prune(0, 2, 3, nil, "a")
	prune(1, 3, 0, nil)
	if list, err := os.ReadDir(filepath.Join(dir, "channels")); err != nil || len(list) != 0 {
		t.Errorf("channels has %v, %v; want no error and 0 of them", list, err)
	}
	if again := put("a", "1"); again != a1 || blobs() != 3 {
		t.Errorf("published again: got %v, %d blobs, want %v and 3", again, blobs(), a1)
	}
}

// TestPruneSystem: the packages of an offered system remain, also if no channel offers them any
// more, and are checked.
func TestPruneSystem(t *testing.T) {
	dir := initRepo(t)
	base, err := nested(t, dir, source(t, map[string]string{"lull.yaml": "name: base\nversion: 1\n", "own": "base 1"}))
	must(t, err)
	image, err := nested(t, dir, source(t, map[string]string{"lull.yaml": "name: image\nversion: 1\n", "own": "image 1"}))
	must(t, err)
	_, err = nested(t, dir, source(t, map[string]string{"lull.yaml": "name: os\nversion: 1\nhooks: {pre-refresh: run}\n", "run*": "#!/bin/sh\n",
		"system.json": `{"version": "1", "images": ["image"], "base": ["base"]}`}))
	must(t, err)
	_, err = publish.Remove(t.Context(), dir, publish.RemoveOptions{ChannelOptions: publish.ChannelOptions{Name: "image"}, All: true})
	must(t, err)
	_, err = nested(t, dir, source(t, map[string]string{"lull.yaml": "name: base\nversion: 2\n", "own": "base 2"}))
	must(t, err)
	p, err := publish.Prune(t.Context(), dir, publish.PruneOptions{Offered: func(string, string, digest.Digest) bool { return true }})
	must(t, err)
	if p.Blobs != 0 {
		t.Errorf("pruned %+v, want no blobs", p)
	}
	checked, err := publish.Check(t.Context(), dir, publish.CheckOptions{})
	must(t, err)
	if checked.Packages != 4 || len(checked.Faults) != 0 {
		t.Errorf("checked %+v, want 4 packages without faults", checked)
	}
	copied := filepath.Join(t.TempDir(), "copy")
	must(t, os.CopyFS(copied, os.DirFS(dir)))
	system := digest.Of([]byte("x")) // found below
	must(t, filepath.WalkDir(filepath.Join(dir, "blobs"), func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name := strings.TrimSuffix(e.Name(), ".zst")
		d, err := digest.Parse(name)
		if err != nil {
			return err
		}
		if text := content(t, open(t, dir), d); strings.Contains(string(text), `"images"`) && strings.Contains(string(text), image.Package.String()) {
			system = d
		}
		return nil
	}))
	must(t, os.Remove(filepath.Join(dir, repo.BlobPath(system))))
	must(t, os.Remove(filepath.Join(dir, repo.BlobPath(base.Package))))
	_, err = publish.Prune(t.Context(), dir, publish.PruneOptions{})
	refusedBy(t, err, "cannot use system.json of os 1")
	checked, err = publish.Check(t.Context(), dir, publish.CheckOptions{From: publish.Directory(copied)})
	must(t, err)
	if checked.Packages != 4 || len(checked.Faults) != 2 || !checked.Faults[0].Mended || !checked.Faults[1].Mended {
		t.Errorf("checked %+v, want 4 packages and 2 mended faults", checked)
	}
}
