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
)

// asksPortal: a program with a layout, which is in a mount namespace and a user namespace, is served
// by xdg-desktop-portal. That opens the root directory of the caller by /proc to find out who it is.
func asksPortal(t *testing.T) {
	t.Helper()
	const name = "org.lull.portal"
	dir := t.TempDir()
	for path, text := range map[string]string{
		"lull.yaml": "name: " + name + "\nversion: \"1\"\napps: [{name: ask, command: [bin/ask]}]\nlayout: {/opt/LullPortal: bin, /etc/lull-portal: bin}\n",
		"bin/ask":   "#!/bin/sh\ntest -e /etc/lull-portal/ask && /opt/LullPortal/really\n",
		"bin/really": "#!/bin/sh\nexec gdbus call --session --dest org.freedesktop.portal.Desktop --object-path /org/freedesktop/portal/desktop " +
			"--method org.freedesktop.portal.ProxyResolver.Lookup https://example.org\n",
	} {
		path = filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	lull(t, "publish", "--deltas-from", "0", "--repo", repo, dir)
	lull(t, "install", name)
	out, err := asUser("lull", "run", name).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "direct://") {
		t.Errorf("a program with a layout asks the portal: got %v, %s, want direct://", err, out)
	}
}

// choosesByPortal: a program that is open opens its file by the dialog of GTK's portal, which is a
// process of the desktop, without the program's layout.
func (c *converted) choosesByPortal(t *testing.T, g germanGNOME) {
	t.Helper()
	out, err := exec.Command("sh", "-c", "for e in $(grep -lz '^LULL_INSTANCE="+c.pkg+"$' /proc/[0-9]*/environ); do readlink ${e%environ}ns/mnt; done; readlink /proc/self/ns/mnt").Output()
	spaces := strings.Fields(string(out))
	if err != nil || len(spaces) < 2 || spaces[0] == spaces[len(spaces)-1] {
		t.Errorf("%s: got mount namespaces %q (the last one is the host's), %v, want one of its layout", c.name, spaces, err)
	}
	g.key(t, "ctrl", "o")
	c.until(t, "the portal asks for a file", func() (bool, string) {
		text := g.eval(gnomeWindows + ".map(w => w.get_pid()).join(' ')")
		for _, pid := range strings.Fields(strings.Trim(text, `"`)) {
			if _, err := strconv.Atoi(pid); err != nil {
				t.Fatalf("got %q as process of a window, want a number", pid)
			}
			exe, err := os.Readlink("/proc/" + pid + "/exe")
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			if filepath.Base(exe) == "xdg-desktop-portal-gtk" {
				return true, ""
			}
		}
		return false, fmt.Sprintf("%q", g.windows(t))
	})
	time.Sleep(2 * time.Second) // it takes the focus, which has no event
	for _, r := range userFile(c.file) {
		g.key(t, string(r))
	}
	g.picture("portal-" + c.name)
	g.key(t, "Return")
	c.until(t, "it has the file", func() (bool, string) {
		list := g.windows(t)
		return len(list) == 1 && strings.Contains(list[0], c.titled()), fmt.Sprintf("%q", list)
	})
	g.picture("chosen-" + c.name)
}
