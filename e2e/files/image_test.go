package files_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/lull/lull/e2e/image"
	"github.com/lull/lull/e2e/rig"
)

// notesImage is an image with the program of tarball.
func notesImage(version string) image.Image {
	script := fmt.Sprintf("#!/bin/sh\necho notes %s\n[ $# = 0 ] || exec \"$@\"\n", version)
	return image.Image{Reference: "example.org/notes:" + version, Config: v1.Config{Entrypoint: []string{"/usr/local/bin/notes"}},
		Layers: [][]byte{image.Layer(image.Program("usr/local/bin/notes", script), image.File("old")), image.Layer(image.File(".wh.old"))}}
}

// TestImage: a container image is installed from an OCI layout, refreshed from what `docker
// save` writes, run once, reverted, removed and collected.
func TestImage(t *testing.T) {
	s := set(t, rig.Options{})
	layout, saved := s.Path("layout"), s.Path("notes.tar")
	for name, content := range image.Layout(notesImage("1.0")) {
		full := filepath.Join(layout, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(saved, image.Pack(image.Saved(notesImage("2.0"))), 0o644); err != nil {
		t.Fatal(err)
	}
	if r := s.MustLull("install", layout); !strings.Contains(r.Stdout, "notes 1.0 is installed") {
		t.Errorf("got %v, want %q in the output", r, "notes 1.0 is installed")
	}
	s.runs("1.0")
	if _, err := os.Lstat(filepath.Join(s.Store, "current", notes, "old")); !os.IsNotExist(err) {
		t.Errorf("a whiteout has no effect: %v", err)
	}
	if r := s.Lull("run", "--ephemeral", saved); r.Code != 0 || r.Stdout != "notes 2.0\n" {
		t.Errorf("got %v, want exit status 0 and output %q", r, "notes 2.0\n")
	}
	run := s.User.StartLull(nil, "run", notes, "sleep", "infinity")
	s.Until("it runs", limit, func() (bool, string) {
		p, _ := s.API.Package(notes)
		running, _ := p.Props["Running"].Value().(bool)
		return running, run.Log()
	})
	s.refused(75, "is running", "install", saved)
	run.Stop()
	s.Until("it is refreshed", limit, func() (bool, string) {
		p, _ := s.API.Package(notes)
		return p.Str("Version") == "2.0", p.Str("Version")
	})
	s.runs("2.0")
	s.MustLull("revert", notes)
	s.runs("1.0")

	repo := s.Path("published")
	s.MustLull("repo", "init", repo)
	s.MustLull("publish", saved, "--repo", repo)
	damaged := s.Path("damaged.tar")
	files := image.Saved(notesImage("3.0"))
	for name, content := range files {
		if strings.HasSuffix(name, "layer.tar") {
			files[name] = []byte(strings.ReplaceAll(string(content), "echo notes", "echo hello"))
		}
	}
	if err := os.WriteFile(damaged, image.Pack(files), 0o644); err != nil {
		t.Fatal(err)
	}
	s.refused(65, "layer 1: its content has the digest", "install", damaged)
	s.MustLull("remove", notes)
	s.MustLull("gc")
	if n := s.blobs(); n != 0 {
		t.Errorf("the repository has %d blobs after the removal, want 0", n)
	}
	s.clean()
}
