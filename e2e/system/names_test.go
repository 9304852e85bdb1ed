package system_test

import (
	"strings"
	"testing"

	"github.com/lull/lull/e2e/rig"
)

// TestNames finds applications in a real repository, installs one by its last part, follows
// another channel, lists what a refresh would bring, and is answered with similar names.
func TestNames(t *testing.T) {
	s := set(t, 0, rig.Options{})
	s.StartAgent()
	s.MustLull("repo", "add", "local", s.Repo)
	publish := func(name, version, channel string) {
		t.Helper()
		s.MustLull("publish", "--repo", s.Repo, "--channel", channel, s.write(name, version, 0, "", nil))
	}
	publish("org.test.Paint", "1", "stable")
	publish("org.test.Paint", "2", "edge")
	publish("org.test.editor", "5", "stable")
	publish("net.test.editor", "6", "stable")
	shows := func(r rig.Result, code int, want ...string) {
		t.Helper()
		text := strings.Join(strings.Fields(r.Text()), " ")
		for _, w := range want {
			if r.Code != code || !strings.Contains(text, w) {
				t.Errorf("want status %d and %q: %v", code, w, r)
			}
		}
	}
	shows(s.Lull("search", "--check"), 0, "org.test.Paint 1 stable local", "org.test.Paint 2 edge local", "net.test.editor 6 stable local")
	shows(s.Lull("search", "piant"), 1, "did you mean org.test.Paint?")
	shows(s.Lull("info", "paint"), 0, "Installed: no", "Channel stable: 1, ", "Channel edge: 2, ")
	shows(s.Lull("install", "editor"), 64, "editor can be net.test.editor and org.test.editor")
	shows(s.Lull("install", "org.test.Piant"), 1, "did you mean org.test.Paint?")
	shows(s.Lull("install", "paint"), 0, "org.test.Paint")
	shows(s.Lull("info", "paint"), 0, "Installed: 1 from local, channel stable")
	shows(s.Lull("refresh", "--list"), 0, "everything is up to date")
	shows(s.Lull("switch", "--channel", "nightly", "paint"), 1, "cannot")
	shows(s.Lull("switch", "--channel", "edge", "paint"), 0, "org.test.Paint follows channel edge of repository local")
	shows(s.Lull("refresh", "--list"), 0, "org.test.Paint 1 2")
	shows(s.Lull("refresh", "PAINT"), 0, "org.test.Paint is refreshed from 1 to 2")
	shows(s.Lull("status", "pain"), 1, "did you mean org.test.Paint?")
	shows(s.Lull("remove", "paint"), 0, "org.test.Paint is removed")
	shows(s.Lull("__complete", "install", ""), 0, "net.test.editor 6 from local")
}
