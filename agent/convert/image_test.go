package convert_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/lull/lull/agent/convert"
	"github.com/lull/lull/e2e/image"
)

// TestImage derives a package from a container image with a system of its own.
func TestImage(t *testing.T) {
	prog := program(t)
	i := image.Image{
		Reference:   "registry.example.org:5000/team/notes:1.5",
		Annotations: map[string]string{"org.opencontainers.image.description": "Writes\nnotes", "org.opencontainers.image.licenses": "MIT"},
		Config: v1.Config{
			Entrypoint: []string{"notes"}, Cmd: []string{"--data", "/srv/notes"}, WorkingDir: "/srv", Volumes: map[string]struct{}{"/data": {}},
			Env: []string{"PATH=/opt/notes/bin:/usr/bin", "HOME=/root", "NOTES_HOME=/srv/notes", "NOTES_MODE=a$b", "PYTHONPATH=/opt/notes:/elsewhere", "DISPLAY=:0", "EMPTY="},
			// As inherited from the image below it.
			Labels: map[string]string{"org.opencontainers.image.version": "22.04", "org.opencontainers.image.title": "Notes"},
		},
		Layers: [][]byte{image.Layer(
			image.Symlink("lib", "usr/lib"), image.File("usr/lib/x86_64-linux-gnu/libc.so.6"), image.File("usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"),
			image.File("usr/lib/x86_64-linux-gnu/libm-2.31.so"), image.File("usr/lib/x86_64-linux-gnu/libcap.so.2"), image.File("usr/lib/notes/libc.so.6"),
			image.Program("usr/bin/ls", "x"), image.File("usr/share/applications/vim.desktop"), image.File("lib64/ld-linux-x86-64.so.2"),
		), image.Layer(image.Program("opt/notes/bin/notes", "#!/bin/sh\n"), image.File("srv/notes/a"), image.File("usr/share/applications/.wh.vim.desktop"))},
	}
	file := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(file, image.Pack(image.Layout(i)), 0o644); err != nil {
		t.Fatal(err)
	}
	d, _, err := convertFile(t, prog, file)
	if err != nil {
		t.Fatal(err)
	}
	got, want := string(convert.LullYAML(&d.Launch)), `name: "Notes"
version: "1.5"
title: "Notes"
summary: "Writes notes"
license: "MIT"
apps:
  - name: "Notes"
    command: ["opt/notes/bin/notes", "--data", "/srv/notes"]
environment:
  NOTES_HOME: "/srv/notes"
  NOTES_MODE: "a$$b"
  PATH:
    prepend:
      - "${package}/opt/notes/bin"
      - "${package}/usr/bin"
root: "."
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	var entries []string
	for _, e := range d.Entries {
		entries = append(entries, e.Path)
	}
	if list := strings.Join(entries, " "); list != "lib lib64/ld-linux-x86-64.so.2 opt/notes/bin/notes srv/notes/a usr/bin/ls usr/lib/notes/libc.so.6 usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 usr/lib/x86_64-linux-gnu/libc.so.6 usr/lib/x86_64-linux-gnu/libcap.so.2 usr/lib/x86_64-linux-gnu/libm-2.31.so usr/share/applications" {
		t.Errorf("the entries are %s, want %q", list, "lib lib64/ld-linux-x86-64.so.2 opt/notes/bin/notes srv/notes/a usr/bin/ls usr/lib/notes/libc.so.6 usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 usr/lib/x86_64-linux-gnu/libc.so.6 usr/lib/x86_64-linux-gnu/libcap.so.2 usr/lib/x86_64-linux-gnu/libm-2.31.so usr/share/applications")
	}
	remarks := strings.Join(d.Remarks, "\n")
	for _, part := range []string{
		`not in "/srv"`, `the volume "/data"`,
		`the variable "PYTHONPATH" of the image is left out`, `the variable "DISPLAY" of the image is left out`,
	} {
		if !strings.Contains(remarks, part) {
			t.Errorf("no remark %q in\n%s", part, remarks)
		}
	}
}
