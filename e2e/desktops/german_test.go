package desktops_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// german makes a session of the user's German.
func german(script string) string {
	return strings.Replace(script, "set -e\n", "set -e\nexport LANG=de_DE.UTF-8 LANGUAGE=de\ndbus-update-activation-environment --systemd LANG LANGUAGE\n", 1)
}

// keysyms are X key symbols by name.
var keysyms = map[string]int{"ctrl": 0xffe3, "alt": 0xffe9, "Return": 0xff0d, "Escape": 0xff1b}

func keysym(name string) int {
	if n, ok := keysyms[name]; ok {
		return n
	}
	r := []rune(name)[0]
	if r < 0x100 {
		return int(r)
	}
	return 0x01000000 + int(r)
}

// germanGNOME is GNOME Shell as a screenDesk.
type germanGNOME struct{ *gnome }

func startGermanGNOME(t *testing.T) screenDesk {
	t.Helper()
	conn := sessionBus(t)
	over := session(t, "wayland", german(gnomeScript))
	g := &gnome{t: t, conn: conn}
	untilName(t, conn, "org.gnome.Shell", over)
	g.await("the shell has started up", "Main.layoutManager._startingUp === false && Main.overview")
	// As gnome-session does: what is not started by the shell finds the X server, too.
	environment := g.eval("['DISPLAY', 'XAUTHORITY'].map(n => n + '=' + imports.gi.GLib.getenv(n)).join(' ')")
	argv := append([]string{"dbus-update-activation-environment", "--systemd"}, strings.Fields(strings.Trim(environment, `"`))...)
	if out, err := asUser(argv...).CombinedOutput(); err != nil {
		t.Fatalf("%q: %v\n%s", argv, err, out)
	}
	return germanGNOME{g}
}

// gnomeWindows are windows of programs. The shell does not open one again that was closed while it started.
const gnomeWindows = "global.get_window_actors().map(a => a.meta_window).filter(w => [0, 3, 4].includes(w.get_window_type()))"

func (g germanGNOME) openFromMenu(t *testing.T, id, title string) {
	t.Helper()
	g.t = t
	g.await("the shell knows "+id, "Shell.AppSystem.get_default().lookup_app('"+id+".desktop')")
	g.eval(`Main.overview.show(); 1`)
	g.await("the overview is there", `Main.overview.visible && !Main.overview.animationInProgress`)
	for _, r := range strings.ToLower(title) {
		g.gnome.key(keysym(string(r)))
	}
	g.await("the search finds "+title, "Main.overview.searchController._searchResults._defaultResult?.app?.get_id() === '"+id+".desktop'")
	g.gnome.key(keysym("Return"))
	g.await("the overview has gone", `!Main.overview.visible`)
}

func (g germanGNOME) windows(t *testing.T) (list []string) {
	t.Helper()
	g.t = t
	text := g.eval(gnomeWindows + ".filter(w => imports.gi.Shell.WindowTracker.get_default().get_window_app(w)?.get_state() !== imports.gi.Shell.AppState.STARTING).map(w => w.title + ' (' + imports.gi.Shell.WindowTracker.get_default().get_window_app(w)?.get_id() + ')').join('\\n')")
	for line := range strings.Lines(strings.ReplaceAll(strings.Trim(text, `"`), `\n`, "\n")) {
		list = append(list, strings.TrimSpace(line))
	}
	return list
}

func (g germanGNOME) closeAll(t *testing.T, but string) {
	t.Helper()
	g.t = t
	g.eval("Main.overview.hide(); " + gnomeWindows + fmt.Sprintf(".filter(w => !%q || !w.title.includes(%q))", but, but) + ".reverse().forEach(w => w.delete(global.get_current_time())); 1")
}

func (g germanGNOME) key(t *testing.T, names ...string) {
	t.Helper()
	g.t = t
	last := len(names) - 1
	modifiers := make([]int, last)
	for i, name := range names[:last] {
		modifiers[i] = keysym(name)
	}
	g.gnome.key(keysym(names[last]), modifiers...)
}

func (g germanGNOME) openCommand() []string { return []string{"gio", "open"} }

// germanPlasma is Plasma as a screenDesk. KWin reports its windows by a script.
type germanPlasma struct {
	t       *testing.T
	conn    *dbus.Conn
	dir     string
	reports chan string
}

func startGermanPlasma(t *testing.T) screenDesk {
	t.Helper()
	p := &germanPlasma{conn: sessionBus(t), dir: t.TempDir(), reports: make(chan string, 100)}
	untilName(t, p.conn, "org.freedesktop.Notifications", session(t, "wayland", german(plasmaScript)))
	if err := p.conn.Export(kwinReports(p.reports), "/windows", "org.lull.Test"); err != nil {
		t.Fatal(err)
	}
	p.t = t
	return p
}

// kwinReports receives what scripts of KWin report.
type kwinReports chan string

// Report is called by them.
func (r kwinReports) Report(text string) *dbus.Error {
	r <- text
	return nil
}

// script runs a script of KWin, which reports a text.
func (p *germanPlasma) script(t *testing.T, js string) string {
	t.Helper()
	path := "/var/tmp/kwin-script.js"
	text := fmt.Sprintf("callDBus(%q, '/windows', 'org.lull.Test', 'Report', String(%s));\n", p.conn.Names()[0], js)
	write := exec.Command("sh", "-c", "cat > "+path+" && chmod 0644 "+path)
	write.Stdin = strings.NewReader(text)
	if out, err := write.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	scripting := p.conn.Object("org.kde.KWin", "/Scripting")
	var id int32
	if err := scripting.Call("org.kde.kwin.Scripting.loadScript", 0, path, "lull-test").Store(&id); err != nil {
		t.Fatal(err)
	}
	defer scripting.Call("org.kde.kwin.Scripting.unloadScript", 0, "lull-test")
	if err := p.conn.Object("org.kde.KWin", dbus.ObjectPath(fmt.Sprintf("/Scripting/Script%d", id))).Call("org.kde.kwin.Script.run", 0).Err; err != nil {
		t.Fatal(err)
	}
	select {
	case text := <-p.reports:
		return text
	case <-time.After(patience):
		t.Fatalf("KWin does not run the script %s", js)
		return ""
	}
}

const plasmaWindows = "workspace.windowList().filter(w => w.normalWindow || w.dialog)"

func (p *germanPlasma) windows(t *testing.T) (list []string) {
	t.Helper()
	for line := range strings.Lines(p.script(t, plasmaWindows+".map(w => w.caption + ' (' + w.desktopFileName + ')').join('\\n')")) {
		list = append(list, strings.TrimSpace(line))
	}
	return list
}

func (p *germanPlasma) closeAll(t *testing.T, but string) {
	t.Helper()
	p.script(t, plasmaWindows+fmt.Sprintf(".filter(w => !%q || !w.caption.includes(%q))", but, but)+".reverse().map(w => w.closeWindow()).length")
}

func (p *germanPlasma) openFromMenu(t *testing.T, id, title string) {
	t.Helper()
	openFromStartMenu(t, title)
}

func (p *germanPlasma) key(t *testing.T, names ...string) {
	t.Helper()
	xdo(t, "key", strings.Join(names, "+"))
}

func (p *germanPlasma) openCommand() []string { return []string{"kioclient", "exec"} }

func (p *germanPlasma) picture(name string) {
	if out, err := exec.Command("env", "DISPLAY=:99", "import", "-window", "root", filepath.Join(pictureDir, "plasma-"+name+".png")).CombinedOutput(); err != nil {
		p.t.Errorf("cannot take a picture: %v\n%s", err, out)
	}
}
