package desktops_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig/suite"
)

// TestGNOME opens an application from GNOME Shell's overview and in other ways
// repeatedly, while a refresh waits for it.
func TestGNOME(t *testing.T) {
	if os.Getenv(insideEnv) != "" {
		gnomeScene(t)
		return
	}
	require.Container(t)
	set := suite.GNOME
	if os.Getenv("LULL_DESKTOPS") != "" {
		set = withKIO(set)
	}
	onDesktop(t, set, 0)
}

// withKIO is GNOME with the tools by which programs of KDE start others.
func withKIO(gnome suite.Set) suite.Set {
	return suite.Set{Name: gnome.Name + "-kio", Packages: append(slices.Clone(gnome.Packages), "kde-cli-tools", "qt6-wayland")}
}

// gnomeScript is a session of GNOME Shell. The shell is a unit of the user's
// manager, as in a session that gdm starts: only then does it move what it starts
// into scopes.
const gnomeScript = `set -e
export XDG_CURRENT_DESKTOP=GNOME XDG_SESSION_DESKTOP=gnome LIBGL_ALWAYS_SOFTWARE=1
dbus-update-activation-environment --systemd XDG_CURRENT_DESKTOP XDG_SESSION_DESKTOP XDG_SESSION_TYPE XDG_SESSION_ID LIBGL_ALWAYS_SOFTWARE
gsettings set org.gnome.desktop.interface enable-animations false
mkdir -p ~/.config/systemd/user
printf '[Service]\nType=notify\nNotifyAccess=all\nSlice=session.slice\nExecStart=gnome-shell --headless --virtual-monitor 1280x800 --unsafe-mode --wayland-display wayland-0\n' \
	> ~/.config/systemd/user/test-server.service
systemctl --user daemon-reload
systemctl --user start test-server
dbus-update-activation-environment --systemd WAYLAND_DISPLAY=wayland-0
gdbus wait --session org.gnome.Shell
exec sleep infinity
`

// gnome is a running GNOME Shell.
type gnome struct {
	t    *testing.T
	conn *dbus.Conn
}

// startGNOME starts a session of the user's, and returns when the shell answers.
func startGNOME(t *testing.T) *gnome {
	t.Helper()
	conn := sessionBus(t)
	over := session(t, "wayland", gnomeScript)
	g := &gnome{t: t, conn: conn}
	untilName(t, conn, "org.gnome.Shell", over)
	// The name is there before the shell has started up.
	g.await("the shell has started up", "Main.layoutManager._startingUp === false && Main.overview")
	return g
}

// try evaluates JavaScript in the shell, which --unsafe-mode allows.
func (g *gnome) try(js string) (string, error) {
	var ok bool
	var out string
	if err := g.conn.Object("org.gnome.Shell", "/org/gnome/Shell").Call("org.gnome.Shell.Eval", 0, js).Store(&ok, &out); err != nil {
		return "", err
	}
	if !ok {
		return "", fmt.Errorf("%s: %s", js, out)
	}
	return out, nil
}

func (g *gnome) eval(js string) string {
	g.t.Helper()
	out, err := g.try(js)
	if err != nil {
		g.t.Fatal(err)
	}
	return out
}

// click opens a program as a click on its icon in the overview does.
func (g *gnome) click(id string) {
	g.t.Helper()
	g.eval("Main.overview.show(); Shell.AppSystem.get_default().lookup_app('" + id + ".desktop').activate(); Main.overview.hide(); 1")
}

// search opens a program by keys: the overview, its name, Return.
func (g *gnome) search(s subject) {
	g.t.Helper()
	g.eval(`Main.overview.show(); 1`)
	g.await("the overview is there", `Main.overview.visible && !Main.overview.animationInProgress`)
	for _, key := range s.shownName() {
		g.key(int(key))
	}
	const result = "Main.overview.searchController._searchResults._defaultResult" // of an application: its icon
	g.await("the search has found it", result+"?.app?.get_id() === '"+s.id+".desktop'")
	g.key(0xff0d) // Return
	g.await("the overview has gone", `!Main.overview.visible`)
}

// menu opens a program by the pointer: its icon among those of all applications.
func (g *gnome) menu(s subject) {
	g.t.Helper()
	g.eval(`Main.overview.showApps(); 1`)
	const display = "Main.overview._overview.controls.appDisplay"
	icon := display + "._items.get('" + s.id + ".desktop')"
	g.await("the overview is there", `Main.overview.visible && !Main.overview.animationInProgress && Main.overview.dash.showAppsButton.checked`)
	g.await("the overview has "+s.id, icon+"?.mapped && "+icon+".width > 0")
	g.eval(`(() => {
		const {Clutter, GLib} = imports.gi;
		globalThis.testPointer ??= (Clutter.get_default_backend?.() ?? global.stage.get_context().get_backend()).get_default_seat().create_virtual_device(Clutter.InputDeviceType.POINTER_DEVICE);
		const icon = ` + icon + `;
		` + display + `.goToPage?.(` + display + `._grid.getItemPosition(icon)[0], false);
		const [x, y] = icon.get_transformed_position();
		testPointer.notify_absolute_motion(GLib.get_monotonic_time(), x + icon.width / 2, y + icon.height / 2);
		testPointer.notify_button(GLib.get_monotonic_time(), Clutter.BUTTON_PRIMARY, Clutter.ButtonState.PRESSED);
		testPointer.notify_button(GLib.get_monotonic_time(), Clutter.BUTTON_PRIMARY, Clutter.ButtonState.RELEASED);
		return 1;
	})()`)
	g.await("the overview has gone", `!Main.overview.visible`)
}

