package desktops_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lull/lull/e2e/rig/suite"
)

// ownApp is an application of the user's own agent.
const ownApp = "org.lull.owned"

// asOwner runs lull for the user's own agent.
func asOwner(t *testing.T, args ...string) string {
	t.Helper()
	out, err := asUser(append([]string{"lull", "--user"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("lull --user %q: %v\n%s", args, err, out)
	}
	return string(out)
}

// installOwn starts the user's own agent, and installs an application with it.
func installOwn(t *testing.T) {
	t.Helper()
	dir := filepath.Join("/home", suite.Tester, "owned")
	for path, text := range map[string]string{
		"lull.yaml":         "name: " + ownApp + "\nversion: \"1\"\napps: [{name: owned, command: [bin/owned], desktop: " + ownApp + ".desktop}]\n",
		"bin/owned":         "#!/bin/sh\nexec sleep 1000\n",
		ownApp + ".desktop": "[Desktop Entry]\nType=Application\nName=Owned\nExec=owned\nIcon=accessories-text-editor\n",
	} {
		path = filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := asUser("systemctl", "--user", "start", "lulld").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	asOwner(t, "install", "--yes", dir)
}

// opensOwn: an application of the user's own agent is in the menu and in PATH, and is tracked.
func opensOwn(t *testing.T, g *gnome) {
	t.Helper()
	g.await("the shell knows "+ownApp, "Shell.AppSystem.get_default().lookup_app('"+ownApp+".desktop')")
	germanGNOME{g}.openFromMenu(t, ownApp, "Owned")
	var pid int
	for end := time.Now().Add(patience); pid == 0; time.Sleep(100 * time.Millisecond) { // its start has no event here
		status := asOwner(t, "status", ownApp)
		if _, rest, ok := strings.Cut(status, "Running:      PID "); ok {
			if _, err := fmt.Sscan(rest, &pid); err != nil {
				t.Fatalf("got %s, want a process: %v", status, err)
			}
		} else if time.Now().After(end) {
			t.Fatalf("got %s, want it to run, opened from the menu", status)
		}
	}
	g.picture("gnome-own")
	// As a terminal of the desktop has it, which the user's systemd starts.
	out, err := asUser("systemd-run", "--user", "--quiet", "--pipe", "--wait", "--collect", "sh", "-c", "command -v "+ownApp).CombinedOutput()
	if want := "/.local/state/lull/exports/bin/" + ownApp + "\n"; err != nil || !strings.HasSuffix(string(out), want) {
		t.Errorf("in PATH there is %s, %v, want …%s", out, err, want)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	asOwner(t, "remove", "--wait", "--purge", ownApp)
	g.await("the shell has forgotten "+ownApp, "!Shell.AppSystem.get_default().lookup_app('"+ownApp+".desktop')")
}
