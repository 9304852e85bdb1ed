package realinput_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

// qt5 are the libraries of FeatherPad that a machine without Qt lacks.
const qt5 = " libqt5core5a libqt5gui5 libqt5widgets5 libqt5dbus5 libqt5network5 libqt5printsupport5 libqt5svg5 libqt5x11extras5" +
	" libdouble-conversion3 libpcre2-16-0 libmd4c0 libxcb-icccm4 libxcb-keysyms1 libxcb-xinerama0 libxcb-xinput0"

// desktopPrograms are programs of Debian, with what a packager adds to lull.yaml.
var desktopPrograms = []struct {
	name    string // of the package
	debs    string
	with    string
	opens   bool   // files
	title   string // of the window
	german  string // a catalog that the program has open
	profile string // a file that the program writes, below its base directories
	prints  string // the title of its window for printing
}{
	{"org.xfce.mousepad", "mousepad libmousepad0", "data: xdg", true, "brief.txt", "/de/LC_MESSAGES/mousepad.mo", "config/Mousepad/accels.scm", "Drucken"},
	{"featherpad", "featherpad featherpad-l10n" + qt5, "data: xdg", true, "brief.txt", "/featherpad_de.qm", "config/featherpad/fp.conf", ""},
	{"galculator", "galculator", "data: xdg", false, "galculator", "/de/LC_MESSAGES/galculator.mo", "config/galculator/galculator.conf", ""},
	{"qalculate-gtk", "qalculate-gtk libqalculate22 libqalculate-data", "data: {xdg: true, import: [config/qalculate]}", false, "Qalculate!",
		"/de/LC_MESSAGES/qalculate-gtk.mo", "config/qalculate/qalculate-gtk.cfg", ""},
}

