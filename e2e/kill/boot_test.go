package kill_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/sample"
)

// withFirst is a world with the first version installed, and the second ready
// to be published.
func withFirst(t *testing.T) *rig.Scene {
	t.Helper()
	w := rig.NewScene(t, rig.SceneOptions{Options: rig.Options{Tags: "faultpoint", Tracker: "subtree"}, Auto: true})
	for _, v := range []string{sample.V1, sample.V2} {
		sample.Write(w, w.Path(v), v)
	}
	w.Publish(w.Path(sample.V1))
	w.Begin()
	w.MustLull("install", sample.Name)
	return w
}

// TestDoorsAreShutAfterReboot: the power goes after the commit and before the
// health check. /run is empty then, and the marker is re-created before a
// launch finds a lock file: the agent is killed in the first thing that it
// does for the refresh.
func TestDoorsAreShutAfterReboot(t *testing.T) {
	first(t)
	require.Unified(t)
	require.Program(t, "dbus-daemon", "setpriv", "cc")
	w := withFirst(t)
	w.StopAgent()

	agent := w.StartAgent("LULL_FAULT=refresh.link.swapped:kill")
	w.Publish(w.Path(sample.V2))
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
		t.Errorf("got %v, want %q in the output", r, sample.V2)
	}
}

// TestInstallGoesOnAfterReboot: the power goes while an install is in its critical
// section, before there is anything that the boot would make a lock file for.
func TestInstallGoesOnAfterReboot(t *testing.T) {
	first(t)
	require.Unified(t)
	require.Program(t, "dbus-daemon", "setpriv", "cc")
	for _, point := range []string{"refresh.inhibit.after", "refresh.copy.before", "refresh.copy.after", "refresh.link.before"} {
		t.Run(point, func(t *testing.T) {
			w := rig.NewScene(t, rig.SceneOptions{Options: rig.Options{Tags: "faultpoint", Tracker: "subtree"}, Auto: true})
			sample.Write(w, w.Path(sample.V1), sample.V1)
			w.Publish(w.Path(sample.V1))
			agent := w.Begin("LULL_FAULT=" + point + ":kill")
			w.Lull("install", sample.Name) // the agent dies meanwhile
			<-agent.Done()
			if err := os.RemoveAll(filepath.Join(w.RunDir, "runctl")); err != nil {
				t.Fatal(err)
			}
			w.StartAgent()
			w.Until("it is installed", limit, func() (bool, string) {
				_, there := w.API.Package(sample.Name)
				o, _ := w.API.Refresh(sample.Name, sample.V1)
				return there && (o.Path == "" || o.Str("State") == "done"), o.Str("State") + " " + o.Str("ErrorText")
			})
			w.MustLull("verify")
			if left, err := filepath.Glob(filepath.Join(w.Store, "data", sample.Name, "*.partial*")); err != nil || len(left) > 0 {
				t.Errorf("left are %q (%v)", left, err)
			}
		})
	}
}

// TestLinksOfOldRevisionsStayAway: a crash has undone the removal of a link
// that the record no longer has.
func TestLinksOfOldRevisionsStayAway(t *testing.T) {
	first(t)
	require.Unified(t)
	require.Program(t, "dbus-daemon", "setpriv", "cc")
	w := withFirst(t)
	links := filepath.Join(w.Store, "revisions", sample.Name)
	if err := os.Symlink("../../packages/"+strings.Repeat("ab", 32), filepath.Join(links, "7")); err != nil {
		t.Fatal(err)
	}
	w.Publish(w.Path(sample.V2))
	w.MustLull("refresh", sample.Name)
	if _, err := os.Lstat(filepath.Join(links, "7")); !os.IsNotExist(err) {
		t.Errorf("the link of revision 7 to no package: got error %v, want that it does not exist", err)
	}
	if _, err := os.Lstat(filepath.Join(links, "1")); err != nil {
		t.Errorf("a revision that is kept has lost its link: %v", err)
	}
	w.MustLull("verify")
}
