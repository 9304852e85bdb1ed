package publish_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/lull/lull/agent/repo/publish"
)

// TestConsume: the files of a source are deleted when they are published, those of a source
// that it names by its path are not.
func TestConsume(t *testing.T) {
	dir := initRepo(t)
	other := source(t, map[string]string{"lull.yaml": "name: b\nversion: 1\n", "data": "other"})
	src := source(t, map[string]string{"share/data": "mine", "bin/a*": "#!/bin/sh\n"})
	rel, err := filepath.Rel(src, other)
	must(t, err)
	must(t, os.WriteFile(src+"/lull.yaml", []byte("name: a\nversion: 1\nsubpackages: {b: "+rel+"}\n"), 0o644))
	res, err := publish.Publish(t.Context(), dir, src, publish.Options{Consume: true, Nested: true})
	must(t, err)
	for path, want := range map[string]bool{src + "/share/data": false, src + "/bin/a": false, other + "/data": true} {
		if _, err := os.Stat(filepath.FromSlash(path)); (err == nil) != want {
			t.Errorf("%s: got %v, want that it exists: %v", path, err, want)
		}
	}
	if m := readMeta(t, open(t, dir), res.Package); len(m.Entries) != 2 || len(m.Subpackages) != 1 {
		t.Errorf("got the entries %v and subpackages %v, want two and one", m.Entries, m.Subpackages)
	}
}
