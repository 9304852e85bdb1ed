package exports

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull/lull/agent/lib/manifest"
)

// packageOf is a package of one app.
func packageOf(name, app string) *manifest.Launch {
	return &manifest.Launch{Name: name, Apps: []manifest.App{{Name: app, Command: []string{"bin/" + app}}}}
}

func TestShortCommands(t *testing.T) {
	for _, c := range []struct{ instance, app, want string }{
		{"org.xfce.mousepad", "mousepad", "mousepad"},
		{"org.gnome.Maps", "gnome-maps", "Maps gnome-maps"},
		{"org.gnome.TextEditor", "gnome-text-editor", "TextEditor gnome-text-editor"},
		{"org.gimp.GIMP", "gimp", "GIMP gimp"},
		{"org.example.notes", "app", "notes"},
		{"org.example.notes_work", "notes", ""},
		{"mousepad", "app", ""},
	} {
		name, _ := manifest.SplitInstance(c.instance)
		if got := strings.Join(shortCommands(c.instance, packageOf(name, c.app)), " "); got != c.want {
			t.Errorf("%s with the app %s has %q, want %q", c.instance, c.app, got, c.want)
		}
	}
	if got := shortCommands("org.example.library", &manifest.Launch{Name: "org.example.library"}); got != nil {
		t.Errorf("a package without apps: got commands %q, want none", got)
	}
}

// TestShortNamesOfOthers: a short name is given to one instance, keeps its meaning when
// another one comes, is never that of a program of the system, and yields to a whole name.
func TestShortNamesOfOthers(t *testing.T) {
	root, pkg, system := t.TempDir(), t.TempDir(), t.TempDir()
	e := open(t, root)
	e.commands = []string{system}
	install := func(name, app string) {
		t.Helper()
		m := packageOf(name, app)
		if err := errors.Join(e.Claim(name, m, pkg), e.Write(name, m, pkg)); err != nil {
			t.Fatal(err)
		}
	}
	starts := func(command, want string) {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(root, "exports/bin", command))
		_, rest, _ := strings.Cut(string(b), "\ninstance=")
		got, _, _ := strings.Cut(rest, "\n")
		if got != want || err != nil && (want != "" || !errors.Is(err, os.ErrNotExist)) {
			t.Errorf("%s starts %q (%v), want %q", command, got, err, want)
		}
	}
	install("org.xfce.mousepad", "mousepad")
	starts("mousepad", "org.xfce.mousepad")
	install("org.other.mousepad", "mousepad")
	starts("mousepad", "org.xfce.mousepad")
	starts("org.other.mousepad", "org.other.mousepad")

	// A program of the system: not from the next refresh on, and again when it has gone.
	write(t, system+"/mousepad", "#!/bin/sh\n")
	if err := os.Chmod(system+"/mousepad", 0o755); err != nil {
		t.Fatal(err)
	}
	install("org.xfce.mousepad", "mousepad")
	starts("mousepad", "")
	if err := os.Remove(system + "/mousepad"); err != nil {
		t.Fatal(err)
	}
	install("org.other.mousepad", "mousepad")
	starts("mousepad", "org.other.mousepad")

	// A whole name, with an installation that is given up first.
	whole := packageOf("mousepad", "mousepad")
	if err := errors.Join(e.Claim("mousepad", whole, pkg), e.Release("mousepad")); err != nil {
		t.Fatal(err)
	}
	starts("mousepad", "")
	e = open(t, root) // with its records only
	e.commands = []string{system}
	install("org.other.mousepad", "mousepad")
	starts("mousepad", "org.other.mousepad")
	install("mousepad", "mousepad")
	starts("mousepad", "mousepad")
	install("org.other.mousepad", "mousepad")
	starts("mousepad", "mousepad")
	for _, name := range []string{"org.other.mousepad", "org.xfce.mousepad", "mousepad"} {
		if err := e.Remove(name); err != nil {
			t.Error(err)
		}
	}
	if got := files(t, root); strings.Contains(got, "bin/") {
		t.Errorf("after all removals: got %s, want nothing in bin", got)
	}
}
