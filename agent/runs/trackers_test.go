package runs_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull/lull/agent/lib/cgroup"
	"github.com/lull/lull/agent/lib/runctl"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/runs/conformance"
	"github.com/lull/lull/e2e/require"
)

// logged sends a tracker's log to the test.
func logged(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// tracker returns what makes trackers of a kind, one after the other, on one
// run directory.
func tracker(opts runs.Options, name, events string) func(*testing.T) runs.Tracker {
	return func(t *testing.T) runs.Tracker {
		t.Helper()
		opts.Log = logged(t)
		tr, err := runs.Choose(opts)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { tr.Close() })
		if tr.Name() != name || !strings.HasPrefix(tr.Events(), events) || tr.Polls() != strings.Contains(tr.Events(), " every ") {
			t.Fatalf("the tracker is %s with %q, want %s with %q…", tr.Name(), tr.Events(), name, events)
		}
		return tr
	}
}

// freezer takes the turn of this test with the freezer and makes sure that it
// leaves no trace there.
func freezer(t *testing.T) string {
	t.Helper()
	top := require.ReleaseAgent(t)
	require.Lock(t, "freezer")
	path := filepath.Join(top, "release_agent")
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		after, err := os.ReadFile(path)
		// That of a killed agent is not restored.
		if err != nil || string(after) != string(before) && strings.TrimSpace(string(after)) != "" {
			t.Errorf("got the release agent %q (%v), want %q as before, or none", after, err, before)
			os.WriteFile(path, before, 0)
		}
		left, _ := filepath.Glob(filepath.Join(top, "lull*.org.lull-test.*"))
		for _, dir := range left {
			t.Errorf("%s is left", dir)
			cgroup.RemoveTree(dir)
		}
	})
	return top
}

func unified(t *testing.T) string {
	t.Helper()
	top := require.Unified(t)
	t.Cleanup(func() {
		left, _ := filepath.Glob(filepath.Join(top, "lull/*/org.lull-test.*"))
		for _, dir := range left {
			t.Errorf("%s is left", dir)
			cgroup.RemoveTree(dir)
		}
	})
	return top
}

func TestFreezer(t *testing.T) {
	top := freezer(t)
	conform(t, top, runs.Options{Want: "freezer", ReleaseAgent: conformance.ReleaseAgent(t)},
		"freezer", "release agent and inotify", false)
}

func TestSubtree(t *testing.T) {
	conform(t, unified(t), runs.Options{Want: "subtree"}, "subtree", "cgroup.events and inotify", false)
}

func TestReleaseAgentMissing(t *testing.T) {
	require.NotShort(t)
	conform(t, freezer(t), runs.Options{Want: "freezer", ReleaseAgent: filepath.Join(t.TempDir(), "none")},
		"freezer", "reading cgroup.procs every second (no release agent: ", true)
}

// TestToldToPoll: what the words of --tracker ask for.
func TestToldToPoll(t *testing.T) {
	freezer(t)
	for want, events := range map[string]string{
		"poll": "reading cgroup.procs every second", "poll-procs": "reading cgroup.procs every second",
		"poll-runctl": "release agent; its markers are read every second",
	} {
		tr, _ := open(t, runs.Options{Want: want, ReleaseAgent: conformance.ReleaseAgent(t)})
		if tr.Name() != "freezer" || !strings.HasPrefix(tr.Events(), events) || !tr.Polls() {
			t.Errorf("%s: got tracker %s, events %q and polls %v; want freezer, %q and true", want, tr.Name(), tr.Events(), tr.Polls(), events)
		}
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	}
}

func conform(t *testing.T, top string, opts runs.Options, name, events string, polls bool) {
	opts.RunDir = t.TempDir()
	conformance.Conformance(t, tracker(opts, name, events), conformance.Placed, conformOptions(t, opts, top, polls))
}

func conformOptions(t *testing.T, opts runs.Options, top string, polls bool) conformance.Options {
	t.Helper()
	ctl, err := runctl.Create(opts.RunDir)
	if err != nil {
		t.Fatal(err)
	}
	return conformance.Options{Ctl: ctl, Mount: top, Short: polls || testing.Short(), Polls: polls}
}
