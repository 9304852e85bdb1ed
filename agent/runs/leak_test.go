package runs_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/runs/conformance"
)

// watches counts the inotify watches of this process.
func watches(t *testing.T) int {
	t.Helper()
	infos, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, path := range infos {
		if b, err := os.ReadFile(path); err == nil {
			n += strings.Count(string(b), "inotify wd:")
		}
	}
	return n
}

// TestWatchesEnd: a watch on a file of a cgroup does not end with the group.
func TestWatchesEnd(t *testing.T) {
	m := newMachine(t)
	for name, c := range map[string]struct {
		opts   runs.Options
		launch conformance.LaunchFunc
	}{
		"subtree": {runs.Options{Want: "subtree"}, conformance.Placed},
		"scope":   {m.options(false), m.in("system.slice")},
	} {
		t.Run(name, func(t *testing.T) {
			tr, ctl := open(t, c.opts)
			before := watches(t)
			for range 20 {
				p := c.launch(t, tr, conformance.Launch{Instance: app, Package: pkg})
				awaitMarker(t, tr, ctl, true)
				p.End()
				awaitMarker(t, tr, ctl, false)
			}
			// The last group may still be on its way out.
			for deadline := time.Now().Add(10 * time.Second); watches(t) > before; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("after 20 runs: got %d watches, want at most the %d before", watches(t), before)
				}
			}
		})
	}
}

// TestEndIsToldToAll: a query finds the end before the kernel reports it;
// waiters must get the event all the same.
func TestEndIsToldToAll(t *testing.T) {
	unified(t)
	tr, _ := open(t, runs.Options{Want: "subtree"})
	for range 50 {
		p := conformance.Placed(t, tr, conformance.Launch{Instance: app, Package: pkg})
		for quiet := false; !quiet; {
			select {
			case <-tr.Changes():
			case <-time.After(20 * time.Millisecond):
				quiet = true
			}
		}
		p.End()
		if ps, err := tr.Busy(app); err != nil || len(ps) != 0 {
			t.Fatalf("%v, %v; want no error and 0 of them", ps, err)
		}
		select {
		case <-tr.Changes():
		case <-time.After(10 * time.Second):
			t.Fatal("nobody was told")
		}
	}
}
