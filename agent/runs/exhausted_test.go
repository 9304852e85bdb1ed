package runs_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/lull/lull/agent/lib/inotify/inotifytest"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/runs/conformance"
	"github.com/lull/lull/e2e/require"
)

// without makes trackers where no inotify instance is left.
func without(make func(*testing.T) runs.Tracker) func(*testing.T) runs.Tracker {
	return func(t *testing.T) (tr runs.Tracker) {
		t.Helper()
		inotifytest.Without(t, func() { tr = make(t) })
		if tr == nil {
			t.FailNow() // make has printed why
		}
		return tr
	}
}

// TestInotifyExhausted runs the suite with no inotify instance left: each
// tracker goes on, and polls only what has no event any more.
func TestInotifyExhausted(t *testing.T) {
	require.NotShort(t)
	none := "(no inotify: cannot use inotify: too many open files)"
	t.Run("freezer", func(t *testing.T) {
		top := freezer(t)
		opts := runs.Options{Want: "freezer", ReleaseAgent: conformance.ReleaseAgent(t), RunDir: t.TempDir()}
		conformance.Conformance(t, without(tracker(opts, "freezer", "release agent; its markers are read every second "+none)),
			conformance.Placed, conformOptions(t, opts, top, true))
	})
	t.Run("subtree", func(t *testing.T) {
		opts := runs.Options{Want: "subtree", RunDir: t.TempDir()}
		conformance.Conformance(t, without(tracker(opts, "subtree", "reading cgroup.procs every second "+none)),
			conformance.Placed, conformOptions(t, opts, unified(t), true))
	})
	t.Run("scope", func(t *testing.T) {
		m := newMachine(t)
		opts := m.options(false)
		opts.RunDir = t.TempDir()
		conformance.Conformance(t, without(tracker(opts, "scope", "systemd's scopes are polled every second "+none)),
			m.in("system.slice"), conformOptions(t, opts, m.top, true))
	})
}

// scarce names the variable with the number of inotify watches that this
// process may have; see TestWatchesExhausted.
const scarce = "LULL_TEST_WATCHES"

// TestWatchesExhausted runs the suite where instances are left but watches are
// not, in a user namespace of its own, where no other test needs them.
func TestWatchesExhausted(t *testing.T) {
	require.Setting(t, "/proc/sys/user/max_inotify_watches")
	require.NotShort(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		tracker string
		watches int
	}{{"subtree", 1}, {"subtree", 2}, {"scope", 1}, {"scope", 5}} {
		t.Run(fmt.Sprintf("%s with %d", c.tracker, c.watches), func(t *testing.T) {
			cmd := exec.Command(self, "-test.v", "-test.run=^TestScarce$/^"+c.tracker+"$")
			cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", scarce, c.watches))
			ids := []syscall.SysProcIDMap{{Size: 1 << 16}}
			cmd.SysProcAttr = &syscall.SysProcAttr{
				Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
			}
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "--- PASS: TestScarce/"+c.tracker) {
				t.Errorf("got %v and\n%s\nwant a pass of TestScarce/%s", err, out, c.tracker)
			}
		})
	}
}

// TestScarce is run by TestWatchesExhausted.
func TestScarce(t *testing.T) {
	watches := os.Getenv(scarce)
	if watches == "" {
		t.Skip("this part is for the inside of a user namespace: TestWatchesExhausted runs it")
	}
	// user_namespaces(7): the limit of this namespace.
	if err := os.WriteFile("/proc/sys/user/max_inotify_watches", []byte(watches), 0); err != nil {
		t.Fatal(err)
	}
	t.Run("subtree", func(t *testing.T) {
		opts := runs.Options{Want: "subtree", RunDir: t.TempDir()}
		told := tracker(opts, "subtree", "cgroup.events and inotify")
		conformance.Conformance(t, told, blinded(conformance.Placed, watches == "1"), conformOptions(t, opts, unified(t), true))
	})
	t.Run("scope", func(t *testing.T) {
		m := newMachine(t)
		opts := m.options(false)
		opts.RunDir = t.TempDir()
		told := tracker(opts, "scope", "cgroup.events of systemd's scopes")
		conformance.Conformance(t, told, blinded(m.in("system.slice"), watches == "1"), conformOptions(t, opts, m.top, true))
	})
}

// blinded checks at each launch that the tracker reports what it cannot watch;
// with more watches than the one of the run directory that may not be needed.
func blinded(launch conformance.LaunchFunc, surely bool) conformance.LaunchFunc {
	return func(t *testing.T, tr runs.Tracker, l conformance.Launch) *conformance.Proc {
		p := launch(t, tr, l)
		polls, events := tr.Polls(), tr.Events()
		for tr.Polls() != polls { // it has learnt more between the two
			polls, events = !polls, tr.Events()
		}
		said := strings.Contains(events, "; what could not be watched is read every second (") && strings.HasSuffix(events, ": no space left on device)")
		if surely && !said || said != polls {
			t.Errorf("got events %q and polls %v, want the unwatched read every second exactly when it polls (surely: %v)", events, polls, surely)
		}
		return p
	}
}
