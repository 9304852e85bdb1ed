package exports

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
)

// entry is a desktop file that starts program.
func entry(program string) string {
	return "[Desktop Entry]\nType=Application\nName=Notes\nExec=" + program + "\n"
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func open(t *testing.T, root string) *Exports {
	t.Helper()
	e, err := Open(root, "/run/x", "/usr/libexec/lull/lull-run")
	if err != nil {
		t.Fatal(err)
	}
	e.commands = nil // this machine's are not the test's
	return e
}

// files lists the exported files, without owners/ and relative to exports/.
func files(t *testing.T, root string) string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(filepath.Join(root, "exports"), func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(filepath.Join(root, "exports"), p)
			if !strings.HasPrefix(rel, "owners/") {
				list = append(list, rel)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(list, " ")
}

// mapsPackage returns a package with every kind of export.
func mapsPackage(t *testing.T) (*manifest.Launch, string) {
	t.Helper()
	pkg := t.TempDir()
	write(t, pkg+"/share/org.gnome.Maps.desktop", "[Desktop Entry]\nType=Application\nName=Maps\nName[de]=Karten\nTryExec=maps\nExec=env A=b maps --new %U\nIcon=maps\n"+
		"MimeType=application/gpx+xml;x-scheme-handler/geo;\nDBusActivatable=true\nActions=export;\n\n[Desktop Action export]\nName=Export\nExec=/usr/bin/export-map\n")
	write(t, pkg+"/share/org.gnome.Maps.service", "[D-BUS Service]\nName=org.gnome.Maps\nExec=/usr/bin/maps --gapplication-service\nSystemdService=maps.service\n")
	write(t, pkg+"/etc/maps-watch.desktop", entry("maps --watch"))
	write(t, pkg+"/share/maps.svg", "<svg/>")
	return &manifest.Launch{Name: "org.gnome.Maps", Icon: "share/maps.svg", Apps: []manifest.App{
		{Name: "maps", Command: []string{"bin/maps"}, Desktop: "share/org.gnome.Maps.desktop", Autostart: "etc/maps-watch.desktop",
			DBusName: "org.gnome.Maps", DBusService: "share/org.gnome.Maps.service"},
		{Name: "export", Command: []string{"bin/export-map"}}}}, pkg
}

func TestExports(t *testing.T) {
	root := t.TempDir()
	m, pkg := mapsPackage(t)
	e := open(t, root)
	if err := errors.Join(e.Claim("org.gnome.Maps", m, pkg), e.Write("org.gnome.Maps", m, pkg)); err != nil {
		t.Fatal(err)
	}
	want := "bin/Maps bin/maps bin/org.gnome.Maps bin/org.gnome.Maps.export etc/xdg/autostart/maps-watch.desktop " +
		"share/applications/mimeinfo.cache share/applications/org.gnome.Maps.desktop share/dbus-1/services/org.gnome.Maps.service share/icons/org.gnome.Maps.svg"
	if got := files(t, root); got != want {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
	bin := root + "/exports/bin/"
	for file, want := range map[string]string{
		"bin/org.gnome.Maps": "#!/usr/libexec/lull/lull-run --wrapper\ninstance=org.gnome.Maps\napp=maps\nroot=" + root + "\nrun-dir=/run/x\n",
		"share/applications/org.gnome.Maps.desktop": "[Desktop Entry]\nX-Lull-Instance=org.gnome.Maps\nType=Application\nName=Maps\nName[de]=Karten\nTryExec=" + bin + "org.gnome.Maps\nExec=env A=b " + bin + "org.gnome.Maps --new %U\n" +
			"Icon=" + root + "/exports/share/icons/org.gnome.Maps.svg\nMimeType=application/gpx+xml;x-scheme-handler/geo;\nDBusActivatable=true\nActions=export;\n\n" +
			"[Desktop Action export]\nName=Export\nExec=" + bin + "org.gnome.Maps.export\n",
		"share/dbus-1/services/org.gnome.Maps.service": "[D-BUS Service]\nName=org.gnome.Maps\nExec=" + bin + "org.gnome.Maps --gapplication-service\n",
		"share/applications/mimeinfo.cache":            "[MIME Cache]\napplication/gpx+xml=org.gnome.Maps.desktop;\nx-scheme-handler/geo=org.gnome.Maps.desktop;\n",
	} {
		if got := read(t, filepath.Join(root, "exports", file)); got != want {
			t.Errorf("%s is\n%s\nwant\n%s", file, got, want)
		}
	}

	// A keyed instance exists beside it, without names on the bus.
	if err := errors.Join(e.Claim("org.gnome.Maps_two", m, pkg), e.Write("org.gnome.Maps_two", m, pkg)); err != nil {
		t.Fatal(err)
	}
	keyed := read(t, root+"/exports/share/applications/org.gnome.Maps_two.desktop")
	if strings.Contains(keyed, "DBusActivatable") || !strings.Contains(keyed, "Exec=env A=b "+bin+"org.gnome.Maps_two --new %U\n") {
		t.Errorf("the desktop file of a keyed instance: got\n%s\nwant %q and no DBusActivatable", keyed, "Exec=env A=b "+bin+"org.gnome.Maps_two --new %U\n")
	}
	if got := read(t, root+"/exports/share/applications/mimeinfo.cache"); !strings.Contains(got, "application/gpx+xml=org.gnome.Maps.desktop;org.gnome.Maps_two.desktop;\n") {
		t.Errorf("mimeinfo.cache: got\n%s\nwant org.gnome.Maps.desktop and then org.gnome.Maps_two.desktop for application/gpx+xml", got)
	}

	// Exports that the new revision lacks are removed, unchanged ones are not replaced.
	before, _ := os.Stat(bin + "org.gnome.Maps")
	less := &manifest.Launch{Name: m.Name, Icon: "maps", Apps: []manifest.App{{Name: "maps", Command: []string{"bin/maps"}}}}
	if err := e.Write("org.gnome.Maps", less, pkg); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.Stat(bin + "org.gnome.Maps"); !os.SameFile(before, after) {
		t.Error("a wrapper that stays the same was replaced")
	}
	if err := e.Remove("org.gnome.Maps_two"); err != nil {
		t.Fatal(err)
	}
	if got, want := files(t, root), "bin/Maps bin/maps bin/org.gnome.Maps"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestWrapperKeepsItsName when the package gains a second application.
func TestWrapperKeepsItsName(t *testing.T) {
	one := &manifest.Launch{Name: "org.x", Apps: []manifest.App{{Name: "x"}}}
	two := &manifest.Launch{Name: "org.x", Apps: []manifest.App{{Name: "x"}, {Name: "y"}}}
	for _, c := range []struct {
		m         *manifest.Launch
		app, want string
	}{{one, "x", "org.x"}, {two, "x", "org.x"}, {two, "y", "org.x.y"}} {
		if got := Wrapper("org.x", c.m, c.app); got != c.want {
			t.Errorf("the wrapper of %s is %s, want %s", c.app, got, c.want)
		}
	}
}

// TestExecOfThePackage: the programs, directories and bus names of a package, as its desktop file
// has them.
func TestExecOfThePackage(t *testing.T) {
	pkg := t.TempDir()
	for _, p := range []string{"/usr/bin/app", "/usr/libexec/app/app", "/usr/libexec/app/helper", "/usr/share/app/x"} {
		write(t, pkg+p, "#!/bin/sh\n")
	}
	if err := os.Symlink("../libexec/app/app", pkg+"/usr/bin/other"); err != nil {
		t.Fatal(err)
	}
	write(t, pkg+"/org.x.App.service", "[D-BUS Service]\nName=org.x.App\nExec=/usr/bin/app\n")
	l := &manifest.Launch{Name: "org.x", Apps: []manifest.App{
		{Name: "app", Command: []string{"usr/bin/app"}, Desktop: "x.desktop", DBusName: "org.x.App", DBusService: "org.x.App.service"},
		{Name: "second", Command: []string{"usr/libexec/app/app"}}}}
	for lines, want := range map[string]string{
		"Exec=/usr/bin/app":               "Exec=BIN/org.x",
		"Exec=/usr/libexec/app/app":       "Exec=BIN/org.x.second",
		"Exec=/usr/bin/other":             "Exec=BIN/org.x.second", // a link to it
		"Exec=/opt/app/run":               "Exec=BIN/org.x",
		"Exec=/usr/libexec/app/helper %u": "Exec=BIN/org.x %u", // which the app starts
		"Exec=/usr/libexec/app/helper\n[Desktop Action a]\nName=a\nExec=/usr/libexec/app/helper -n": "Exec=BIN/org.x\n[Desktop Action a]\nName=a\nExec=BIN/org.x -n",
		"Exec=app\n[Desktop Action a]\nName=a\nExec=/usr/libexec/app/helper":                        "error: line 7: Exec=/usr/libexec/app/helper: \"/usr/libexec/app/helper\" is a program of the package without an application",
		"Exec=gapplication launch org.x.App":                                                        "Exec=BIN/org.x",
		"Exec=gapplication launch org.y":                                                            "error: line 4: Exec=gapplication launch org.y: \"org.y\" is the bus name of no application",
		"TryExec=/usr/bin/other\nExec=app":                                                          "TryExec=BIN/org.x.second\nExec=BIN/org.x",
		"TryExec=/usr/libexec/app/helper\nExec=app":                                                 "TryExec=BIN/org.x\nExec=BIN/org.x",
		"TryExec=usr/share/app/x\nExec=app":                                                         "Exec=BIN/org.x",
		"TryExec=python3\nExec=app":                                                                 "TryExec=python3\nExec=BIN/org.x",
		"Path=/usr/share/app\nExec=app":                                                             "Path=ROOT/current/org.x/usr/share/app\nExec=BIN/org.x",
		"Path=/tmp\nExec=app":                                                                       "Path=/tmp\nExec=BIN/org.x",
		"Icon=app\nIcon[de]=app-de\nExec=app":                                                       "Icon=theme\nExec=BIN/org.x",
		"Exec=app\nActions=a;\n\n[Desktop Action a]\nExec=other":                                    "error: line 8: Exec=other: \"other\" is no application",
	} {
		root := t.TempDir()
		write(t, pkg+"/x.desktop", "[Desktop Entry]\nType=Application\nName=x\n"+lines+"\n")
		l.Icon = ""
		if strings.Contains(lines, "Icon") {
			l.Icon = "theme"
		}
		e := open(t, root)
		err := e.Claim("org.x", l, pkg)
		if text, refused := strings.CutPrefix(want, "error: "); refused || err != nil {
			if !refused || err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("%s\ngot %v, want %s", lines, err, want)
			}
			continue
		}
		if err := e.Write("org.x", l, pkg); err != nil {
			t.Fatal(err)
		}
		_, got, _ := strings.Cut(read(t, root+"/exports/share/applications/x.desktop"), "Name=x\n")
		if want := strings.NewReplacer("BIN", root+"/exports/bin", "ROOT", root).Replace(want) + "\n"; got != want {
			t.Errorf("%s\ngot  %swant %s", lines, got, want)
		}
	}
}

// TestClaims: a file of another instance is refused with that instance's name, and nothing
// changes, also for an agent that has been restarted.
func TestClaims(t *testing.T) {
	root, pkg := t.TempDir(), t.TempDir()
	write(t, pkg+"/editor.desktop", entry("app"))
	write(t, pkg+"/other/editor.desktop", entry("app"))
	write(t, pkg+"/editor.service", "[D-BUS Service]\nName=org.x.Editor\nExec=app\n")
	app := func(a manifest.App) []manifest.App {
		a.Name, a.Command = "app", []string{"bin/app"}
		return []manifest.App{a}
	}
	foo := &manifest.Launch{Name: "foo", Apps: append(app(manifest.App{Desktop: "editor.desktop", Autostart: "editor.desktop", DBusName: "org.x.Editor", DBusService: "editor.service"}),
		manifest.App{Name: "bar", Command: []string{"bin/bar"}})}
	e := open(t, root)
	if err := errors.Join(e.Claim("foo", foo, pkg), e.Write("foo", foo, pkg)); err != nil {
		t.Fatal(err)
	}
	before := files(t, root)
	for name, c := range map[string]struct {
		instance string
		m        *manifest.Launch
		want     string
	}{
		"a command":         {"foo.bar", &manifest.Launch{Name: "foo.bar", Apps: app(manifest.App{})}, "cannot export the command foo.bar of foo.bar: foo has it already"},
		"a menu entry":      {"new", &manifest.Launch{Name: "new", Apps: app(manifest.App{Desktop: "other/editor.desktop"})}, "cannot export the menu entry editor.desktop of new: foo has it already"},
		"an autostart":      {"new", &manifest.Launch{Name: "new", Apps: app(manifest.App{Autostart: "other/editor.desktop"})}, "cannot export the autostart file editor.desktop of new: foo has it already"},
		"a bus name":        {"new", &manifest.Launch{Name: "new", Apps: app(manifest.App{DBusName: "org.x.Editor", DBusService: "editor.service"})}, "cannot export the bus name org.x.Editor of new: foo has it already"},
		"a name by case":    {"Foo", &manifest.Launch{Name: "Foo", Apps: app(manifest.App{})}, "cannot export Foo: foo is installed, whose name differs only by case"},
		"an upper-case key": {"foo_A", &manifest.Launch{Name: "foo", Apps: app(manifest.App{})}, ""},
		"a key by case":     {"foo_a", &manifest.Launch{Name: "foo", Apps: app(manifest.App{})}, "cannot export foo_a: foo_A is installed, whose name differs only by case"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.instance == "foo_a" {
				if err := e.Claim("foo_A", c.m, pkg); err != nil {
					t.Fatal(err)
				}
				defer e.Remove("foo_A")
			}
			for _, e := range []*Exports{e, open(t, root)} {
				err := e.Claim(c.instance, c.m, pkg)
				if c.want == "" && err != nil || c.want != "" && (!errkind.Is(err, errkind.Conflict) || err.Error() != c.want) {
					t.Errorf("got %v, want %q", err, c.want)
				}
				if c.want == "" {
					if err := e.Remove(c.instance); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	if got := files(t, root); got != before {
		t.Errorf("after the refusals: got  %s\nwant %s", got, before)
	}

	// Write, which is after the commit, fails for none of these, and removes nothing.
	bar := &manifest.Launch{Name: "foo.bar", Apps: app(manifest.App{Desktop: "other/editor.desktop"})}
	if err := errors.Join(e.Write("foo.bar", bar, pkg), e.Remove("foo.bar")); err != nil {
		t.Fatal(err)
	}
	if got := files(t, root); got != before {
		t.Errorf("after another instance came and went: got  %s\nwant %s", got, before)
	}
}

// TestHelpers: what libraries in two packages start, hidden menu entries and bus names, belongs
// to the first one, and does not keep the second one away.
func TestHelpers(t *testing.T) {
	root, pkg := t.TempDir(), t.TempDir()
	for _, name := range []string{"viewer", "editor"} {
		write(t, pkg+"/"+name+".desktop", entry(name))
	}
	write(t, pkg+"/telnet.desktop", entry("telnet")+"NoDisplay=true\n")
	write(t, pkg+"/kded.service", "[D-BUS Service]\nName=org.x.kded\nExec=kded\n")
	launch := func(name string) *manifest.Launch {
		return &manifest.Launch{Name: name, Apps: []manifest.App{
			{Name: name, Command: []string{name}, Desktop: name + ".desktop"},
			{Name: "telnet", Command: []string{"telnet"}, Desktop: "telnet.desktop"},
			{Name: "kded", Command: []string{"kded"}, DBusName: "org.x.kded", DBusService: "kded.service"},
		}}
	}
	e := open(t, root)
	for _, name := range []string{"viewer", "editor"} {
		if err := errors.Join(e.Claim(name, launch(name), pkg), e.Write(name, launch(name), pkg)); err != nil {
			t.Fatalf("%s: %v, want it beside the other one", name, err)
		}
	}
	const all = "bin/editor bin/editor.kded bin/editor.telnet bin/viewer bin/viewer.kded bin/viewer.telnet " +
		"share/applications/editor.desktop share/applications/telnet.desktop share/applications/viewer.desktop share/dbus-1/services/org.x.kded.service"
	if got := files(t, root); got != all {
		t.Errorf("got  %s\nwant %s", got, all)
	}
	owner := func(want string) {
		t.Helper()
		if text := read(t, root+"/exports/share/dbus-1/services/org.x.kded.service"); !strings.Contains(text, "/"+want+".kded") {
			t.Errorf("got %s, want the program of %s", text, want)
		}
	}
	owner("viewer")
	// After its owner is gone the next writing, as at the start of the agent, takes it over.
	if err := errors.Join(e.Remove("viewer"), e.Write("editor", launch("editor"), pkg)); err != nil {
		t.Fatal(err)
	}
	owner("editor")
}

// TestRelease: a claim of an abandoned refresh blocks no other instance.
func TestRelease(t *testing.T) {
	root, pkg := t.TempDir(), t.TempDir()
	write(t, pkg+"/x.desktop", entry("x"))
	l := &manifest.Launch{Name: "x", Apps: []manifest.App{{Name: "x", Command: []string{"x"}}}}
	more := &manifest.Launch{Name: "x", Apps: []manifest.App{{Name: "x", Command: []string{"x"}, Desktop: "x.desktop"}}}
	other := &manifest.Launch{Name: "y", Apps: []manifest.App{{Name: "x", Command: []string{"x"}, Desktop: "x.desktop"}}}
	e := open(t, root)
	if err := errors.Join(e.Claim("x", l, pkg), e.Write("x", l, pkg), e.Claim("x", more, pkg)); err != nil {
		t.Fatal(err)
	}
	if err := e.Claim("y", other, pkg); !errkind.Is(err, errkind.Conflict) {
		t.Fatalf("a file that a refresh under way will have: got %v, want an error of kind %v", err, errkind.Conflict)
	}
	if err := errors.Join(e.Release("x"), e.Claim("y", other, pkg), e.Write("y", other, pkg)); err != nil {
		t.Fatal(err)
	}
	if got, want := files(t, root), "bin/x bin/y share/applications/x.desktop"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	third := &manifest.Launch{Name: "z", Apps: []manifest.App{{Name: "x", Command: []string{"x"}}}}
	if err := errors.Join(e.Claim("z", third, pkg), e.Release("z")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(root + "/exports/owners/z"); err == nil || e.Recorded("z") {
		t.Error("an install that was given up has left a record")
	}
}

// TestOddFilesAreTheirPackagesAlone: a file that is no desktop file is refused when its
// package is claimed and checked. It has no effect on any other instance, for any present
// content of the exports.
func TestOddFilesAreTheirPackagesAlone(t *testing.T) {
	long := strings.Repeat("c", 70_000)
	for name, content := range map[string]string{
		"space and a long line": "[Desktop Entry] \nType=Application\nName=x\nExec=x\nComment=" + long + "\n",
		"a long line":           entry("x") + "Comment=" + long + "\n",
		"no desktop file":       "\x7fELF\x01\x02\x03",
		"empty":                 "",
		"a foreign program":     entry("sh -c y"),
	} {
		t.Run(name, func(t *testing.T) {
			root, pkg := t.TempDir(), t.TempDir()
			write(t, pkg+"/x.desktop", content)
			l := &manifest.Launch{Name: "long", Apps: []manifest.App{{Name: "x", Command: []string{"x"}, Desktop: "x.desktop"}}}
			e := open(t, root)
			for what, err := range map[string]error{"Claim": e.Claim("long", l, pkg), "Check": Check("long", l, pkg)} {
				if !errkind.Is(err, errkind.Invalid) || !strings.Contains(err.Error(), "cannot export the desktop file of long: x.desktop: ") {
					t.Errorf("%s returns %v; want an error of kind %v and %q in the error", what, err, errkind.Invalid, "cannot export the desktop file of long: x.desktop: ")
				}
			}
			write(t, root+"/exports/share/applications/odd.desktop", content)
			write(t, root+"/exports/owners/odd", "share/applications/odd.desktop\n../../x\n"+long)
			e = open(t, root)
			plain := &manifest.Launch{Name: "plain", Apps: []manifest.App{{Name: "plain", Command: []string{"x"}}}}
			if err := errors.Join(e.Claim("plain", plain, pkg), e.Write("plain", plain, pkg), e.Write("plain", plain, pkg), e.Remove("plain")); err != nil {
				t.Errorf("another instance: %v", err)
			}
			// The valid files of the odd package are exported. A version with
			// fewer checks may have accepted it.
			if err := errors.Join(e.Write("long", l, pkg), e.Remove("long"), e.Remove("odd")); err != nil {
				t.Errorf("the instance itself: %v", err)
			}
			if got := files(t, root); got != "" {
				t.Errorf("got %s left, want nothing", got)
			}
		})
	}
}

func TestExportDoesNotLeaveThePackage(t *testing.T) {
	outside := t.TempDir()
	write(t, outside+"/secret", entry("x"))
	for _, target := range []string{outside + "/secret", "../../../../../../etc/passwd", "x.desktop"} {
		pkg := t.TempDir()
		if err := os.Symlink(target, pkg+"/x.desktop"); err != nil {
			t.Fatal(err)
		}
		l := &manifest.Launch{Name: "x", Apps: []manifest.App{{Name: "x", Command: []string{"x"}, Desktop: "x.desktop"}}}
		if err := open(t, t.TempDir()).Claim("x", l, pkg); err == nil {
			t.Errorf("a link to %s: got no error, want one", target)
		}
	}
}

// TestSweep: Write takes over the files that a version without owners has exported, and files
// without an owner are removed.
func TestSweep(t *testing.T) {
	root, pkg := t.TempDir(), t.TempDir()
	write(t, root+"/exports/bin/x", "old")
	write(t, root+"/exports/bin/gone", "old")
	write(t, root+"/exports/share/applications/mimeinfo.cache", "old")
	e := open(t, root)
	if e.Recorded("x") {
		t.Error("an instance without a record counts as recorded")
	}
	l := &manifest.Launch{Name: "x", Apps: []manifest.App{{Name: "x", Command: []string{"x"}}}}
	if err := errors.Join(e.Write("x", l, pkg), e.Sweep()); err != nil {
		t.Fatal(err)
	}
	if got, want := files(t, root), "bin/x"; got != want || !e.Recorded("x") {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestInstancesBesideEachOther: one instance adds and removes exports while others do the
// same.
func TestInstancesBesideEachOther(t *testing.T) {
	root, pkg := t.TempDir(), t.TempDir()
	e := open(t, root)
	var all sync.WaitGroup
	write(t, pkg+"/n.desktop", entry("notes")+"MimeType=text/x-a;text/x-b;\n")
	for i := range 4 {
		name := fmt.Sprintf("notes_%d", i)
		l := &manifest.Launch{Name: "notes", Apps: []manifest.App{{Name: "notes", Command: []string{"bin/notes"}, Desktop: "n.desktop"}}}
		all.Go(func() {
			for range 50 {
				if err := errors.Join(e.Claim(name, l, pkg), e.Write(name, l, pkg), e.Remove(name)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	if got := files(t, e.root); got != "" {
		t.Errorf("got %s left, want nothing", got)
	}
}