// TestDesktopPrograms: programs are taken from Debian as they are, and installed as files. Each
// starts in German with the user's existing profile and opens a file; a refresh waits until its
// window is closed, and brings the profile along; a revert brings the old profile back. The
// host's profile stays as it is.
func TestDesktopPrograms(t *testing.T) {
	require.Root(t)
	require.Unified(t)
	require.NotShort(t)
	require.Program(t, "dbus-daemon", "Xvfb", "dunst", "openbox", "xdotool", "setpriv", "localedef", "apt-get", "dpkg-deb")
	require.Program(t, "cupsd", "lpadmin")
	require.File(t, "/usr/share/i18n/locales/de_DE")
	w := rig.New(t, rig.Options{Tracker: "subtree"})
	w.Configure("policy.yaml", policy)
	w.StartDesktop()
	locales := w.Path("locales")
	if err := os.Mkdir(locales, 0o755); err != nil {
		t.Fatal(err)
	}
	output(t, "", "localedef", "-i", "de_DE", "-f", "UTF-8", locales+"/de_DE.UTF-8")
	w.User.Env = append(w.User.Env, "LOCPATH="+locales, "LANG=de_DE.UTF-8", "LC_ALL=de_DE.UTF-8", "GSETTINGS_BACKEND=memory", "NO_AT_BRIDGE=1")
	paper := startPrinter(t, w)
	w.User.Start("openbox", "--sm-disable")
	api := w.Bus.Watch()
	w.StartAgent()
	stop := w.Tick(200 * time.Millisecond) // a window has no bus signal for its appearance
	defer stop()
	file := filepath.Join(w.User.Home, "brief.txt")
	write(t, w, file, "Grüße\n")

	for _, c := range desktopPrograms {
		t.Run(c.name, func(t *testing.T) {
			var one, two []string
			for i, name := range strings.Fields(c.debs) {
				deb := newest(t, name)
				one, two = append(one, deb), append(two, deb)
				if i == 0 {
					two[0] = repacked(t, deb)
				}
			}
			with := w.Path(c.name + ".yaml")
			if err := os.WriteFile(with, []byte(c.with+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			install := []string{"install", "--yes", "--with", with}
			w.MustLull(append(install, one...)...)
			home := filepath.Join(w.User.Home, filepath.FromSlash("."+c.profile)) // .config/…
			write(t, w, filepath.Join(filepath.Dir(home), "existing"), "of the host")

			open := func() (p *rig.Proc, window string) {
				t.Helper()
				command := []string{"run", c.name}
				if c.opens {
					command = append(command, file)
				}
				p = w.User.StartLull(nil, command...)
				w.Until("the window says "+c.title, limit, func() (bool, string) {
					if p.Ended() {
						t.Fatalf("%s has ended, want it to run:\n%s", c.name, p.Log())
					}
					window, _, _ = strings.Cut(w.User.Run("xdotool", "search", "--onlyvisible", "--name", regexp.QuoteMeta(c.title)).Stdout, "\n")
					return window != "", p.Log()
				})
				return p, window
			}
			shut := func(p *rig.Proc, window string) {
				t.Helper()
				w.Until("it has ended", limit, func() (bool, string) {
					w.User.Run("xdotool", "windowactivate", window, "key", "alt+F4") // one is lost until the window is ready
					return p.Ended(), p.Log()
				})
				if _, err := p.Wait(t.Context(), limit); err != nil {
					t.Fatal(err)
				}
			}
			data := func(revision, path string) string {
				b, _ := os.ReadFile(filepath.Join(w.User.Home, ".local/share/lull", c.name, revision, "xdg", path))
				return string(b)
			}
			beside := filepath.Join(filepath.Dir(c.profile), "existing")

			p, window := open()
			if maps := w.Admin.Run("cat", "/proc/"+strconv.Itoa(p.PID)+"/maps").Stdout; !strings.Contains(maps, c.german) {
				t.Errorf("it is not German: %s is not mapped", c.german)
			}
			if c.prints != "" {
				key := func(id, key string) { w.User.Run("xdotool", "windowactivate", "--sync", id, "key", key) }
				key(window, "ctrl+p")
				paper.untilPrinted("%PDF", func() {
					if dialog, _, _ := strings.Cut(w.User.Run("xdotool", "search", "--onlyvisible", "--name", "^"+c.prints).Stdout, "\n"); dialog != "" {
						key(dialog, "alt+d") // Return would write into the text when the dialog is just gone
					}
				})
				key(window, "Escape") // of the menu that alt+d opens then
			}
			if r := w.Lull(append(install, two...)...); r.Code != 75 {
				t.Errorf("a refresh while it runs: got %v, want exit status 75", r)
			}
			shut(p, window)
			w.Until("it is refreshed", limit, func() (bool, string) {
				o, _ := api.Package(c.name)
				return strings.HasSuffix(o.Str("Version"), "+again"), o.Str("Version")
			})
			if data("1", c.profile) == "" || data("1", beside) != "of the host" {
				t.Errorf("the profile of revision 1: got %d bytes, and %q beside it, want some bytes and %q", len(data("1", c.profile)), data("1", beside), "of the host")
			}
			shut(open())
			if data("2", c.profile) == "" || data("2", beside) != "of the host" {
				t.Errorf("the profile of revision 2: got %d bytes, and %q beside it, want some bytes and %q", len(data("2", c.profile)), data("2", beside), "of the host")
			}
			write(t, w, filepath.Join(w.User.Home, ".local/share/lull", c.name, "2/xdg", beside), "of version 2")
			w.MustLull("revert", c.name)
			p, window = open()
			if env := w.Admin.Run("cat", "/proc/"+strconv.Itoa(p.PID)+"/environ").Stdout; !strings.Contains(env, "/"+c.name+"/1/xdg/config\x00") {
				t.Error("after a revert it has another profile than that of revision 1")
			}
			shut(p, window)
			if got := data("1", beside); got != "of the host" {
				t.Errorf("after a revert the profile has %q, want of the host", got)
			}
			if entries, err := os.ReadDir(filepath.Dir(home)); err != nil || len(entries) != 1 {
				t.Errorf("the host's profile has changed: %v, %v; want no error and 1 entries", entries, err)
			}
		})
	}
}

// write writes a file of the user's, with its directories.
func write(t *testing.T, w *rig.World, path, text string) {
	t.Helper()
	dir := filepath.Dir(path)
	w.User.Must("mkdir", "-p", dir)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	w.User.Own(path)
}

// newest downloads the newest version of a Debian package.
func newest(t *testing.T, name string) string {
	t.Helper()
	found := known(t, name)
	if len(found) == 0 {
		require.Missing(t, "needs the Debian package %s", name)
	}
	return cached(t, name, found[len(found)-1])
}

// repacked is a package with a later version.
func repacked(t *testing.T, deb string) string {
	t.Helper()
	dir := t.TempDir()
	output(t, "", "dpkg-deb", "-R", deb, dir+"/x")
	control := dir + "/x/DEBIAN/control"
	b, err := os.ReadFile(control)
	if err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`(?m)^(Version: .*)$`).ReplaceAllString(string(b), "$1+again")
	if err := os.WriteFile(control, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	output(t, "", "dpkg-deb", "-b", dir+"/x", dir+"/again.deb")
	return dir + "/again.deb"
}
