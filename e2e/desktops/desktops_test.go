package desktops_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig/suite"
)

// desk is a desktop of `make desktops`.
type desk struct {
	name    string
	set     suite.Set
	script  string // a session of it, which goes on
	openers func(term *terminal) []opener
	shot    string // a command that takes a picture of the screen as $1
	crop    string // the part of it where a notice is, for ImageMagick
	list    string // a command that opens or closes (as $1 says) the list of notifications, or ""
	listed  string // the part of the picture where the list is
}

var desks = []desk{
	{"gnome", withKIO(suite.GNOME), gnomeScript, nil,
		`gdbus call --session --dest org.gnome.Shell.Screenshot --object-path /org/gnome/Shell/Screenshot --method org.gnome.Shell.Screenshot.Screenshot false false "$1"`, "640x200+320+0",
		`gdbus call --session --dest org.gnome.Shell --object-path /org/gnome/Shell --method org.gnome.Shell.Eval "Main.panel.statusArea.dateMenu.menu.$1()"`, "820x220+230+0"},
	{"plasma", withGTK(suite.Plasma), plasmaScript, plasmaOpeners, `DISPLAY=:99 import -window root "$1"`, "380x240+900+510", plasmaList, "460x150+820+368"},
	{"mako", suite.Sway, strings.ReplaceAll(swayScript, "SERVER", "mako"), swayOpeners, `grim "$1"`, "420x140+860+0", "", ""},
	{"swaync", suite.Sway, strings.ReplaceAll(swayScript, "SERVER", "swaync"), nil, `grim "$1"`, "520x200+760+0", `swaync-client --$1-panel`, "520x300+760+0"},
}

// pictures writes the scripts by which the helper's test takes pictures and opens the list.
// Pictures are cut to what they show, and small, as docs/pictures has them.
func (d desk) pictures(t *testing.T) (shot, list string) {
	t.Helper()
	write := func(name, text string) string {
		path := filepath.Join(programDir+"-scripts", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("#!/bin/sh -e\n"+text+"\n"), 0o755)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	shot = write("shot", d.shot+`
crop=`+d.crop+`
case "$1" in
*-list.png) crop=`+d.listed+` ;;
*-focused.png) crop=640x340+320+0 ;; # with the window
esac
convert "$1" -crop "$crop" +repage +dither -colors 64 -strip "$1"`)
	if d.list != "" {
		list = write("list", d.list)
	}
	return shot, list
}

// swayOpeners are those of sway: what its key bindings run, and its terminal.
func swayOpeners(term *terminal) []opener {
	return []opener{
		term.opener("sway exec", false, "swaymsg exec COMMAND"),
		term.opener("sway exec gio launch", true, "swaymsg exec 'gio launch ENTRY'"),
		term.opener("foot", false, "foot COMMAND &"),
	}
}

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
			t.Cleanup(func() { // before the session ends
				if t.Failed() {
					out, err := asUser("systemd-run", "--user", "--quiet", "--pipe", "--wait", "--collect", "sh", "-c", d.shot, "sh", filepath.Join(pictureDir, d.name+"-failed.png")).CombinedOutput()
					t.Logf("took a picture of the failure: %v\n%s", err, out)
				}
			})
			if d.openers != nil {
				opened(t, m, conn, d.openers)
			}
			notices(t, d)
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
	rushed(t, m, launches(t), openers)
}

// asUser makes a command that runs as the user, below none of the user's units.
func asUser(argv ...string) *exec.Cmd {
	return exec.Command("setpriv", append([]string{"--reuid=" + suite.Tester, "--regid=" + suite.Tester, "--init-groups", "--inh-caps=-all", "env", "HOME=/home/" + suite.Tester,
		"XDG_RUNTIME_DIR=/run/user/1000", "DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/1000/bus"}, argv...)...)
}

// notices runs the helper's own test of a desktop in the user's session.
func notices(t *testing.T, d desk) {
	t.Helper()
	shot, list := d.pictures(t)
	// The helper that is installed would answer instead of the one that is tested.
	if out, err := asUser("systemctl", "--user", "mask", "--now", "--runtime", "lull-userd.service", "lull-userd.path").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := asUser("systemd-run", "--user", "--quiet", "--pipe", "--wait", "--collect", "--setenv=LULL_DESKTOP="+d.name, "--setenv=LULL_PICTURES="+pictureDir, "--setenv=LULL_SHOT="+shot, "--setenv=LULL_LIST="+list, "--setenv=LULL_SHELL_UNIT=test-server",
		"--working-directory=/tmp", programDir+"/userd.test", "-test.v", "-test.run=^TestDesktop$")
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil || !strings.Contains(string(out), "--- PASS: TestDesktop ") {
		t.Errorf("the notices on %s: got error %v, want none and \"--- PASS: TestDesktop \" in the output above", d.name, err)
	}
	if pictures, _ := filepath.Glob(pictureDir + "/*.png"); len(pictures) == 0 {
		t.Error(fmt.Errorf("there are no pictures of %s", d.name))
	}
}
