package engine_test

import (
	"os"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

// TestMirrors: a mirror that is down is passed over, and `lull repo show` shows it and why; one
// that works is shown, too.
func TestMirrors(t *testing.T) {
	require.Program(t, "nginx")
	s := set(t, "")
	const name = "org.lull.mirrored"
	s.publish(app(name, "1", ""), map[string]string{"app": forever})
	if err := os.Mkdir(s.Path("nginx"), 0o755); err != nil {
		t.Fatal(err)
	}
	good := "http://" + rig.Nginx(t, s.Path("nginx"), "access_log off;\nserver { listen ADDRESS; root "+s.Repo+"; }\n")
	const dead = "http://127.0.0.1:1"
	s.Configure("repos.d/local.yaml", "url: "+good+"/\nroot: "+s.Repo+"/root.json\nmirrors: ["+dead+", "+good+"]\n")
	s.StartAgent()
	if r := s.MustLull("repo", "show", "local"); !strings.Contains(r.Stdout, dead+"\n") || !strings.Contains(r.Stdout, good+"\n") {
		t.Errorf("before the first failure: got %v, want %q in the output and %q in the output", r, dead+"\n", good+"\n")
	}
	s.MustLull("install", name)
	s.Until("the mirror is passed over", limit, func() (bool, string) {
		text := s.MustLull("repo", "show", "local").Stdout
		return strings.Contains(text, dead+" (failed ") && strings.Contains(text, "and is passed over: ") && strings.Contains(text, good+"\n"), text
	})
	if r := s.MustLull("--json", "repo", "show", "local"); !strings.Contains(r.Stdout, `"last-failure"`) || !strings.Contains(r.Stdout, dead) {
		t.Errorf("got %v, want %q in the output and %q in the output", r, `"last-failure"`, dead)
	}
}
