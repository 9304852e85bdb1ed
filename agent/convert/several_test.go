package convert_test

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
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
		"DEBIAN/control":                           control("thing", "Depends: an-addon (>= 1), thing-api | other, libc6 (>= 2.34), exim4 | mail-agent\n"),
		"DEBIAN/postinst":                          "#!/bin/sh\n",
		"usr/bin/thing":                            "#!/bin/sh\n",
		"usr/share/metainfo/thing.metainfo.xml":    "<component type='desktop-application'><id>thing</id><project_license>MIT</project_license></component>",
		"usr/share/doc/thing/changelog.Debian":     changes("thing", "Things are better."),
		"usr/share/doc/thing/copyright":            "x",
		"usr/share/applications/thing.desktop":     "[Desktop Entry]\nType=Application\nName=Thing\nExec=thing\n",
		"usr/share/applications/thing-two.desktop": "[Desktop Entry]\nType=Application\nName=Thing Two\nExec=thing --two\n",
	}, map[string]string{
		"DEBIAN/control":                           control("an-addon", "Provides: thing-api (= 3), x\nDepends: thing:any, libc6 (>= 2.34)\n"),
		"DEBIAN/postinst":                          "#!/bin/sh\nadduser x\n",
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

// TestLayoutSymlinks: a symlink that leads out of a directory of the layout finds its target
// there: another directory of the package is added, and what no layout can have is copied.
func TestLayoutSymlinks(t *testing.T) {
	require.Program(t, "dpkg-deb")
	dir := tree(t, map[string]string{
		"DEBIAN/control":           control("thing", ""),
		"usr/bin/thing":            "#!/bin/sh\n. /usr/lib/thing/run.sh\nexec java -cp /usr/share/java/thing.jar Thing\n",
		"usr/share/shared/run.sh":  "exit 0\n",
		"usr/share/java/thing.jar": "x",
		"etc/thing/a.conf":         "a",
		"etc/thing/b/b.conf":       "b",
		"usr/lib/thing/own":        "x",
	})
	for at, to := range map[string]string{
		"usr/lib/thing/run.sh": "../../share/shared/run.sh", "usr/lib/thing/a.conf": "/etc/thing/a.conf", "usr/lib/thing/etc": "../../../etc/thing",
		"usr/lib/thing/same": "own", "usr/lib/thing/host": "../../share/of-the-host", "etc/thing/b/up": "../a.conf",
	} {
		if err := os.Symlink(to, filepath.Join(dir, at)); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(t.TempDir(), "thing.deb")
	run(t, "dpkg-deb", "--root-owner-group", "-b", dir, file)
	d, out, err := convertFile(t, program(t), file)
	if err != nil {
		t.Fatal(err)
	}
	if want := map[string]string{"/usr/lib/thing": "usr/lib/thing", "/usr/share/shared": "usr/share/shared", "/usr/share/java": "usr/share/java"}; !maps.Equal(d.Launch.Layout, want) {
		t.Errorf("layout: got %v, want %v", d.Launch.Layout, want)
	}
	for at, want := range map[string]string{"run.sh": "../../share/shared/run.sh", "same": "own", "host": "../../share/of-the-host"} {
		if got, err := os.Readlink(filepath.Join(out, "usr/lib/thing", at)); got != want {
			t.Errorf("the symlink %s: got %q (%v), want %q", at, got, err, want)
		}
	}
	for at, want := range map[string]string{"a.conf": "a", "etc/a.conf": "a", "etc/b/b.conf": "b"} {
		at = filepath.Join(out, "usr/lib/thing", at)
		fi, err := os.Lstat(at)
		if err != nil || !fi.Mode().IsRegular() {
			t.Errorf("%s: got %v (%v), want a copy", at, fi, err)
		}
		if got, err := os.ReadFile(at); string(got) != want {
			t.Errorf("%s: got %q (%v), want %q", at, got, err, want)
		}
	}
}

// TestProgressOfLargeFile: the progress is that of bytes, also if one file is nearly the whole
// input.
func TestProgressOfLargeFile(t *testing.T) {
	require.Program(t, "zstd", "mksquashfs")
	const size = 32 << 20
	large := make([]byte, size)
	rand.NewChaCha8([32]byte{}).Read(large) // no compressor makes it smaller
	root := tree(t, map[string]string{"AppRun": "#!/bin/sh\n", "notes.desktop": entry, "data": string(large)})
	image, archive := filepath.Join(t.TempDir(), "Notes-1.AppImage"), filepath.Join(t.TempDir(), "notes-1.tar.zst")
	run(t, "mksquashfs", root, image, "-comp", "zstd", "-root-owned", "-quiet", "-no-progress", "-noD", "-offset", "64")
	header := make([]byte, 64)
	copy(header, "\x7fELF\x02\x01\x01\x00AI\x02")
	header[40] = 64 // where its section table would be, which has no entries
	f, err := os.OpenFile(image, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.Write(header)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	run(t, "tar", "-C", root, "--zstd", "-cf", archive, ".")
	converter := program(t)
	for _, file := range []string{image, archive} {
		in, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		dir := filepath.Join(t.TempDir(), "package")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		seen := map[int64]bool{} // eighths of the input
		_, err = convert.Run(t.Context(), dir, []*os.File{in}, convert.Options{Program: converter, Progress: func(done, total int64) {
			seen[8*done/total] = true
		}})
		if err != nil || len(seen) < 7 {
			t.Errorf("%s: got progress in the eighths %v, %v; want at least 7 of them and no error", filepath.Base(file), slices.Sorted(maps.Keys(seen)), err)
		}
	}
}
