package desktops_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig/suite"
)

// programsDir has the Debian packages of each program, in a directory of its name: those of the
// program and of the libraries that the desktop lacks.
const programsDir = "/opt/programs"

// programsEnv names the programs that TestPrograms tries, instead of all.
const programsEnv = "LULL_PROGRAMS"

// debianProgram is a program of Debian that TestPrograms converts.
type debianProgram struct {
	name   string // of its Debian package
	file   string // that the desktop opens with it; "" means none
	prints bool
	gnome  bool
	plasma bool
}

var debianPrograms = []debianProgram{
	{"chromium", "seite.html", true, true, true},
	{"featherpad", "brief.txt", true, true, true},
	{"galculator", "", false, true, true},
	{"gimp", "bild.png", false, true, true}, // it has no key to print
	{"gnome-chess", "", false, true, false},
	{"gnumeric", "tabelle.csv", true, true, true},
	{"gwenview", "bild.png", true, true, true},
	{"inkscape", "zeichnung.svg", true, true, true},
	{"kate", "brief.txt", true, true, true},
	{"kcalc", "", false, true, true},
	{"meld", "", false, true, false},
	{"mousepad", "brief.txt", true, true, true},
	{"okular", "blatt.pdf", true, true, true},
}

// programFiles are the files that programs open, and their types.
var programFiles = map[string]struct{ mime, text string }{
	"brief.txt":     {"text/plain", "Sehr geehrte Damen und Herren\n"},
	"seite.html":    {"text/html", "<!DOCTYPE html><title>seite.html</title><p>Guten Tag"},
	"tabelle.csv":   {"text/csv", "eins,zwei\n1,2\n"},
	"zeichnung.svg": {"image/svg+xml", `<svg xmlns="http://www.w3.org/2000/svg" width="100" height="100"><circle cx="50" cy="50" r="40" fill="teal"/></svg>` + "\n"},
	"bild.png":      {"image/png", ""}, // made by ImageMagick
	"blatt.pdf": {"application/pdf", "%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj 2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n" +
		"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 300]>>endobj\ntrailer<</Root 1 0 R>>\n"},
}

// withPrograms is a desktop with a printer, German, an X server for programs without Wayland, more
// packages, and the Debian packages of programs.
func withPrograms(desktop suite.Set, names []string, more ...string) suite.Set {
	return suite.Set{
		Name:     desktop.Name + "-programs",
		Packages: slices.Concat(desktop.Packages, []string{"xwayland", "cups-daemon", "cups-client", "locales"}, more),
		Setup: `set -e
echo 'de_DE.UTF-8 UTF-8' > /etc/locale.gen
locale-gen
echo 'FileDevice Yes' >> /etc/cups/cups-files.conf
for program in ` + strings.Join(names, " ") + `; do
	apt-get clean
	apt-get -qq install --yes --no-install-recommends --download-only $program
	mkdir -p ` + programsDir + `/$program
	mv /var/cache/apt/archives/*.deb ` + programsDir + `/$program
done
`,
	}
}

// TestPrograms takes programs from Debian as a user would, and installs them as files. Each is
// opened from the menu by keys, in German, refreshed while it is open, opens a file when the
// desktop opens that, prints, and is reverted. It is long: `make desktops` runs it.
func TestPrograms(t *testing.T) {
	for _, d := range []struct {
		name  string
		set   suite.Set
		has   func(debianProgram) bool
		start func(*testing.T) screenDesk
		more  []string // packages
	}{
		{"gnome", suite.GNOME, func(p debianProgram) bool { return p.gnome }, startGermanGNOME, []string{"xdg-desktop-portal-gtk"}},
		{"plasma", suite.Plasma, func(p debianProgram) bool { return p.plasma }, startGermanPlasma, nil},
	} {
		t.Run(d.name, func(t *testing.T) {
			var list []debianProgram
			var names []string
			wanted := strings.Fields(os.Getenv(programsEnv))
			for _, p := range debianPrograms {
				if d.has(p) {
					names = append(names, p.name)
					if len(wanted) == 0 || slices.Contains(wanted, p.name) {
						list = append(list, p)
					}
				}
			}
			if os.Getenv(insideEnv) == "" {
				require.Container(t)
				if os.Getenv("LULL_DESKTOPS") == "" {
					t.Skip("`make desktops` runs this")
				}
				onDesktop(t, withPrograms(d.set, names, d.more...), time.Duration(len(list))*10*time.Minute)
				return
			}
			makeFiles(t)
			addPrinter(t)
			all := make([]*converted, 0, len(list))
			for _, p := range list {
				if c := installProgram(t, p); c != nil {
					all = append(all, c)
				}
			}
			desk := d.start(t)
			for _, c := range all {
				t.Run(c.name, func(t *testing.T) { c.lives(t, desk) })
			}
		})
	}
}

