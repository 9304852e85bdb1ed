package desktops_test

import (
	"errors"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/e2e/rig/suite"
)

// plasmaOpeners are Plasma's own: the start menu, the search of KRunner, and an icon in the panel.
func plasmaOpeners(term *terminal) []opener {
	panel := pinned(term.t, ours, twin)
	return []opener{
		{name: "start menu", stays: true, open: func(s subject) { openFromStartMenu(term.t, s.shownName()) }},
		{name: "search", stays: true, open: func(s subject) { openFromKRunner(term.t, s) }},
		{name: "icon", stays: true, open: func(s subject) { openFromPanel(panel, s) }},
		term.opener("xdg-open", true, "xdg-open DOCUMENT"),
		term.opener("KIO, document", true, "kioclient exec DOCUMENT"), // as a double click in Dolphin
	}
}

// withGTK is Plasma with gtk-launch.
func withGTK(plasma suite.Set) suite.Set {
	plasma.Packages = append(slices.Clone(plasma.Packages), "libgtk-3-bin")
	return plasma
}

// shownName is by what a person finds a subject in menus.
func (s subject) shownName() string {
	return map[string]string{ours.id: "marks", twin.id: "double"}[s.id]
}

// xdo moves the pointer and presses keys of Plasma's X server.
func xdo(t *testing.T, args ...string) {
	t.Helper()
	if out, err := asUser(append([]string{"env", "DISPLAY=:99", "xdotool"}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("xdotool %q: %v\n%s", args, err, out)
	}
}

// openFromStartMenu opens a program by mouse and keys: the button of the start menu, the
// program's name, Return.
func openFromStartMenu(t *testing.T, title string) {
	t.Helper()
	closed := newScreen(t)
	xdo(t, "mousemove", "31", "772", "click", "1")
	open := closed.until("the menu is open", 50_000)
	xdo(t, "type", strings.ToLower(title))
	open.until("the menu has found "+title, 5_000)
	xdo(t, "key", "Return")
}

// openFromKRunner opens a program by keys: KRunner's own, the program's name, Return.
func openFromKRunner(t *testing.T, s subject) {
	t.Helper()
	closed := newScreen(t)
	xdo(t, "key", "alt+F2")
	open := closed.until("KRunner is open", 10_000)
	xdo(t, "type", s.shownName())
	open.until("KRunner has found "+s.id, 5_000)
	xdo(t, "key", "Return")
}

// pinned puts icons of the subjects into the panel, beside the start menu, instead of Plasma's own. It
// returns how the panel looks then.
func pinned(t *testing.T, subjects ...subject) screen {
	t.Helper()
	var list []string
	for _, s := range subjects {
		list = append(list, `"applications:`+s.id+`.desktop"`)
	}
	before := newPart(t, "640x80+0+720")
	script := `panels().forEach(p => p.widgets("org.kde.plasma.icontasks").forEach(w => {
		w.currentConfigGroup = ["General"]; w.writeConfig("launchers", [` + strings.Join(list, ",") + `]); w.reloadConfig(); }))`
	out, err := asUser("gdbus", "call", "--session", "--dest", "org.kde.plasmashell", "--object-path", "/PlasmaShell", "--method", "org.kde.PlasmaShell.evaluateScript", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return before.until("the panel has the icons", 300)
}

// openFromPanel clicks on the subject's icon in the panel. Plasma ignores a click on the icon
// of a program that it believes to be starting, as it does for some seconds after each start.
func openFromPanel(panel screen, s subject) {
	t := panel.t
	t.Helper()
	xdo(t, "mousemove", "1200", "300")
	for end := time.Now().Add(patience); newPart(t, panel.crop).differs(panel) > 50; {
		if time.Now().After(end) {
			t.Fatal("the panel does not come to rest: some program is still starting")
		}
	}
	xdo(t, "mousemove", map[string]string{ours.id: "76", twin.id: "124"}[s.id], "772", "click", "1", "mousemove", "1200", "300")
}

// screen is a picture of a part of the screen.
type screen struct {
	t    *testing.T
	crop string // the part, for ImageMagick
	path string
}

// newScreen has the part where menus open, without the panel and its clock.
func newScreen(t *testing.T) screen {
	t.Helper()
	return newPart(t, "640x720+0+0")
}

func newPart(t *testing.T, crop string) screen {
	t.Helper()
	s := screen{t, crop, filepath.Join(t.TempDir(), "screen.png")}
	if out, err := exec.Command("env", "DISPLAY=:99", "import", "-window", "root", "-crop", crop, s.path).CombinedOutput(); err != nil {
		t.Fatalf("cannot take a picture: %v\n%s", err, out)
	}
	return s
}

// differs counts the pixels that differ. A cursor that blinks has some dozens.
func (s screen) differs(other screen) int {
	s.t.Helper()
	out, err := exec.Command("compare", "-metric", "AE", s.path, other.path, "null:").CombinedOutput()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) { // 1: they differ
		s.t.Fatalf("cannot compare pictures: %v\n%s", err, out)
	}
	n, err := strconv.ParseFloat(strings.Fields(string(out))[0], 64)
	if err != nil {
		s.t.Fatalf("cannot compare pictures: %s", out)
	}
	return int(n)
}

// until waits until so many pixels have changed, and the screen is still:
// there are no events for drawn pixels.
func (s screen) until(what string, changed int) screen {
	s.t.Helper()
	before := s
	for end := time.Now().Add(patience); time.Now().Before(end); {
		now := newPart(s.t, s.crop)
		if now.differs(s) >= changed && now.differs(before) < 200 {
			return now
		}
		before = now
	}
	s.t.Fatalf("waited in vain until %s", what)
	return before
}

// plasmaList opens or closes the list of notifications by a key that it gives to the list: where its
// icon is depends on how wide the date is.
const plasmaList = `gdbus call --session --dest org.kde.plasmashell --object-path /PlasmaShell --method org.kde.PlasmaShell.evaluateScript '
	panels().forEach(p => p.widgets("org.kde.plasma.systemtray").forEach(t =>
		desktopById(t.readConfig("SystrayContainmentId")).widgets("org.kde.plasma.notifications").forEach(w => { w.globalShortcut = "F9"; })))'
DISPLAY=:99 xdotool key F9 mousemove 320 300`

// plasmaScript runs KWin in a window of an X server without a screen, and Plasma's
// shell on it, drawn by the processor.
const plasmaScript = `set -e
export XDG_CURRENT_DESKTOP=KDE XDG_SESSION_DESKTOP=KDE KDE_FULL_SESSION=true KDE_SESSION_VERSION=6 XDG_MENU_PREFIX=plasma- LIBGL_ALWAYS_SOFTWARE=1 QT_QPA_PLATFORM=wayland
export KWIN_WAYLAND_NO_PERMISSION_CHECKS=1 KWIN_SCREENSHOT_NO_PERMISSION_CHECKS=1 QT_QUICK_BACKEND=software
mkdir -p ~/.config/systemd/user
dbus-update-activation-environment --systemd XDG_CURRENT_DESKTOP XDG_SESSION_DESKTOP KDE_FULL_SESSION KDE_SESSION_VERSION XDG_MENU_PREFIX XDG_SESSION_TYPE XDG_SESSION_ID \
	LIBGL_ALWAYS_SOFTWARE QT_QPA_PLATFORM QT_QUICK_BACKEND KWIN_WAYLAND_NO_PERMISSION_CHECKS KWIN_SCREENSHOT_NO_PERMISSION_CHECKS
systemd-run --user --quiet --collect --unit=test-x --slice=session.slice Xvfb :99 -screen 0 1280x800x24 -nolisten tcp
until test -S /tmp/.X11-unix/X99; do sleep 0.1; done
systemd-run --user --quiet --collect --unit=test-kwin --slice=session.slice --setenv=DISPLAY=:99 kwin_wayland --x11-display :99 --width 1280 --height 800 --socket wayland-0 --no-lockscreen
until test -S "$XDG_RUNTIME_DIR/wayland-0"; do sleep 0.1; done
dbus-update-activation-environment --systemd WAYLAND_DISPLAY=wayland-0
kbuildsycoca6 # what the menu has
kwriteconfig6 --file krunnerrc --group General --key RetainPriorSearch false # what is typed changes the screen
kwriteconfig6 --file plasmanotifyrc --group Applications --group @other --key ShowInHistory true
printf '[Service]\nSlice=session.slice\nExecStart=plasmashell --no-respawn\n' > ~/.config/systemd/user/test-server.service
systemctl --user daemon-reload
systemctl --user start test-server
gdbus wait --session org.freedesktop.Notifications
exec sleep infinity
`
