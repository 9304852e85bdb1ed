package exports

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/lull/lull/agent/meta"
)

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func files(t *testing.T, root string) string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(root, p)
			list = append(list, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(list, " ")
}

func TestExportsFollowThePackage(t *testing.T) {
	root, pkg := t.TempDir(), t.TempDir()
	write(t, pkg+"/notes.desktop", "[Desktop Entry]\nName=Notes\nTryExec=notes\nExec=notes --new %U\nIcon=notes\n\n[Desktop Action x]\nExec=notes\n")
	write(t, pkg+"/share/notes.svg", "<svg/>")
	e, err := Open(root, "/run/x", "/usr/libexec/lull/lull-run")
	if err != nil {
		t.Fatal(err)
	}
	l := &meta.Launch{Name: "notes", Icon: "share/notes.svg", Apps: []meta.App{
		{Name: "notes", Command: []string{"bin/notes"}, Desktop: "notes.desktop"}, {Name: "export", Command: []string{"bin/export"}}}}
	if err := e.Write("notes_two", l, pkg); err != nil {
		t.Fatal(err)
	}
	if got, want := files(t, root), "exports/bin/notes_two exports/bin/notes_two.export exports/share/applications/notes_two.desktop exports/share/icons/notes_two.svg"; got != want {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
	wrapper, _ := os.ReadFile(root + "/exports/bin/notes_two")
	if want := "#!/usr/libexec/lull/lull-run --wrapper\ninstance=notes_two\napp=notes\nroot=" + root + "\nrun-dir=/run/x\n"; string(wrapper) != want {
		t.Fatalf("wrapper:\n%s", wrapper)
	}
	desktop, _ := os.ReadFile(root + "/exports/share/applications/notes_two.desktop")
	want := "[Desktop Entry]\nX-Lull-Instance=notes_two\nName=Notes\nExec=" + root + "/exports/bin/notes_two --new %U\nIcon=" + root +
		"/exports/share/icons/notes_two.svg\n\n[Desktop Action x]\nExec=" + root + "/exports/bin/notes_two\n"
	if string(desktop) != want {
		t.Fatalf("desktop file:\n%s", desktop)
	}

	// Another instance, whose name begins alike, keeps its files; what the new revision lacks goes.
	if err := e.Write("notes", l, pkg); err != nil {
		t.Fatal(err)
	}
	before, _ := os.Stat(root + "/exports/bin/notes_two")
	l.Apps, l.Icon = l.Apps[:1], "notes"
	l.Apps[0].Desktop = ""
	if err := e.Write("notes_two", l, pkg); err != nil {
		t.Fatal(err)
	}
	if got, want := files(t, root), "exports/bin/notes exports/bin/notes.export exports/bin/notes_two exports/share/applications/notes.desktop exports/share/icons/notes.svg"; got != want {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
	if after, _ := os.Stat(root + "/exports/bin/notes_two"); !os.SameFile(before, after) {
		t.Error("a wrapper that stays the same was replaced")
	}
	if err := e.Remove("notes"); err != nil {
		t.Fatal(err)
	}
	if got := files(t, root); got != "exports/bin/notes_two" {
		t.Fatal(got)
	}
}

func TestExportDoesNotLeaveThePackage(t *testing.T) {
	root, pkg, outside := t.TempDir(), t.TempDir(), t.TempDir()
	write(t, outside+"/secret", "s")
	if err := os.Symlink(outside+"/secret", pkg+"/x.desktop"); err != nil {
		t.Fatal(err)
	}
	e, err := Open(root, "/run/x", "/l")
	if err != nil {
		t.Fatal(err)
	}
	l := &meta.Launch{Name: "x", Apps: []meta.App{{Name: "x", Command: []string{"x"}, Desktop: "x.desktop"}}}
	if err := e.Write("x", l, pkg); err == nil {
		t.Fatal("a link out of the package was followed")
	}
}

// TestInstancesBesideEachOther: what one instance exports comes and goes while
// others are looked through.
func TestInstancesBesideEachOther(t *testing.T) {
	e, err := Open(t.TempDir(), "/run/x", "/usr/libexec/lull/lull-run")
	if err != nil {
		t.Fatal(err)
	}
	l := &meta.Launch{Name: "notes", Apps: []meta.App{{Name: "notes", Command: []string{"bin/notes"}}}}
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			name := fmt.Sprintf("notes_%d", i)
			for range 50 {
				if err := e.Write(name, l, "/nowhere"); err != nil {
					t.Error(err)
					return
				}
				if err := e.Remove(name); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	if got := files(t, e.root); got != "" {
		t.Errorf("left: %s", got)
	}
}
