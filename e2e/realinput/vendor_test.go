package realinput_test

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

// trialsEnv requests the trials of programs that are too large for each run.
const trialsEnv = "LULL_TRIALS"

func requested(t *testing.T) {
	t.Helper()
	if os.Getenv(trialsEnv) == "" {
		t.Skipf("%s=1 requests it", trialsEnv)
	}
}

// TestJava: jEdit, which is written in Java, is installed from its files of Debian, and runs
// with the machine's Java. Its scripts and libraries are at their paths by a layout.
func TestJava(t *testing.T) {
	requested(t)
	require.Program(t, "java")
	require.File(t, "/usr/lib/jvm")
	w, d := trialWorld(t)
	w.User.Env = append(w.User.Env, "JAVA_TOOL_OPTIONS=-Duser.home="+w.User.Home+" -XX:-UsePerfData") // Java reads the home in passwd, and writes to /tmp
	deb, library := newest(t, "jedit"), newest(t, "java-wrappers")
	version := strings.TrimSpace(output(t, "", "dpkg-deb", "-f", deb, "Version"))
	c := trial{name: "jedit", label: "jEdit", versions: [2]string{version, version + "+again"}, titles: [2]string{"Untitled-1", "Untitled-1"}, menu: "jedit.desktop", keys: "ctrl+q"}
	c.install = [2][]string{{deb, library}, {repacked(t, deb), library}}
	c.check = func(p *rig.Proc) {
		if maps := w.Admin.Run("cat", "/proc/"+strconv.Itoa(p.PID)+"/maps").Stdout; !strings.Contains(maps, "/libjvm.so\n") {
			t.Errorf("the memory of process %d: got %d bytes of maps without libjvm.so, want it", p.PID, len(maps))
		}
	}
	c.play(t, w, d)
}

