package launch

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull/lull/agent/lib/launchconf"
	"github.com/lull/lull/agent/lib/manifest"
)

// TestOtherAgent: during an upgrade a launcher meets an agent of another version. It starts
// the application by what it understands of a newer agent's settings, by the few keys of an
// older one's, and runs the hook that an older helper calls by its former name.
func TestOtherAgent(t *testing.T) {
	w := newWorld(t)
	w.install(1, 0, false)
	w.untracked()
	path := filepath.Join(w.ctl.RunDir(), launchconf.File)
	b, err := os.ReadFile(path)
	w.no(err)
	var now map[string]any
	w.no(json.Unmarshal(b, &now))
	newer := map[string]any{"later": map[string]any{"key": []int{1}}, "another": "x"}
	older := map[string]any{}
	for k, v := range now {
		newer[k] = v
		if k == "tracker" || k == "root" || k == "bus" || k == "allow-untracked" {
			older[k] = v
		}
	}
	for what, settings := range map[string]map[string]any{"newer": newer, "older": older} {
		b, err := json.Marshal(settings)
		w.no(err)
		w.no(os.WriteFile(path, b, 0o644))
		if r := w.run(app, "tell"); r.code != 0 || !strings.Contains(r.out, "LULL_REVISION=1\n") {
			t.Errorf("of a %s agent: %d %s%s; want code 0 and %q in the output", what, r.code, r.out, r.stderr, "LULL_REVISION=1\n")
		}
		if r := w.run("--hook", manifest.HookRefreshPending, app); r.code != 0 || !strings.Contains(r.out, "arg the hook\n") {
			t.Errorf("hook beside a %s agent: %d %s%s; want code 0 and %q in the output", what, r.code, r.out, r.stderr, "arg the hook\n")
		}
	}
}
