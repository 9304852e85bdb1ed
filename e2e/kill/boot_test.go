package kill_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/need"
	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/sample"
)

// TestDoorsAreShutAfterReboot: the power goes after the commit and before the health
// check. /run is empty then, and the marker is there again before a launch finds a lock
// file: the agent is killed again in the first thing that it does for the refresh.
func TestDoorsAreShutAfterReboot(t *testing.T) {
	need.Unified(t)
	need.Program(t, "dbus-daemon", "setpriv", "cc")
	w := rig.New(t, rig.Options{Tags: "faultpoint", Tracker: "subtree"})
	w.Configure("policy.yaml", policy)
	w.MustLull("repo", "init", w.Repo)
	for _, v := range []string{sample.V1, sample.V2} {
		sample.Write(w, w.Path(v), v)
	}
	w.MustLull("publish", "--repo", w.Repo, w.Path(sample.V1))
	w.StartAgent()
	w.MustLull("repo", "add", "local", w.Repo)
	w.MustLull("install", sample.Name)
	w.StopAgent()

	agent := w.StartAgent("LULL_FAULT=refresh.link.swapped:kill")
	w.MustLull("publish", "--repo", w.Repo, w.Path(sample.V2))
	w.Lull("refresh", sample.Name) // the agent dies meanwhile
	<-agent.Done()
	marks := filepath.Join(w.RunDir, "runctl")
	if err := os.RemoveAll(marks); err != nil {
		t.Fatal(err)
	}
	agent, err := w.TryAgent("LULL_FAULT=refresh.link.before:kill")
	if err == nil {
		<-agent.Done()
	}
	if word, err := os.ReadFile(filepath.Join(marks, "lull."+sample.Name+".inhibited")); err != nil || strings.TrimSpace(string(word)) != "refresh-in-progress" {
		t.Errorf("launches may start what has not shown that it works: %q %v", word, err)
	}
	if _, err := os.Stat(filepath.Join(marks, "lull."+sample.Name+".lock")); err != nil {
		t.Errorf("the agent did not come far enough: %v", err)
	}
	w.StartAgent()
	w.MustLull("refresh", "--prepared")
	if left, err := filepath.Glob(filepath.Join(marks, "*.inhibited")); err != nil || len(left) > 0 {
		t.Errorf("markers are left: %q %v", left, err)
	}
	if r := w.MustLull("list"); !strings.Contains(r.Stdout, sample.V2) {
		t.Errorf("%v", r)
	}
}
