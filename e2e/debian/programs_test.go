package debian_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull/lull/agent/convert"
	"github.com/lull/lull/agent/exports"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/repo/publish"
	"github.com/lull/lull/e2e/require"
)

// programs are the packages, with files that have to be exported, relative to exports/. Opens
// is a MIME type or URL scheme that the program has to be found by.
var programs = []struct{ deb, opens, files string }{
	{"gnome-calculator", "", "share/applications/org.gnome.Calculator.desktop share/gnome-shell/search-providers/org.gnome.Calculator-search-provider.ini"},
	{"gnome-text-editor", "text/plain", "share/applications/org.gnome.TextEditor.desktop share/dbus-1/services/org.gnome.TextEditor.service"},
	{"evince", "application/pdf", "share/applications/org.gnome.Evince.desktop share/man/man1/evince.1.gz share/thumbnailers/evince.thumbnailer"},
	{"file-roller", "application/zip", "share/dbus-1/services/org.gnome.ArchiveManager1.service share/dbus-1/services/org.gnome.FileRoller.service"},
	{"gnome-maps", "x-scheme-handler/geo", "share/applications/org.gnome.Maps.desktop share/dbus-1/services/org.gnome.Maps.service"},
	{"meld", "", "share/applications/org.gnome.Meld.desktop share/icons/hicolor/scalable/apps/org.gnome.Meld.svg"},
	{"okular", "application/pdf", "share/applications/org.kde.okular.desktop share/applications/okularApplication_pdf.desktop share/icons/hicolor/128x128/apps/okular.png"},
	{"ark", "application/zip", "share/applications/org.kde.ark.desktop share/metainfo/org.kde.ark.appdata.xml"},
	{"kate", "text/plain", "share/applications/org.kde.kate.desktop"},
	{"gwenview", "image/png", "share/applications/org.kde.gwenview.desktop"},
	{"kcalc", "", "share/applications/org.kde.kcalc.desktop"},
	{"filelight", "", "share/applications/org.kde.filelight.desktop share/icons/hicolor/32x32/apps/filelight.png"},
}

func output(t *testing.T, dir string, env []string, argv ...string) string {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v\n%s", argv, err, out)
	}
	return string(out)
}

// download returns the newest version of a package. It is kept in the cache directory of the
// user who runs the tests.
func download(t *testing.T, name string) string {
	t.Helper()
	line, _, _ := strings.Cut(output(t, "", nil, "apt-cache", "madison", name), "\n")
	f := strings.Split(line, "|")
	if len(f) != 3 {
		require.Missing(t, "needs the Debian package %s; apt offers %q", name, line)
	}
	version := strings.TrimSpace(f[1])
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(cache, "lull", "debs", name+"_"+version+".deb")
	if _, err := os.Stat(file); err == nil {
		return file
	}
	dir := t.TempDir()
	output(t, dir, nil, "apt-get", "download", "-q", name+"="+version)
	got, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(got) != 1 {
		t.Fatalf("apt-get download left %q (%v)", got, err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	output(t, "", nil, "cp", got[0], file+".partial")
	if err := os.Rename(file+".partial", file); err != nil {
		t.Fatal(err)
	}
	return file
}

// converted makes a package source of a file.
func converted(t *testing.T, program, file string) (*manifest.Launch, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "package")
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	d, err := convert.Run(context.Background(), dir, []*os.File{f}, convert.Options{Program: program})
	if err == nil {
		err = d.WriteSource(dir)
	}
	if err != nil {
		t.Fatal(err)
	}
	l, err := publish.Describe(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	return l, dir
}

// TestPrograms: each program is converted and exported beside the others, and the desktop finds
// it. After their removal nothing is left.
func TestPrograms(t *testing.T) {
	require.NotShort(t) // it builds and downloads
	require.Program(t, "apt-get", "apt-cache", "desktop-file-validate", "gio", "go")
	bin, err := os.MkdirTemp("", "lull-bin-") // where every user can start it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(bin) })
	if err := os.Chmod(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	output(t, "", nil, "go", "build", "-o", bin, "github.com/lull/lull/cmd/lull-convert")
	root := t.TempDir()
	e, err := exports.Open(root, "/run/x", "/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	var installed []string
	for _, p := range programs {
		t.Run(p.deb, func(t *testing.T) {
			l, dir := converted(t, filepath.Join(bin, "lull-convert"), download(t, p.deb))
			if err := errors.Join(exports.Check(l.Name, l, dir), e.Claim(l.Name, l, dir), e.Write(l.Name, l, dir)); err != nil {
				t.Fatal(err)
			}
			installed = append(installed, l.Name)
			for _, f := range strings.Fields(p.files) {
				if _, err := os.Lstat(filepath.Join(root, "exports", f)); err != nil && !strings.HasPrefix(f, "share/icons") { // the system may have the icon
					t.Error(err)
				}
			}
			entry := filepath.Join(root, "exports", "share/applications", l.Name+".desktop")
			content, err := os.ReadFile(entry)
			if err != nil || !strings.Contains(string(content), "\nName[de]=") {
				t.Errorf("the menu entry has no German name: %v", err)
			}
			if out := output(t, "", nil, "desktop-file-validate", entry); strings.Contains(out, "error:") {
				t.Errorf("desktop-file-validate %s: got %s, want no error", entry, out)
			}
			home := t.TempDir()
			env := []string{"XDG_DATA_DIRS=" + root + "/exports/share", "XDG_DATA_HOME=" + home, "XDG_CONFIG_HOME=" + home, "LC_ALL=C"}
			if p.opens != "" {
				found := ""
				for l := range strings.Lines(output(t, "", env, "gio", "mime", p.opens)) {
					if id := strings.TrimSpace(l); strings.HasSuffix(id, ".desktop") {
						found += id + " "
					}
				}
				owned, err := os.ReadFile(filepath.Join(root, "exports/owners", l.Name))
				if err != nil {
					t.Fatal(err)
				}
				if !anyOwned(found, string(owned)) {
					t.Errorf("gio finds %q for %s, want one of those that %s owns: %q", found, p.opens, l.Name, owned)
				}
			}
		})
	}
	for _, name := range installed {
		if err := e.Remove(name); err != nil {
			t.Error(err)
		}
	}
	err = filepath.WalkDir(filepath.Join(root, "exports"), func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			t.Errorf("%s is left", p)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// anyOwned reports whether one of the desktop files is in a list of owned files.
func anyOwned(found, owned string) bool {
	for _, id := range strings.Fields(found) {
		if strings.Contains(owned, "share/applications/"+id+"\n") {
			return true
		}
	}
	return false
}
