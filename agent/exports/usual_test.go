package exports

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/e2e/require"
)

const png = "\x89PNG\r\n\x1a\n"

// viewer returns a package as distributions make them, with files at all usual places.
func viewer(t *testing.T) (*manifest.Launch, string) {
	t.Helper()
	pkg := t.TempDir()
	for _, p := range []string{"/usr/bin/viewer", "/usr/bin/viewer-thumbnailer", "/usr/libexec/viewer-search"} {
		write(t, pkg+p, "#!/bin/sh\n")
	}
	share := pkg + "/usr/share/"
	write(t, share+"applications/org.x.Viewer.desktop", "[Desktop Entry]\nType=Application\nName=Viewer\nName[de]=Betrachter\nExec=viewer %U\nIcon=viewer\nDBusActivatable=true\n")
	write(t, share+"applications/viewer-pdf.desktop", "[Desktop Entry]\nType=Application\nName=Viewer\nExec=/usr/bin/viewer --pdf %U\nIcon=viewer\nNoDisplay=true\nMimeType=application/pdf;\n")
	write(t, share+"applications/viewer-other.desktop", entry("other"))
	for _, size := range []string{"16x16", "48x48@2", "scalable"} {
		write(t, share+"icons/hicolor/"+size+"/apps/viewer.png", png)
	}
	write(t, share+"icons/hicolor/symbolic/apps/viewer-symbolic.svg", "<svg/>")
	write(t, share+"icons/hicolor/16x16/apps/firefox.png", png)
	write(t, share+"icons/hicolor/16x16/apps/viewer-text.png", "no image")
	write(t, share+"icons/hicolor/16x16/mimetypes/viewer.png", png)
	page := ".TH viewer 1\n.SH NAME\nviewer \\- shows\n"
	write(t, share+"man/man1/viewer.1", page)
	write(t, share+"man/de/man1/viewer.1", page)
	write(t, share+"man/man1/ls.1", page)
	write(t, share+"man/man8/viewer.1", page)
	meta := func(id string) string {
		return `<?xml version="1.0"?><component type="desktop-application"><id>` + id + `</id><metadata_license>CC0-1.0</metadata_license><project_license>MIT</project_license>` +
			`<name>Viewer</name><summary>Shows files</summary><description><p>It shows the files that there are, in a window.</p></description><url type="homepage">https://example.org</url>` +
			`<launchable type="desktop-id">org.x.Viewer.desktop</launchable><developer id="org.x"><name>X</name></developer><content_rating type="oars-1.1"/></component>`
	}
	write(t, share+"metainfo/org.x.Viewer.metainfo.xml", meta("org.x.Viewer"))
	write(t, share+"metainfo/org.y.metainfo.xml", meta("org.y"))
	write(t, share+"metainfo/org.z.metainfo.xml", "<component>")
	write(t, share+"bash-completion/completions/viewer", "_viewer() { COMPREPLY=(--page); }\ncomplete -o nospace -F _viewer viewer\n")
	write(t, share+"bash-completion/completions/ls", "complete -W x ls\n")
	write(t, share+"zsh/vendor-completions/_viewer", "#compdef viewer\n_viewer() { print $service $words[1] $@ }\n[[ $funcstack[1] == _viewer ]] && _viewer \"$@\"\n")
	write(t, share+"zsh/vendor-completions/_ls", "#compdef ls\n")
	write(t, share+"zsh/site-functions/viewer", "x")
	write(t, share+"fish/vendor_completions.d/viewer.fish", "complete -c viewer -l page -d 'a page'\n")
	write(t, share+"fish/vendor_completions.d/ls.fish", "complete -c ls -l page\n")
	search := "[Shell Search Provider]\nDesktopId=org.x.Viewer.desktop\nBusName=org.x.Viewer\nObjectPath=/org/x/Viewer\nVersion=2\n"
	write(t, share+"gnome-shell/search-providers/viewer.ini", search)
	write(t, share+"gnome-shell/search-providers/other.ini", strings.Replace(search, "org.x.Viewer\n", "org.y\n", 1))
	write(t, share+"gnome-shell/search-providers/foreign.ini", strings.Replace(search, "org.x.Viewer.desktop", "firefox.desktop", 1))
	write(t, share+"thumbnailers/viewer.thumbnailer", "[Thumbnailer Entry]\nTryExec=viewer-thumbnailer\nExec=viewer-thumbnailer -s %s %u %o\nMimeType=application/pdf;\n")
	write(t, share+"thumbnailers/other.thumbnailer", "[Thumbnailer Entry]\nExec=other %u\nMimeType=application/pdf;\n")
	write(t, share+"dbus-1/services/org.x.Viewer.service", "[D-BUS Service]\nName=org.x.Viewer\nExec=/usr/bin/viewer --service\n")
	return &manifest.Launch{Name: "org.x.Viewer", Icon: "usr/share/icons/hicolor/16x16/apps/viewer.png", Apps: []manifest.App{
		{Name: "viewer", Command: []string{"usr/bin/viewer"}, Desktop: "usr/share/applications/org.x.Viewer.desktop", DBusName: "org.x.Viewer", DBusService: "usr/share/dbus-1/services/org.x.Viewer.service"},
		{Name: "viewer-thumbnailer", Command: []string{"usr/bin/viewer-thumbnailer"}},
	}}, pkg
}

