package desktops_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig/suite"
)

// desks are the desktops of `make desktops`.
var desks = []struct {
	name    string
	set     suite.Set
	script  string // a session of it, which goes on
	openers func(term *terminal) []opener
	shot    string // a script that takes a picture as its first argument
}{
	{"gnome", suite.GNOME, gnomeScript, nil, `exec gdbus call --session --dest org.gnome.Shell.Screenshot --object-path /org/gnome/Shell/Screenshot --method org.gnome.Shell.Screenshot.Screenshot false false "$1"`},
	{"plasma", suite.Plasma, plasmaScript, plasmaOpeners, `DISPLAY=:99 exec import -window root "$1"`},
	{"mako", suite.Sway, strings.ReplaceAll(swayScript, "SERVER", "mako"), swayOpeners, `exec grim "$1"`},
	{"swaync", suite.Sway, strings.ReplaceAll(swayScript, "SERVER", "swaync"), nil, `exec grim "$1"`},
}

// plasmaOpeners are KDE's: the start menu, and the library that its file
// manager uses to start applications.
func plasmaOpeners(term *terminal) []opener {
	return []opener{
		{name: "start menu", stays: true, open: func(s subject) { openFromStartMenu(term.t, s) }},
		term.opener("KIO", true, "kioclient exec ENTRY"),
		term.opener("double click", true, "kioclient exec DOCUMENT"), // as in Dolphin
	}
}

