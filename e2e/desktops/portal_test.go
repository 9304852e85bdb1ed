package desktops_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