// screenDesk is a desktop with windows, as a user has it.
type screenDesk interface {
	// openFromMenu opens a program by its name in the menu, by keys.
	openFromMenu(t *testing.T, id, title string)
	// windows lists the windows: their titles.
	windows(t *testing.T) []string
	// closeAll asks all windows to close; but, unless it is "", those with it in the title.
	closeAll(t *testing.T, but string)
	// key presses and releases a key with modifiers, by the names of X.
	key(t *testing.T, names ...string)
	// openCommand is the command by which the desktop opens a file on a double click.
	openCommand() []string
	picture(name string)
}

// converted is an installed program.
type converted struct {
	debianProgram
	pkg   string // of lull
	id    string // of its menu entry
	title string // its name in the menu, in German
}

// install installs the program's files; flags are before them.
func (p debianProgram) install(flags ...string) ([]byte, error) {
	debs, err := filepath.Glob(filepath.Join(programsDir, p.name, "*.deb"))
	if err != nil {
		return nil, err
	}
	own := func(deb string) bool { return strings.HasPrefix(filepath.Base(deb), p.name+"_") }
	slices.SortStableFunc(debs, func(a, b string) int { // the first one names the package
		switch {
		case own(a) == own(b):
			return 0
		case own(a):
			return -1
		}
		return 1
	})
	with := filepath.Join(os.TempDir(), p.name+".yaml")
	if err := os.WriteFile(with, []byte("data: xdg\n"), 0o644); err != nil {
		return nil, err
	}
	return exec.Command("lull", slices.Concat([]string{"install", "--yes", "--with", with}, flags, debs)...).CombinedOutput()
}

// installProgram installs a program and finds its menu entry.
func installProgram(t *testing.T, p debianProgram) *converted {
	t.Helper()
	before := listed(t)
	out, err := p.install()
	if err != nil {
		t.Errorf("lull install of %s: %v\n%s", p.name, err, out)
		return nil
	}
	c := &converted{debianProgram: p}
	for name := range listed(t) {
		if before[name] == "" {
			c.pkg = name
		}
	}
	entries, err := filepath.Glob("/var/lib/lull/exports/share/applications/*.desktop")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range entries {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		group, _, _ := strings.Cut(string(data), "\n[Desktop Action")
		id := strings.TrimSuffix(filepath.Base(path), ".desktop")
		wrapper := func(name string) bool {
			return strings.Contains(group, "/exports/bin/"+name+"\n") || strings.Contains(group, "/exports/bin/"+name+" ")
		}
		if strings.Contains(group, "NoDisplay=true") || !wrapper(c.pkg) && !strings.Contains(group, "/exports/bin/"+c.pkg+".") && !wrapper(c.name) || c.id != "" && len(id) > len(c.id) {
			continue // such as the settings of a program
		}
		c.id = id
		for _, key := range []string{"\nName=", "\nName[de]="} {
			if _, rest, ok := strings.Cut(group, key); ok {
				c.title, _, _ = strings.Cut(rest, "\n")
			}
		}
	}
	if c.id == "" {
		t.Errorf("%s (%s) has no menu entry, want one in %q", p.name, c.pkg, entries)
		return nil
	}
	t.Logf("%s: package %s, menu entry %s, in German %q", c.name, c.pkg, c.id, c.title)
	return c
}

// listed returns the installed packages with their versions.
func listed(t *testing.T) map[string]string {
	t.Helper()
	var list struct {
		Packages []struct{ Name, Version string }
	}
	if err := json.Unmarshal([]byte(lull(t, "list", "--json")), &list); err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, p := range list.Packages {
		all[p.Name] = p.Version
	}
	return all
}

