package badinput_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/rig"
)

// TestNamesThatAreTaken: a package that wants a command, a menu entry or a name of
// another one is refused with the owner's name, before anything changes. Everything else
// on the machine goes on.
func TestNamesThatAreTaken(t *testing.T) {
	s := set(t, rig.Options{})
	publish := func(name, yaml string) {
		t.Helper()
		dir := s.Path("src-" + name)
		for file, text := range map[string]string{
			"lull.yaml": "name: " + name + "\nversion: \"1\"\ndata: {versioned: false}\n" + yaml,
			"bin/a":     "#!/bin/sh\necho " + name + "\n", "bin/b": "#!/bin/sh\necho " + name + "\n",
			"share/same.desktop": "[Desktop Entry]\nType=Application\nName=" + name + "\nExec=a\n",
		} {
			s.no(os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o755))
			s.no(os.WriteFile(filepath.Join(dir, file), []byte(text), 0o755))
		}
		s.Publish(dir)
	}
	publish("foo", "apps: [{name: a, command: bin/a, desktop: share/same.desktop}, {name: bar, command: bin/b}]\n")
	publish("foo.bar", "apps: [{name: a, command: bin/a}]\n")
	publish("menu", "apps: [{name: a, command: bin/a, desktop: share/same.desktop}]\n")
	publish("Foo.Bar2", "apps: [{name: a, command: bin/a}]\n")
	s.MustLull("install", "foo")
	before := s.exported()
	for name, want := range map[string]string{
		"foo.bar": "could not export the command foo.bar of foo.bar: foo has it already",
		"menu":    "could not export the menu entry same.desktop of menu: foo has it already",
	} {
		r := s.Lull("install", name)
		if r.Code != 1 || !strings.Contains(r.Stderr, want) || !strings.Contains(r.Stderr, "hint: remove foo first") {
			t.Errorf("install %s: exit status %d\n%s\nwant 1 and %s", name, r.Code, r.Stderr, want)
		}
		s.UntilIdle()
	}
	if got := s.exported(); got != before {
		t.Errorf("after the refusals:\n%s\nwant\n%s", got, before)
	}
	if out := s.User.Lull("run", "foo").Stdout; out != "foo\n" {
		t.Errorf("foo runs %q, want %q", out, "foo\n")
	}
	// The others are installed, refreshed and removed as before, and so is foo.
	s.MustLull("install", "Foo.Bar2")
	if out := s.User.Lull("run", "Foo.Bar2").Stdout; out != "Foo.Bar2\n" {
		t.Errorf("Foo.Bar2 runs %q, want %q", out, "Foo.Bar2\n")
	}
	s.runs("2.0")
	s.MustLull("remove", "foo")
	s.MustLull("install", "foo.bar", "menu")
	if out := s.User.Lull("run", "foo.bar").Stdout; out != "foo.bar\n" {
		t.Errorf("foo.bar runs %q, want %q", out, "foo.bar\n")
	}
}

// exported lists the exported files with their content.
func (s *scene) exported() string {
	s.t.Helper()
	var b strings.Builder
	s.no(filepath.WalkDir(s.path("exports"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		b.WriteString(path + "\n" + string(content))
		return err
	}))
	return b.String()
}
