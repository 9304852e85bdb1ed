package realinput_test

import (
	"strings"
	"testing"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

// TestMirror: two browsers and a command of Debian are followed on Debian's own mirror, and then
// on its security archive, which has newer versions of them.
func TestMirror(t *testing.T) {
	requested(t)
	require.Root(t)
	require.Program(t, "dbus-daemon", "setpriv")
	const key = "/usr/share/keyrings/debian-archive-keyring.gpg"
	require.File(t, key)
	w := rig.New(t, rig.Options{Tracker: "poll"})
	w.Configure("policy.yaml", policy)
	api := w.Bus.Watch()
	w.StartAgent()
	names := []string{"rsync", "firefox", "chromium"}
	follow := func(archive, suite string) {
		t.Helper()
		w.MustLull("repo", "add", "--name", "debian", "--apt", "deb [signed-by="+key+"] http://deb.debian.org/"+archive+" "+suite+" main",
			"rsync", "firefox=firefox-esr", "chromium=chromium,chromium-common")
	}
	versions := func() (list []string) {
		t.Helper()
		for _, name := range names {
			o, _ := api.Package(name)
			list = append(list, o.Str("Version"))
		}
		return list
	}
	runs := func(version string) {
		t.Helper()
		upstream, _, _ := strings.Cut(version, "-")
		upstream, _, _ = strings.Cut(upstream, "+")
		if r := w.User.Lull("run", "rsync", "--version"); r.Code != 0 || !strings.Contains(r.Stdout, "version "+upstream+" ") {
			t.Errorf("rsync %s: got %v, want exit status 0 and its version", version, r)
		}
	}

	follow("debian", "bookworm")
	w.MustLull(append([]string{"install"}, names...)...)
	before := versions()
	runs(before[0])
	w.MustLull("repo", "remove", "debian")
	follow("debian-security", "bookworm-security")
	w.MustLull("refresh")
	after := versions()
	t.Logf("the mirror has %q, the security archive %q", before, after)
	for i, name := range names {
		if before[i] == after[i] || after[i] == "" {
			t.Errorf("%s: got version %q from the mirror and %q from the security archive, want a newer one", name, before[i], after[i])
		}
	}
	runs(after[0])
	w.MustLull("revert", "rsync")
	runs(before[0])
	w.MustLull(append([]string{"remove"}, names...)...)
	w.MustLull("gc")
}
