package exports

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/require"
)

// TestDesktopsFindIt: the programs of desktops accept the exported files, and find them.
func TestDesktopsFindIt(t *testing.T) {
	require.Program(t, "desktop-file-validate", "gio", "dbus-run-session", "gdbus")
	root := t.TempDir()
	m, pkg := mapsPackage(t)
	ran := root + "/ran"
	launcher := root + "/lull-run" // the bus must start this, with its arguments
	if err := os.WriteFile(launcher, []byte("#!/bin/sh\necho \"$@\" >"+ran+"\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	e, err := Open(root, "/run/x", launcher)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(e.Claim("org.gnome.Maps", m, pkg), e.Write("org.gnome.Maps", m, pkg)); err != nil {
		t.Fatal(err)
	}
	output := func(argv ...string) string {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Env = append(os.Environ(), "XDG_DATA_DIRS="+root+"/exports/share", "XDG_DATA_HOME="+root+"/home", "XDG_CONFIG_HOME="+root+"/home", "LC_ALL=C")
		out, err := cmd.CombinedOutput()
		if err != nil && argv[0] != "dbus-run-session" {
			t.Errorf("%s: %v\n%s", strings.Join(argv, " "), err, out)
		}
		return string(bytes.TrimSpace(out))
	}
	if out := output("desktop-file-validate", root+"/exports/share/applications/org.gnome.Maps.desktop", root+"/exports/etc/xdg/autostart/maps-watch.desktop"); out != "" {
		t.Errorf("desktop-file-validate: got %s, want no output", out)
	}
	if out := output("gio", "mime", "application/gpx+xml"); !strings.Contains(out, "org.gnome.Maps.desktop") {
		t.Errorf("gio mime: got\n%s\nwant org.gnome.Maps.desktop", out)
	}
	out := output("dbus-run-session", "--", "gdbus", "call", "--session", "--dest", "org.gnome.Maps", "--object-path", "/", "--method", "org.freedesktop.DBus.Peer.Ping")
	got, err := os.ReadFile(ran)
	if want := "--wrapper " + root + "/exports/bin/org.gnome.Maps --gapplication-service\n"; err != nil || string(got) != want {
		t.Errorf("the bus started %q (%v), want %q; the caller got %s", got, err, want, out)
	}
}
