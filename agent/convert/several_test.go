package convert_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/lull/lull/agent/convert"
	"github.com/lull/lull/e2e/require"
)

// debs makes Debian packages of trees, and opens them.
func debs(t *testing.T, trees ...map[string]string) (files []*os.File) {
	t.Helper()
	require.Program(t, "dpkg-deb")
	for _, content := range trees {
		file := filepath.Join(t.TempDir(), "thing.deb")
		run(t, "dpkg-deb", "--root-owner-group", "-b", tree(t, content), file)
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		files = append(files, f)
	}
	return files
}

// several converts Debian packages into one.
func several(t *testing.T, trees ...map[string]string) *convert.Description {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "package")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	d, err := convert.Run(context.Background(), dir, debs(t, trees...), convert.Options{Program: program(t)})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// control is the control file of a package.
func control(name, more string) string {
	return "Package: " + name + "\nVersion: 1\nArchitecture: all\nMaintainer: A <a@example.org>\nDescription: " + name + "\n" + more
}

// changes is a changelog with one entry.
func changes(name, text string) string {
	return name + " (1) unstable; urgency=medium\n\n  * " + text + "\n\n -- A <a@example.org>  Mon, 01 Jan 2024 00:00:00 +0000\n"
}

// TestSeveralDebs: the first of several packages of Debian describes the whole, an addon's
// metadata do not, and what they need of each other is not missing.
func TestSeveralDebs(t *testing.T) {
	d := several(t, map[string]string{
		"DEBIAN/control":  control("thing", "Depends: an-addon (>= 1), thing-api | other, libc6 (>= 2.34), exim4 | mail-agent\n"),
		"DEBIAN/postinst": "#!/bin/sh\n",
		"usr/bin/thing":   "#!/bin/sh\n",
		"usr/share/metainfo/thing.metainfo.xml":    "<component type='desktop-application'><id>thing</id><project_license>MIT</project_license></component>",
		"usr/share/doc/thing/changelog.Debian":     changes("thing", "Things are better."),
		"usr/share/doc/thing/copyright":            "x",
		"usr/share/applications/thing.desktop":     "[Desktop Entry]\nType=Application\nName=Thing\nExec=thing\n",
		"usr/share/applications/thing-two.desktop": "[Desktop Entry]\nType=Application\nName=Thing Two\nExec=thing --two\n",
	}, map[string]string{
		"DEBIAN/control":  control("an-addon", "Provides: thing-api (= 3), x\nDepends: thing:any, libc6 (>= 2.34)\n"),
		"DEBIAN/postinst": "#!/bin/sh\nadduser x\n",
		"usr/share/doc/an-addon/changelog.Debian":  changes("an-addon", "Of the addon."),
		"usr/share/metainfo/an-addon.metainfo.xml": "<component type='addon'><id>an-addon</id><extends>thing</extends><project_license>GPL-2</project_license></component>",
	})
	if d.Launch.Name != "thing" || d.Launch.License != "MIT" || d.Launch.Notes != "* Things are better." {
		t.Errorf("got the name %q, the license %q and the notes %q, want those of thing", d.Launch.Name, d.Launch.License, d.Launch.Notes)
	}
	if want := []string{"libc6 (>= 2.34)", "exim4 | mail-agent"}; !slices.Equal(d.Needs, want) {
		t.Errorf("it needs %q, want %q", d.Needs, want)
	}
	if want := []string{"postinst", "postinst (it would add a user) of an-addon"}; !slices.Equal(d.Scripts, want) {
		t.Errorf("scripts: got %q, want %q", d.Scripts, want)
	}
}
