package machine_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/lull/lull/e2e/rig"
)

// An update of the system, and its base package.
const osUpdate, osBase = "org.lull.os", "org.lull.base"

// publishSystem publishes version 7 of the system.
func publishSystem(t *testing.T, files, repo string) {
	t.Helper()
	publish := func(name, more string, content map[string]string) (hash string) {
		t.Helper()
		dir := filepath.Join(files, "apps", name)
		content["lull.yaml"] = fmt.Sprintf("name: %s\nversion: \"7\"\nsummary: For tests\n%s", name, more)
		for path, text := range content {
			path = filepath.Join(dir, path)
			must(t, os.MkdirAll(filepath.Dir(path), 0o755))
			must(t, os.WriteFile(path, []byte(text), 0o755))
		}
		out, err := exec.Command(filepath.Join(rig.Binaries(t, ""), "lull"), "--json", "publish", "--repo", repo, dir).Output()
		var r struct{ Package string }
		if err == nil {
			err = json.Unmarshal(out, &r)
		}
		must(t, err)
		return r.Package
	}
	base := publish(osBase, "hooks: {health: [bin/health]}\n", map[string]string{"bin/health": "#!/bin/sh\necho \"system $LULL_SYSTEM_VERSION is looked at\"\n"})
	publish(osUpdate, "hooks: {booted: [bin/booted]}\n", map[string]string{"system.json": fmt.Sprintf(`{"version":"7","base":[%q]}`, base),
		"bin/booted": "#!/bin/sh\necho \"$LULL_SYSTEM_VERSION\"\n"})
}

func systemStaged(s *scene) {
	s.sh("systemctl add-requires boot-complete.target lulld.service")
	s.sh("lull system stage %s", osUpdate)
	// A system that is not in effect yet cannot be committed.
	if r := s.machine.Run("systemctl", "start", "lull-system-commit"); r.Code != 0 {
		s.Errorf("where there is no system to commit, the unit fails: %v", r)
	}
	if state := s.sh("lull --json system status"); s.has(state, "committed") || !s.has(state, "staged") {
		s.Errorf("it is not staged: %s", state)
	}
}

func systemCommitted(s *scene) {
	list := s.journal(s.thisBoot())
	s.inOrder(list, "lulld.service: the machine has started with a new system", "lulld.service: the system is committed", "lull-system-commit.service: Finished")
	s.inOrder(list, "Reached target boot-complete.target", "lulld.service: the system is committed") // maybe before the agent has begun
	if state := s.sh("lull --json system status"); !s.has(state, "committed") || s.has(state, "booted") {
		s.Errorf("it is not committed: %s", state)
	}
}

// has reports whether `lull --json system status` names a set.
func (s *scene) has(status, set string) bool {
	s.Helper()
	var doc map[string]json.RawMessage
	must(s.T, json.Unmarshal([]byte(status), &doc))
	return string(doc[set]) != "null"
}