// makeFiles makes the files that programs open.
func makeFiles(t *testing.T) {
	t.Helper()
	for name, f := range programFiles {
		if err := os.WriteFile(userFile(name), []byte(f.text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// Without a color profile, about which GIMP would ask.
	if out, err := exec.Command("convert", "-size", "200x200", "gradient:teal-orange", "-strip", "-define", "png:include-chunk=none", userFile("bild.png")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := exec.Command("sh", "-c", "chown "+suite.Tester+": /home/"+suite.Tester+"/*.*").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func userFile(name string) string { return filepath.Join("/home", suite.Tester, name) }

// paperPPD describes a printer for PDF and PostScript on A4. Chromium prints on no printer without a description.
const paperPPD = `*PPD-Adobe: "4.3"
*FormatVersion: "4.3"
*FileVersion: "1.0"
*LanguageVersion: English
*LanguageEncoding: ISOLatin1
*PCFileName: "PAPER.PPD"
*Manufacturer: "Lull"
*Product: "(Paper)"
*ModelName: "Paper"
*ShortNickName: "Paper"
*NickName: "Paper"
*PSVersion: "(3010.000) 0"
*LanguageLevel: "3"
*ColorDevice: True
*DefaultColorSpace: RGB
*FileSystem: False
*cupsVersion: 2.2
*cupsFilter2: "application/pdf application/pdf 0 -"
*cupsFilter2: "application/postscript application/postscript 0 -"
*OpenUI *PageSize/Page Size: PickOne
*OrderDependency: 10 AnySetup *PageSize
*DefaultPageSize: A4
*PageSize A4/A4: "<</PageSize[595 842]/ImagingBBox null>>setpagedevice"
*CloseUI: *PageSize
*OpenUI *PageRegion/Page Region: PickOne
*OrderDependency: 10 AnySetup *PageRegion
*DefaultPageRegion: A4
*PageRegion A4/A4: "<</PageSize[595 842]/ImagingBBox null>>setpagedevice"
*CloseUI: *PageRegion
*DefaultImageableArea: A4
*ImageableArea A4/A4: "18 18 577 824"
*DefaultPaperDimension: A4
*PaperDimension A4/A4: "595 842"
`

// addPrinter adds a printer that prints into a file.
func addPrinter(t *testing.T) {
	t.Helper()
	ppd := filepath.Join(t.TempDir(), "paper.ppd")
	if err := os.WriteFile(ppd, []byte(paperPPD), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, argv := range [][]string{
		{"systemctl", "start", "cups.service"},
		{"lpadmin", "-p", "papier", "-v", "file:///var/tmp/papier", "-P", ppd, "-E"},
		{"lpadmin", "-d", "papier"},
	} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", argv, err, out)
		}
	}
}

// printed counts the documents that CUPS has received.
func printed() int {
	files, _ := filepath.Glob("/var/spool/cups/d*")
	return len(files)
}

// lives takes a program through its life.
func (c *converted) lives(t *testing.T, desk screenDesk) {
	first := listed(t)[c.pkg]
	defer func() {
		if t.Failed() {
			desk.picture("failed-" + c.name)
			out, err := exec.Command("journalctl", "--boot", "--no-pager", "--since=-3min", "--lines=60", "--output=cat").CombinedOutput()
			t.Logf("%s\n%v\n%s", lull(t, "status", c.pkg), err, out)
		}
		desk.closeAll(t, "")
	}()
	desk.openFromMenu(t, c.id, c.title)
	c.opened(t, desk, "1", "")
	desk.picture("program-" + c.name)
	if g, ok := desk.(germanGNOME); ok && c.name == "chromium" {
		c.choosesByPortal(t, g)
	}
	out, err := c.install("--version", "99:999")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 75 {
		t.Fatalf("a refresh while it is open: got %v, want exit status 75\n%s", err, out)
	}
	if g, ok := desk.(germanGNOME); ok {
		// The helper was started before the session, without its language.
		var seen []notice
		c.until(t, "a notice in German reports the update", func() (bool, string) {
			seen = g.notices()
			return slices.ContainsFunc(seen, func(n notice) bool { return strings.HasSuffix(n.Title, "ist bereit") }), fmt.Sprint(seen)
		})
	}
	c.closed(t, desk)
	c.until(t, "it is refreshed", func() (bool, string) { v := listed(t)[c.pkg]; return v == "99:999", v })

	if c.file == "" {
		desk.openFromMenu(t, c.id, c.title)
	} else {
		run := func(argv ...string) {
			t.Helper()
			// The opened program has no output of this test, which would wait for its end.
			argv = append([]string{"systemd-run", "--user", "--quiet", "--wait", "--collect", "--property=KillMode=process"}, argv...)
			if out, err := asUser(argv...).CombinedOutput(); err != nil {
				t.Fatalf("%q: %v\n%s", argv, err, out)
			}
		}
		run("xdg-mime", "default", c.id+".desktop", programFiles[c.file].mime)
		run(append(desk.openCommand(), userFile(c.file))...)
	}
	c.opened(t, desk, "2", c.titled())
	desk.picture("opened-" + c.name)
	if c.prints {
		c.printsPage(t, desk)
	}
	c.closed(t, desk)
	if out, err := exec.Command("lull", "revert", c.pkg).CombinedOutput(); err != nil {
		t.Fatalf("lull revert: %v\n%s", err, out)
	}
	if v := listed(t)[c.pkg]; v != first {
		t.Errorf("after a revert: got version %s, want %s", v, first)
	}
	desk.openFromMenu(t, c.id, c.title)
	c.opened(t, desk, "1", "")
	c.closed(t, desk)
}

// titled is a part of the title of the window with the file. GIMP leaves the extension out.
func (c *converted) titled() string { return strings.TrimSuffix(c.file, filepath.Ext(c.file)) }

// until waits for a state that has no event.
func (c *converted) until(t *testing.T, what string, cond func() (bool, string)) {
	t.Helper()
	for end := time.Now().Add(2 * patience); ; time.Sleep(200 * time.Millisecond) {
		ok, seen := cond()
		if ok {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s: %s", what, seen)
		}
	}
}

// opened waits until a window is there that has a title, and checks that the program is of a
// revision and has the profile of that one.
func (c *converted) opened(t *testing.T, desk screenDesk, revision, title string) {
	t.Helper()
	var list []string
	c.until(t, "it has a window "+title, func() (bool, string) {
		list = desk.windows(t)
		return slices.ContainsFunc(list, func(w string) bool { return w != "" && strings.Contains(w, title) }), fmt.Sprintf("%q", list)
	})
	time.Sleep(3 * time.Second) // it draws itself, which has no event
	t.Logf("%s: windows %q", c.name, desk.windows(t))
	want := "/" + c.pkg + "/" + revision + "/xdg/config\x00"
	out, err := exec.Command("sh", "-c", "cat $(grep -lz '^LULL_INSTANCE="+c.pkg+"$' /proc/[0-9]*/environ)").Output()
	if err != nil || !strings.Contains(string(out), want) {
		t.Errorf("%s: got no process with the profile …%s (%v), want one", c.name, want, err)
	}
}

// closed closes the windows, and waits until the program has ended.
func (c *converted) closed(t *testing.T, desk screenDesk) {
	t.Helper()
	c.until(t, "it is closed", func() (bool, string) {
		desk.closeAll(t, "")
		time.Sleep(time.Second) // a program asked again while it closes may ask its user
		state := lull(t, "status", c.pkg)
		return len(desk.windows(t)) == 0 && strings.Contains(state, "Running:      no"), fmt.Sprintf("%q\n%s", desk.windows(t), state)
	})
}

// printsPage prints by the program's dialog.
func (c *converted) printsPage(t *testing.T, desk screenDesk) {
	t.Helper()
	before := printed()
	desk.closeAll(t, c.titled()) // such as a welcome
	time.Sleep(2 * time.Second)  // the focus comes back, which has no event
	desk.key(t, "ctrl", "p")
	time.Sleep(4 * time.Second) // dialogs of toolkits have no common event
	desk.picture("print-" + c.name)
	// The first one is Drucken, which Qt has in English without its translations; in Chromium it is
	// the line of addresses.
	confirm := [][]string{{"alt", "d"}, {"alt", "p"}, {"Return"}}
	if c.name == "chromium" {
		confirm = confirm[2:]
	}
	tries := 0
	c.until(t, "a page is printed", func() (bool, string) {
		if printed() > before {
			return true, ""
		}
		if tries++; tries%10 == 1 {
			desk.key(t, confirm[tries/10%len(confirm)]...)
		}
		return false, fmt.Sprintf("%q", desk.windows(t))
	})
	time.Sleep(2 * time.Second) // the dialog goes, which has no event
}