// openFromStartMenu opens a program by mouse and keys: the button of the start menu, the
// program's name, Return.
func openFromStartMenu(t *testing.T, s subject) {
	t.Helper()
	x := func(args ...string) {
		t.Helper()
		if out, err := asUser(append([]string{"env", "DISPLAY=:99", "xdotool"}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("xdotool %q: %v\n%s", args, err, out)
		}
	}
	closed := newScreen(t)
	x("mousemove", "31", "772", "click", "1")
	open := closed.until("the menu is open", 50_000)
	x("type", map[string]string{ours.id: "marks", twin.id: "double"}[s.id])
	open.until("the menu has found "+s.id, 5_000)
	x("key", "Return")
}

// screen is a picture of the screen without the clock.
type screen struct {
	t    *testing.T
	path string
}

func newScreen(t *testing.T) screen {
	t.Helper()
	s := screen{t, filepath.Join(t.TempDir(), "screen.png")}
	if out, err := exec.Command("env", "DISPLAY=:99", "import", "-window", "root", "-crop", "640x720+0+0", s.path).CombinedOutput(); err != nil {
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
		now := newScreen(s.t)
		if now.differs(s) >= changed && now.differs(before) < 200 {
			return now
		}
		before = now
	}
	s.t.Fatalf("waited in vain until %s", what)
	return before
}

// swayOpeners are those of sway: what its key bindings run, and its terminal.
func swayOpeners(term *terminal) []opener {
	return []opener{
		term.opener("sway exec", false, "swaymsg exec COMMAND"),
		term.opener("sway exec gio launch", true, "swaymsg exec 'gio launch ENTRY'"),
		term.opener("gtk-launch", true, "gtk-launch ID"),
		term.opener("foot", false, "foot COMMAND &"),
	}
}

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
printf '[Service]\nSlice=session.slice\nExecStart=plasmashell --no-respawn\n' > ~/.config/systemd/user/test-server.service
systemctl --user daemon-reload
systemctl --user start test-server
gdbus wait --session org.freedesktop.Notifications
exec sleep infinity
`

// swayScript runs sway without a screen, drawn by the processor, and a notification
// server on it.
const swayScript = `set -e
export XDG_CURRENT_DESKTOP=sway XDG_SESSION_DESKTOP=sway WLR_BACKENDS=headless WLR_LIBINPUT_NO_DEVICES=1 WLR_RENDERER=pixman
mkdir -p ~/.config/sway ~/.config/systemd/user
printf '[Service]\nSlice=session.slice\nExecStart=SERVER\n' > ~/.config/systemd/user/test-server.service
systemctl --user daemon-reload
printf '%s\n' 'output HEADLESS-1 resolution 1280x800' \
	'exec dbus-update-activation-environment --systemd WAYLAND_DISPLAY SWAYSOCK XDG_CURRENT_DESKTOP && systemctl --user start test-server' > ~/.config/sway/config
systemd-run --user --quiet --collect --unit=test-shell --slice=session.slice --setenv=XDG_CURRENT_DESKTOP=sway --setenv=WLR_BACKENDS=headless \
	--setenv=WLR_LIBINPUT_NO_DEVICES=1 --setenv=WLR_RENDERER=pixman sway
gdbus wait --session org.freedesktop.Notifications
exec sleep infinity
`

// TestDesktops opens the application on each desktop, as TestGNOME does, and goes
// through the notices that the helper shows, and takes screenshots. It is long:
// LULL_DESKTOPS=1 asks for it.
func TestDesktops(t *testing.T) {
	for _, d := range desks {
		t.Run(d.name, func(t *testing.T) {
			if os.Getenv(insideEnv) == "" {
				require.Container(t)
				if os.Getenv("LULL_DESKTOPS") == "" {
					t.Skip("`make desktops` runs this")
				}
				onDesktop(t, d.set, 0)
				return
			}
			m := listen(t)
			installed(t)
			conn := sessionBus(t)
			untilName(t, conn, "org.freedesktop.Notifications", session(t, "wayland", d.script))
			if d.openers != nil {
				opened(t, m, conn, d.openers)
			}
			notices(t, d.name, d.shot)
		})
	}
}

// opened opens the application by each of the openers, compares it with its twin, and
// refreshes it while they open it repeatedly.
func opened(t *testing.T, m *marks, conn *dbus.Conn, own func(*terminal) []opener) {
	t.Helper()
	term := openTerminal(t)
	m.term = term
	openers := append(own(term), everywhere(t, conn, term)...)
	for _, o := range openers {
		sameAsTwin(t, m, o)
	}
	inShell(t, m, term)
	openers = chosen(t, openers)
	rushed(t, m, launches(t), func(i int) string {
		o := openers[i%len(openers)]
		o.open(ours)
		return o.name
	})
}

// asUser makes a command that runs as the user, below none of the user's units.
func asUser(argv ...string) *exec.Cmd {
	return exec.Command("setpriv", append([]string{"--reuid=" + suite.Tester, "--regid=" + suite.Tester, "--init-groups", "--inh-caps=-all", "env", "HOME=/home/" + suite.Tester,
		"XDG_RUNTIME_DIR=/run/user/1000", "DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/1000/bus"}, argv...)...)
}

// notices runs the helper's own test of a desktop in the user's session.
func notices(t *testing.T, name, shot string) {
	t.Helper()
	script := filepath.Join(pictureDir, "shot")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"+shot+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(script)
	// The helper that is installed would answer instead of the one that is tested.
	if out, err := asUser("systemctl", "--user", "mask", "--now", "--runtime", "lull-userd.service", "lull-userd.path").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := asUser("systemd-run", "--user", "--quiet", "--pipe", "--wait", "--collect", "--setenv=LULL_DESKTOP="+name, "--setenv=LULL_PICTURES="+pictureDir, "--setenv=LULL_SHOT="+script, "--setenv=LULL_SHELL_UNIT=test-server",
		"--working-directory=/tmp", programDir+"/userd.test", "-test.v", "-test.run=^TestDesktop$")
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil || !strings.Contains(string(out), "--- PASS: TestDesktop ") {
		t.Errorf("the notices on %s: got error %v, want none and \"--- PASS: TestDesktop \" in the output above", name, err)
	}
	if pictures, _ := filepath.Glob(pictureDir + "/*.png"); len(pictures) == 0 {
		t.Error(fmt.Errorf("there are no pictures of %s", name))
	}
}
