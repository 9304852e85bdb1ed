package publish_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo/publish"
)

// A lost or damaged timestamp is rebuilt with the whole publication, and readers that have
// seen the one before accept it.
func TestResignMendsTimestamp(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, path string){
		"lost":      func(t *testing.T, path string) { must(t, os.Remove(path)) },
		"truncated": func(t *testing.T, path string) { must(t, os.Truncate(path, 100)) },
		"empty":     func(t *testing.T, path string) { must(t, os.Truncate(path, 0)) },
		"garbage":   func(t *testing.T, path string) { must(t, os.WriteFile(path, []byte("\x00\x01"), 0o644)) },
	} {
		for _, noted := range []bool{true, false} { // false means that an older lull published it
			dir := initRepo(t)
			src := source(t, map[string]string{"lull.yaml": tiny, "f": "1"})
			_, err := publish.Publish(t.Context(), dir, src, publish.Options{})
			must(t, err)
			for range 3 { // its version is ahead of the rest
				must(t, publish.Resign(t.Context(), dir, publish.ResignOptions{}))
			}
			c := open(t, dir)
			must(t, c.Update(t.Context()))
			if !noted {
				must(t, os.Remove(dir+".keys/signed.json"))
			}
			damage(t, dir+"/metadata/timestamp.json")
			if _, err := publish.Publish(t.Context(), dir, src, publish.Options{}); !errkind.Is(err, errkind.Invalid) || !strings.Contains(errkind.HintOf(err), "lull repo resign") {
				t.Errorf("%s: publish: %v (%s)", name, err, errkind.HintOf(err))
			}
			if err := publish.Init(t.Context(), dir, publish.InitOptions{UseKeys: true}); !errkind.Is(err, errkind.Exists) || !strings.Contains(errkind.HintOf(err), "lull repo resign") {
				t.Errorf("%s: init: %v; want an error of kind %v and %q", name, err, errkind.Exists, "lull repo resign")
			}
			must(t, publish.Resign(t.Context(), dir, publish.ResignOptions{}))
			if err := c.Update(t.Context()); err != nil {
				t.Errorf("%s, noted %v: a reader: %v", name, noted, err)
			}
			if p, err := c.Channel(t.Context(), "a", "stable"); err != nil || p.Version != "1" {
				t.Errorf("%s: %v, %v; want no error and version %q", name, p, err, "1")
			}
			_, err = publish.Publish(t.Context(), dir, src, publish.Options{})
			must(t, err)
			must(t, c.Update(t.Context()))
		}
	}
}

// Write access to the web server is not enough to get an older state signed as the newest, by
// deletion of the newer one.
func TestResignDoesNotRollBack(t *testing.T) {
	dir := initRepo(t)
	src := source(t, map[string]string{"lull.yaml": tiny, "f": "1"})
	_, err := publish.Publish(t.Context(), dir, src, publish.Options{})
	must(t, err)
	must(t, os.Remove(dir+"/metadata/timestamp.json"))
	must(t, os.Remove(dir+"/metadata/2.snapshot.json"))
	if err := publish.Resign(t.Context(), dir, publish.ResignOptions{}); !errkind.Is(err, errkind.Untrusted) || !strings.Contains(err.Error(), "version 2 of its snapshot was signed") {
		t.Errorf("got %v, want an error of kind %v and %q in the error", err, errkind.Untrusted, "version 2 of its snapshot was signed")
	}
	all, err := filepath.Glob(dir + "/metadata/*.snapshot.json")
	must(t, err)
	for _, f := range all {
		must(t, os.Remove(f))
	}
	if err := publish.Resign(t.Context(), dir, publish.ResignOptions{}); !errkind.Is(err, errkind.Invalid) {
		t.Errorf("got %v, want an error of kind %v", err, errkind.Invalid)
	}
}

func TestInitRefusesWhatIsThere(t *testing.T) {
	for name, make := range map[string]func(dir string){
		"metadata": func(dir string) { must(t, os.RemoveAll(dir+"/channels")); must(t, os.RemoveAll(dir+".keys")) },
		"channels": func(dir string) {
			must(t, os.RemoveAll(dir+"/metadata"))
			must(t, os.RemoveAll(dir+".keys"))
			must(t, os.MkdirAll(dir+"/channels/x", 0o755))
		},
		"keys": func(dir string) { must(t, os.RemoveAll(dir)) },
	} {
		dir := initRepo(t)
		make(dir)
		err := publish.Init(t.Context(), dir, publish.InitOptions{})
		if !errkind.Is(err, errkind.Exists) || !strings.Contains(err.Error(), name) || errkind.HintOf(err) == "" {
			t.Errorf("%s: got %v with hint %q, want an error of kind %v that names it, with a hint", name, err, errkind.HintOf(err), errkind.Exists)
		}
	}
	dir := initRepo(t)
	must(t, os.RemoveAll(dir))
	must(t, publish.Init(t.Context(), dir, publish.InitOptions{UseKeys: true}))
	must(t, open(t, dir).Update(t.Context()))
}