// key presses and releases a key with modifiers, by their X key symbols.
func (g *gnome) key(symbol int, modifiers ...int) {
	g.t.Helper()
	symbols, err := json.Marshal(append(modifiers, symbol))
	if err != nil {
		g.t.Fatal(err)
	}
	g.eval(fmt.Sprintf(`(() => {
		const Clutter = imports.gi.Clutter;
		globalThis.testKeys ??= (Clutter.get_default_backend?.() ?? global.stage.get_context().get_backend()).get_default_seat().create_virtual_device(Clutter.InputDeviceType.KEYBOARD_DEVICE);
		const keys = %s;
		for (const key of keys)
			testKeys.notify_keyval(imports.gi.GLib.get_monotonic_time(), key, Clutter.KeyState.PRESSED);
		for (const key of keys.reverse())
			testKeys.notify_keyval(imports.gi.GLib.get_monotonic_time(), key, Clutter.KeyState.RELEASED);
		return 1;
	})()`, symbols))
}

// await waits until an expression is true in the shell, which sends no signal
// for it.
func (g *gnome) await(what, js string) {
	g.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		out, err := g.try("!!(" + js + ")")
		if err == nil && out == "true" {
			return
		}
		if time.Now().After(end) {
			g.t.Fatalf("waited in vain until %s: %q %v", what, out, err)
		}
	}
}

// openers are GNOME's.
func (g *gnome) openers(term *terminal) []opener {
	list := []opener{
		{name: "icon", stays: true, open: func(s subject) { g.click(s.id) }},
		{name: "search", stays: true, open: g.search},
		term.opener("xdg-open", true, "xdg-open DOCUMENT"),
		{name: "icon by D-Bus", open: func(s subject) { g.click(s.bells()) }},
	}
	version, err := g.conn.Object("org.gnome.Shell", "/org/gnome/Shell").GetProperty("org.gnome.Shell.ShellVersion")
	if err != nil {
		g.t.Fatal(err)
	}
	// The virtual pointer misses the icon in GNOME 51.
	if text, _ := version.Value().(string); strings.HasPrefix(text, "48.") {
		list = append(list, opener{name: "menu", stays: true, open: g.menu})
	}
	return list
}

// notice is what the shell's list of notifications has.
type notice struct {
	Title, Body string
	Buttons     []string
}

func (g *gnome) notices() (list []notice) {
	g.t.Helper()
	out := g.eval("JSON.stringify(Main.messageTray.getSources().flatMap(s => s.notifications).map(n => ({Title: n.title, Body: n.body, Buttons: n.actions.map(a => a.label)})))")
	var text string
	if err := json.Unmarshal([]byte(out), &text); err != nil {
		text = out
	}
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		g.t.Fatalf("%v: %s", err, out)
	}
	return list
}

// picture keeps a picture of the screen.
func (g *gnome) picture(name string) {
	g.t.Helper()
	path := filepath.Join(pictureDir, name+".png")
	var ok bool
	var used string
	err := g.conn.Object("org.gnome.Shell.Screenshot", "/org/gnome/Shell/Screenshot").Call("org.gnome.Shell.Screenshot.Screenshot", 0, false, false, path).Store(&ok, &used)
	if err != nil || !ok {
		g.t.Errorf("cannot take a picture: %v", err)
	}
}

// gnomeScene is the inside of TestGNOME.
func gnomeScene(t *testing.T) {
	m := listen(t)
	installed(t)
	installOwn(t)
	g := startGNOME(t)
	for _, id := range []string{ours.id, ours.bells(), twin.id, twin.bells()} {
		g.await("the shell knows "+id, "Shell.AppSystem.get_default().lookup_app('"+id+".desktop')")
	}
	opened(t, m, g.conn, g.openers)
	waited(t, m, g)
	asksPortal(t)
	opensOwn(t, g)
}

// waited: a waiting refresh has a notice with buttons, which is withdrawn when
// the application was closed.
func waited(t *testing.T, m *marks, g *gnome) {
	g.click(app)
	at := m.next("the application starts")
	// Not before: the agent refreshes by itself what does not run. And a security update,
	// as the launches before have had their notice for today.
	publish(t, 2*launches(t)+2, "--urgency", "security")
	if status := refresh(t); status != 75 {
		t.Fatalf("lull refresh exits with %d while %v runs, want 75", status, at)
	}
	var seen []notice
	about := func() bool {
		seen = g.notices()
		return slices.ContainsFunc(seen, func(n notice) bool { return strings.Contains(n.Title+n.Body, "Marks") && len(n.Buttons) > 0 })
	}
	g.until("there is a notice with buttons", about, &seen)
	t.Logf("GNOME Shell shows %+v", seen)
	g.picture("gnome-waits")
	if err := syscall.Kill(at.pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	m.next("the application ends")
	g.until("the notice is gone", func() bool { return !about() || !strings.Contains(fmt.Sprint(seen), "wait") }, &seen)
}

// until waits for a state of the shell that has no signal on the bus.
func (g *gnome) until(what string, cond func() bool, seen *[]notice) {
	g.t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			g.t.Fatalf("waited in vain until %s: %+v", what, *seen)
		}
	}
}