// wantUsual are the exported files at usual places, apart from those of the viewer's apps.
const wantUsual = "share/applications/viewer-pdf.desktop share/bash-completion/completions/org.x.Viewer share/fish/vendor_completions.d/org.x.Viewer.fish share/gnome-shell/search-providers/viewer.ini " +
	"share/icons/hicolor/16x16/apps/viewer.png share/icons/hicolor/48x48@2/apps/viewer.png share/icons/hicolor/scalable/apps/viewer.png share/icons/hicolor/symbolic/apps/viewer-symbolic.svg " +
	"share/man/de/man1/viewer.1 share/man/man1/viewer.1 share/metainfo/org.x.Viewer.metainfo.xml share/thumbnailers/viewer.thumbnailer share/zsh/site-functions/_org.x.Viewer"

// TestUsualPlaces: what is the package's is exported, the rest is left out with the reason, and
// a removal leaves no file and no directory.
func TestUsualPlaces(t *testing.T) {
	root := t.TempDir()
	m, pkg := viewer(t)
	e := open(t, root)
	e.system = []string{t.TempDir()}
	if err := errors.Join(Check(m.Name, m, pkg), e.Claim(m.Name, m, pkg), e.Write(m.Name, m, pkg)); err != nil {
		t.Fatal(err)
	}
	apps := []string{"bin/Viewer", "bin/viewer", "bin/org.x.Viewer", "bin/org.x.Viewer.viewer-thumbnailer", "share/applications/mimeinfo.cache", "share/applications/org.x.Viewer.desktop",
		"share/dbus-1/services/org.x.Viewer.service", "share/icons/org.x.Viewer.png"}
	got := " " + files(t, root) + " "
	for _, f := range append(apps, strings.Fields(wantUsual)...) {
		if !strings.Contains(got, " "+f+" ") {
			t.Errorf("%s is not exported", f)
		}
		got = strings.Replace(got, " "+f+" ", " ", 1)
	}
	if got = strings.TrimSpace(got); got != "" {
		t.Errorf("got %s exported as well, want nothing more", got)
	}
	bin := root + "/exports/bin/org.x.Viewer"
	for file, want := range map[string]string{
		"applications/org.x.Viewer.desktop": "Name[de]=Betrachter\nExec=" + bin + " %U\nIcon=viewer\nDBusActivatable=true\n",
		"applications/viewer-pdf.desktop":   "Exec=" + bin + " --pdf %U\nIcon=viewer\n",
		"applications/mimeinfo.cache":       "application/pdf=viewer-pdf.desktop;\n",
		"thumbnailers/viewer.thumbnailer":   "TryExec=" + bin + ".viewer-thumbnailer\nExec=" + bin + ".viewer-thumbnailer -s %s %u %o\n",
	} {
		if got := read(t, root+"/exports/share/"+file); !strings.Contains(got, want) {
			t.Errorf("%s: got\n%s\nwant in it\n%s", file, got, want)
		}
	}
	left, err := Unexported(m.Name, m, pkg)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`icons/hicolor/16x16/apps/viewer-text.png: it is no image of the type .png`,
		`applications/viewer-other.desktop: line 4: Exec=other: "other" is no application of the package`,
		`man/man1/ls.1: its name is not the package's`,
		`metainfo/org.y.metainfo.xml: its component "org.y" is not the package's`,
		`metainfo/org.z.metainfo.xml: XML syntax error`,
		`search-providers/foreign.ini: its DesktopId "firefox.desktop" is no desktop file of the package`,
		`search-providers/other.ini: its BusName "org.y" is started by no dbus-service of the package`,
		`thumbnailers/other.thumbnailer: line 2: Exec=other %u: "other" is no application of the package`,
	}
	for i, text := range want {
		if i >= len(left) || !strings.Contains(left[i].Path+": "+left[i].Why.Error(), text) {
			t.Errorf("left out are %v, want %q at %d", left, text, i)
			break
		}
	}
	if len(left) != len(want) {
		t.Errorf("left out are %v, want %d", left, len(want))
	}

	// Another agent finds the claims, and removes all.
	e = open(t, root)
	if err := e.Remove(m.Name); err != nil {
		t.Fatal(err)
	}
	if got := files(t, root); got != "" {
		t.Errorf("got %s left, want nothing", got)
	}
	err = filepath.WalkDir(root+"/exports/share", func(p string, d os.DirEntry, err error) error {
		if strings.Contains(p, "hicolor") || strings.Contains(p, "man1") {
			t.Errorf("got %s left, want nothing", p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestUsualNamesOfOthers: names that the system or another instance has are left out, and the
// package is exported nevertheless.
func TestUsualNamesOfOthers(t *testing.T) {
	m, pkg := viewer(t)
	for name, prepare := range map[string]func(*Exports){
		"the system": func(e *Exports) {
			write(t, e.system[0]+"/icons/hicolor/512x512/apps/viewer.png", png)
			write(t, e.system[0]+"/icons/hicolor/512x512/apps/viewer-symbolic.svg", png)
			write(t, e.system[0]+"/metainfo/org.x.Viewer.metainfo.xml", png)
		},
		"another instance": func(e *Exports) {
			other := t.TempDir()
			write(t, other+"/share/applications/viewer-pdf.desktop", "[Desktop Entry]\nType=Application\nName=x\nExec=x\nIcon=viewer\n")
			write(t, other+"/share/icons/hicolor/512x512/apps/viewer.png", png)
			write(t, other+"/share/icons/hicolor/512x512/apps/viewer-symbolic.svg", "<svg/>")
			l := &manifest.Launch{Name: "other", Apps: []manifest.App{{Name: "x", Command: []string{"x"}}}}
			if err := errors.Join(e.Claim("other", l, other), e.Write("other", l, other)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			e := open(t, root)
			e.system = []string{t.TempDir()}
			prepare(e)
			before := files(t, root)
			if err := errors.Join(e.Claim(m.Name, m, pkg), e.Write(m.Name, m, pkg)); err != nil {
				t.Fatal(err)
			}
			for _, size := range []string{"16x16", "scalable"} {
				if _, err := os.Lstat(root + "/exports/share/icons/hicolor/" + size + "/apps/viewer.png"); err == nil {
					t.Errorf("an icon has replaced one of %s; want an error", name)
				}
			}
			if got := read(t, root+"/exports/share/applications/org.x.Viewer.desktop"); !strings.Contains(got, "Icon="+root+"/exports/share/icons/org.x.Viewer.png\n") {
				t.Errorf("the icon: got\n%s\nwant the package's own, share/icons/org.x.Viewer.png", got)
			}
			if err := e.Remove(m.Name); err != nil {
				t.Fatal(err)
			}
			if got := files(t, root); got != before {
				t.Errorf("got  %s\nwant %s", got, before)
			}
		})
	}
}

// TestUsualBounds: too many, too large and odd files are left out.
func TestUsualBounds(t *testing.T) {
	root, pkg := t.TempDir(), t.TempDir()
	write(t, pkg+"/share/man/man1/x.1", strings.Repeat("x", maxExported+1))
	write(t, pkg+"/share/man/man1/.x.1", "x")
	write(t, pkg+"/share/man/man1/x y.1", "x")
	write(t, pkg+"/share/man/../x.1", "x")
	if err := errors.Join(os.Symlink("/etc/passwd", pkg+"/share/man/man1/x-a.1"), os.Symlink("/etc", pkg+"/share/man/man5"), os.Symlink("man5", pkg+"/share/man/man6")); err != nil {
		t.Fatal(err)
	}
	for i := range maxUsual + 5 {
		write(t, filepath.Join(pkg, "share/man/man7", "x-"+strings.Repeat("a", i%10)+strings.Repeat("b", i/10%10)+strings.Repeat("c", i/100)+".7"), "x")
	}
	l := &manifest.Launch{Name: "x", Apps: []manifest.App{{Name: "x", Command: []string{"x"}}}}
	e := open(t, root)
	planned, err := e.planned("x", l, pkg)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(planned.files); n != maxUsual+1 {
		t.Errorf("%d files are exported, want the wrapper and %d", n, maxUsual)
	}
	for _, f := range planned.files {
		if strings.HasPrefix(f.name, "share/man/man1") || strings.HasPrefix(f.name, "share/man/man5") {
			t.Errorf("got %s exported, want no manual page of section 1 or 5", f.name)
		}
	}
}

// TestProgramsFindUsualFiles: the programs of the system accept the files, and find them.
func TestProgramsFindUsualFiles(t *testing.T) {
	require.Program(t, "desktop-file-validate", "appstreamcli", "gio", "xdg-mime", "man", "zsh", "fish")
	root := t.TempDir()
	m, pkg := viewer(t)
	e := open(t, root)
	if err := errors.Join(e.Claim(m.Name, m, pkg), e.Write(m.Name, m, pkg)); err != nil {
		t.Fatal(err)
	}
	share := root + "/exports/share"
	output := func(argv ...string) string {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH") + ":" + root + "/exports/bin", "XDG_DATA_DIRS=" + share, "XDG_DATA_HOME=" + root + "/home",
			"XDG_CONFIG_HOME=" + root + "/home", "XDG_CACHE_HOME=" + root + "/home", "HOME=" + root + "/home", "LC_ALL=C"}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", strings.Join(argv, " "), err, out)
		}
		return string(bytes.TrimSpace(out))
	}
	if err := os.MkdirAll(root+"/home", 0o755); err != nil {
		t.Fatal(err)
	}
	if out := output("desktop-file-validate", share+"/applications/org.x.Viewer.desktop", share+"/applications/viewer-pdf.desktop"); out != "" {
		t.Errorf("desktop-file-validate: got %s, want no output", out)
	}
	output("appstreamcli", "validate", "--no-net", share+"/metainfo/org.x.Viewer.metainfo.xml")
	if out := output("gio", "mime", "application/pdf"); !strings.Contains(out, "viewer-pdf.desktop") {
		t.Errorf("gio mime application/pdf: got\n%s\nwant viewer-pdf.desktop", out)
	}
	output("xdg-mime", "default", "viewer-pdf.desktop", "application/pdf")
	if out := output("xdg-mime", "query", "default", "application/pdf"); out != "viewer-pdf.desktop" {
		t.Errorf("xdg-mime has the default application %q, want viewer-pdf.desktop", out)
	}
	if err := errors.Join(os.MkdirAll(root+"/current", 0o755), os.Symlink(pkg, root+"/current/"+m.Name)); err != nil {
		t.Fatal(err)
	}
	if out := output("bash", "-c", ". "+share+"/bash-completion/completions/org.x.Viewer; complete -p org.x.Viewer; _viewer; echo $COMPREPLY$__lull"); out != "complete -o nospace -F _viewer org.x.Viewer\n--page" {
		t.Errorf("bash has the completion %q, want %q", out, "complete -o nospace -F _viewer org.x.Viewer\n--page")
	}
	// compinit finds the function, and calls it with the words of the command line.
	if out := output("zsh", "-fc", "fpath=("+share+"/zsh/site-functions $fpath); autoload -Uz compinit && compinit -D -u; words=(org.x.Viewer a); $_comps[org.x.Viewer] b"); out != "viewer org.x.Viewer b" {
		t.Errorf("zsh has the completion %q, want viewer org.x.Viewer b", out)
	}
	if out := output("fish", "-c", "complete --do-complete 'org.x.Viewer --p'"); out != "--page\ta page" {
		t.Errorf("fish has the completion %q, want --page	a page", out)
	}
	if out := output("man", "-w", "viewer"); out != share+"/man/man1/viewer.1" {
		t.Errorf("man finds %q, want %v", out, share+"/man/man1/viewer.1")
	}
}
