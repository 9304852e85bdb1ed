package hostile_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

// TestCancelBeginsNoOtherWindow: a user who cancels a refresh repeatedly
// postpones it no longer than the policy allows, also over a restart of the
// agent.
func TestCancelBeginsNoOtherWindow(t *testing.T) {
	require.Unified(t)
	w, _ := world(t, rig.Options{Tracker: "subtree"})
	const app = "org.lull.patient"
	publish := func(version string) {
		t.Helper()
		dir := w.Path(app + version)
		yaml := fmt.Sprintf("name: %s\nversion: %q\nsummary: Patient\napps:\n  - {name: app, command: [bin/app]}\n", app, version)
		err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "lull.yaml"), []byte(yaml), 0o644)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "bin/app"), []byte("#!/bin/sh\ntouch \"$LULL_USER_COMMON/runs\"\nexec sleep 600\n"), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
		w.MustLull("publish", "--repo", w.Repo, dir)
	}
	publish("1")
	w.MustLull("install", app)
	run := w.User.StartLull(nil, "run", app)
	w.UntilFile("it runs", time.Minute, filepath.Join(w.User.Home, ".local/share/lull", app, "common/runs"), func(string) (bool, string) {
		if run.Ended() {
			t.Fatal(run.Log())
		}
		return true, ""
	})
	publish("2")
	deadline := func() (at string) {
		t.Helper()
		w.Lull("refresh", "--no-wait", app)
		w.Until("the refresh waits", time.Minute, func() (bool, string) {
			r := w.MustLull("pending", "--json")
			var doc struct {
				Pending []struct{ Instance, Deadline string }
			}
			if err := json.Unmarshal([]byte(r.Stdout), &doc); err != nil {
				t.Fatalf("%v\n%s", err, r.Stdout)
			}
			for _, p := range doc.Pending {
				if p.Instance == app && p.Deadline != "" {
					at = p.Deadline
				}
			}
			return at != "", r.Stdout
		})
		return at
	}
	first := deadline()
	for range 2 {
		w.MustLull("refresh", "--cancel", app)
		if again := deadline(); again != first {
			t.Errorf("the deadline was %s, and is %s after a cancel, want the same", first, again)
		}
	}
	w.MustLull("refresh", "--cancel", app)
	w.StopAgent()
	w.StartAgent()
	if again := deadline(); again != first {
		t.Errorf("the deadline was %s, and is %s after a restart, want the same", first, again)
	}
	// Another version has a window of its own.
	publish("3")
	if again := deadline(); again == first {
		w.Until("the new version waits", time.Minute, func() (bool, string) { again := deadline(); return again != first, again })
	}
}