// TestFirefoxFile: Firefox is installed from its files of Debian, in two versions, without a
// lull.yaml.
func TestFirefoxFile(t *testing.T) {
	requested(t)
	w, d := trialWorld(t)
	versions, files := debs(t, "firefox-esr")
	c := trial{name: "firefox-esr", label: "Firefox ESR", versions: versions, menu: "firefox-esr.desktop", keys: "ctrl+q"}
	profile, page := filepath.Join(w.User.Home, "profile"), w.Path("page.html")
	write(t, w, filepath.Join(profile, "user.js"), firefoxPrefs)
	text := "<!doctype html><title>opening</title><h1>A page</h1><script>document.title = 'In ' + navigator.userAgent.split('Firefox/')[1]</script>"
	if err := os.WriteFile(page, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	for i, version := range versions {
		major, _, _ := strings.Cut(version, ".")
		c.install[i], c.titles[i] = []string{files[i]}, "In "+major+".0"
	}
	c.args = []string{"--no-remote", "--allow-downgrade", "--profile", profile, "file://" + page}
	c.play(t, w, d)
}

// TestPython: Meld, which is written in Python, is installed from its files of Debian with the
// typelibs that it needs.
func TestPython(t *testing.T) {
	requested(t)
	w, d := trialWorld(t)
	var one, two []string
	for i, name := range strings.Fields("meld gir1.2-gtksource-4 libgtksourceview-4-0 libgtksourceview-4-common gir1.2-gtk-3.0 gir1.2-atk-1.0 gir1.2-freedesktop gir1.2-gdkpixbuf-2.0 gir1.2-harfbuzz-0.0 gir1.2-pango-1.0 python3-cairo python3-gi-cairo") {
		deb := newest(t, name)
		one, two = append(one, deb), append(two, deb)
		if i == 0 {
			two[0] = repacked(t, deb)
		}
	}
	version := strings.TrimSpace(output(t, "", "dpkg-deb", "-f", one[0], "Version"))
	left, right := filepath.Join(w.User.Home, "left.txt"), filepath.Join(w.User.Home, "right.txt")
	write(t, w, left, "one\ntwo\n")
	write(t, w, right, "one\nthree\n")
	trial{name: "org.gnome.Meld", label: "Meld", versions: [2]string{version, version + "+again"}, titles: [2]string{"Meld", "Meld"},
		install: [2][]string{append([]string{"--yes"}, one...), append([]string{"--yes"}, two...)}, args: []string{left, right}, menu: "org.gnome.Meld.desktop", keys: "ctrl+q"}.play(t, w, d)
}

// vendorPostinst is like those of vendors of browsers: it adds their repository and gives rights.
const vendorPostinst = `#!/bin/sh
set -e
chmod 4755 /opt/example/chromium/chrome-sandbox
echo 'deb https://example.org/apt stable main' >/etc/apt/sources.list.d/example.list
update-alternatives --install /usr/bin/x-www-browser x-www-browser /usr/bin/chromium-example 200
`

// vendorChromium makes a package like those of vendors, in /opt, of Debian's Chromium.
func vendorChromium(t *testing.T, debs []string, version string) string {
	t.Helper()
	tree, parts := t.TempDir(), t.TempDir()
	for _, deb := range debs {
		output(t, "", "dpkg-deb", "-x", deb, parts)
	}
	for _, dir := range []string{"opt/example", "usr/bin", "usr/share/applications", "usr/share/icons", "DEBIAN"} {
		if err := os.MkdirAll(filepath.Join(tree, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for from, to := range map[string]string{"usr/lib/chromium": "opt/example/chromium", "usr/share/icons/hicolor": "usr/share/icons/hicolor"} {
		if err := os.Rename(filepath.Join(parts, from), filepath.Join(tree, to)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/opt/example/chromium/chromium", filepath.Join(tree, "usr/bin/chromium-example")); err != nil {
		t.Fatal(err)
	}
	for path, f := range map[string]struct {
		text string
		mode os.FileMode
	}{
		"usr/share/applications/chromium-example.desktop": {"[Desktop Entry]\nType=Application\nName=Chromium of a vendor\nExec=/usr/bin/chromium-example %U\nIcon=chromium\nMimeType=text/html;\n", 0o644},
		"DEBIAN/control":  {"Package: chromium-example\nVersion: " + version + "\nArchitecture: amd64\nMaintainer: A <a@example.org>\nDescription: a browser\n", 0o644},
		"DEBIAN/postinst": {vendorPostinst, 0o755},
	} {
		if err := os.WriteFile(filepath.Join(tree, path), []byte(f.text), f.mode); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(t.TempDir(), "chromium-example_"+version+"_amd64.deb")
	output(t, "", "dpkg-deb", "--root-owner-group", "-Zzstd", "-z1", "--build", tree, file)
	return file
}

// TestChromium: a vendor's package of Chromium in /opt, in two versions. Its setuid helper has no
// rights, and the sandbox of the pages is made with user namespaces.
func TestChromium(t *testing.T) {
	requested(t)
	w, d := trialWorld(t)
	c := trial{name: "chromium-example", label: "Chromium of a vendor", menu: "chromium-example.desktop", keys: "ctrl+shift+w"}
	var parts [2][]string
	for _, name := range []string{"chromium", "chromium-common", "chromium-sandbox"} {
		versions, files := debs(t, name)
		for i := range versions {
			version, _, _ := strings.Cut(versions[i], "-")
			c.versions[i], parts[i] = version, append(parts[i], files[i])
		}
	}
	with, page := w.Path("with.yaml"), w.Path("page.html")
	for path, text := range map[string]string{with: "data: xdg\n", page: "<!doctype html><title>opening</title><h1>A page</h1><p id=p></p><script>document.title = 'In ' + navigator.userAgentData.brands.map(b => b.version).sort((a, b) => b - a)[0];" +
		" p.textContent = navigator.userAgent</script>"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for i, version := range c.versions {
		major, _, _ := strings.Cut(version, ".")
		c.install[i], c.titles[i] = []string{"--with", with, vendorChromium(t, parts[i], version)}, "In "+major
	}
	c.args = []string{"--no-first-run", "--no-default-browser-check", "--password-store=basic", "file://" + page}
	c.check = func(p *rig.Proc) { sandboxed(t, w, p) }
	r := w.MustLull("publish", "--show", c.install[0][2])
	for _, words := range []string{
		"opt/example/chromium/chrome-sandbox: its set-user-id and set-group-id bits are dropped\n",
		"the maintainer script postinst (it would register an alternative, make a file set-user-id, configure a package source) does not run\n",
	} {
		if !strings.Contains(r.Stderr, words) {
			t.Errorf("the remarks about %s: got %v, want %q in it", c.install[0][2], r, words)
		}
	}
	c.play(t, w, d)
}

// sandboxed checks that the processes of pages are in a user namespace of their own, below that
// of the browser, and have a filter of system calls, and that no process uses the setuid helper.
func sandboxed(t *testing.T, w *rig.World, browser *rig.Proc) {
	t.Helper()
	namespace := func(pid string) string {
		to, err := os.Readlink("/proc/" + pid + "/ns/user")
		if err != nil {
			return "" // it has ended
		}
		return to
	}
	var seen []string
	w.Until("a page is in its sandbox", limit, func() (bool, string) {
		seen = nil
		processes, _ := filepath.Glob("/proc/[0-9]*")
		for _, p := range processes {
			if program, _ := os.Readlink(p + "/exe"); !strings.HasPrefix(program, w.Store+"/") {
				continue // of another browser on this machine
			}
			command, _ := os.ReadFile(p + "/cmdline")
			status, _ := os.ReadFile(p + "/status")
			words := strings.Split(string(command), "\x00")
			if strings.HasSuffix(words[0], "chrome-sandbox") {
				t.Errorf("process %s is the setuid helper, want none", p)
			}
			if !slices.Contains(words, "--type=renderer") && !strings.Contains(string(command), "--type=renderer ") {
				continue
			}
			pid := filepath.Base(p)
			own := namespace(pid)
			filtered := strings.Contains(string(status), "\nSeccomp:\t2\n")
			seen = append(seen, pid+" "+own+" filtered "+strconv.FormatBool(filtered))
			if own != "" && own != namespace(strconv.Itoa(browser.PID)) && own != namespace("self") && filtered {
				return true, ""
			}
		}
		return false, strings.Join(seen, ", ") + "; the browser " + namespace(strconv.Itoa(browser.PID)) + "\n" + browser.Log()
	})
	t.Logf("a page: %q; the browser: %s; the test: %s", seen, namespace(strconv.Itoa(browser.PID)), namespace("self"))
}
