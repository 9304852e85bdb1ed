package lease_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

// client starts a process that holds n leases, and returns when it has them.
func client(t *testing.T, w *rig.Scene, n int) *exec.Cmd {
	t.Helper()
	program := w.Path("holder")
	rig.GoBuild(t, "./e2e/lease/holder", program, nil)
	c := exec.CommandContext(t.Context(), program, w.Bus.Address, "org.lull.outer", strconv.Itoa(n))
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != fmt.Sprintf("holds %d\n", n) {
		t.Fatalf("got %q %v, want no error and line %v", line, err, fmt.Sprintf("holds %d\n", n))
	}
	return c
}

func trees(w *rig.Scene) int {
	list, _ := filepath.Glob(filepath.Join(w.Store, "packages", "*"))
	return len(list)
}

// TestRestart: 1,000 leases of a client outlive agents that are stopped and killed, and a
// collection as the first request of the next agent; a program that waits for their end
// waits on.
func TestRestart(t *testing.T) {
	const n = 1000
	w := set(t)
	c := client(t, w, n)
	current, err := filepath.EvalSymlinks(filepath.Join(w.Store, "current", "org.lull.outer"))
	if err != nil {
		t.Fatal(err)
	}
	hash := filepath.Base(current)
	waiter := w.Admin.StartLull(nil, "open", "--wait-closed", hash)
	w.MustLull("remove", "org.lull.outer")
	for _, how := range []struct {
		name string
		end  func()
	}{{"stopped", w.StopAgent}, {"killed", func() { w.Agent().Crash() }}, {"stopped again", w.StopAgent}} {
		how.end()
		w.StartAgent()
		w.MustLull("gc") // the first request
		if open, last := open(w); open != n || trees(w) != 3 || !strings.Contains(last, ", user root") {
			t.Fatalf("%s: %d are open, the last is %s; %d packages are left", how.name, open, last, trees(w))
		}
		if waiter.Ended() {
			t.Fatalf("%s: it does not wait any longer: %s", how.name, waiter.Log())
		}
	}
	w.StopAgent()
	c.Process.Kill() // while no agent runs
	c.Wait()
	w.StartAgent()
	if code, err := waiter.Wait(t.Context(), limit); err != nil || code != 0 {
		t.Errorf("%d, want 0, %v: %s", code, err, waiter.Log())
	}
	w.MustLull("gc")
	if open, last := open(w); open != 0 || trees(w) != 0 {
		t.Errorf("%d are open, the last is %s; %d packages are left", open, last, trees(w))
	}
	if rest, _ := os.ReadDir(filepath.Join(w.RunDir, "leases")); len(rest) != 0 {
		t.Errorf("%d files are left, want 0", len(rest))
	}
}

// TestKilledWhileItGrants: an agent that dies before the reply leaves no lease behind.
func TestKilledWhileItGrants(t *testing.T) {
	w := setWith(t, rig.Options{Tracker: "poll", Tags: "faultpoint"})
	held := client(t, w, 1)
	for _, point := range []string{"leases.recorded", "leases.granted"} {
		w.StopAgent()
		agent := w.StartAgent("LULL_FAULT=" + point + ":kill")
		if r := w.Lull("open", "org.lull.outer", "--", "true"); r.Code != 69 {
			t.Errorf("%s: %v; want exit status 69", point, r)
		}
		if _, err := agent.Wait(t.Context(), limit); err != nil {
			t.Fatal(err)
		}
		w.StartAgent()
		if n, last := open(w); n != 1 {
			t.Errorf("%s: %d are open, the last is %s; want 1", point, n, last)
		}
		w.MustLull("open", "org.lull.outer", "--", "true")
	}
	held.Process.Kill()
	w.Until("it has ended", limit, func() (bool, string) { n, last := open(w); return n == 0, last })
}

// TestJoinGoesOn: a launch whose agent dies before or after it has moved the process
// asks the next agent, and is in a run of its application then.
func TestJoinGoesOn(t *testing.T) {
	require.Freezer(t)
	require.Lock(t, "freezer")
	w := setWith(t, rig.Options{Tracker: "freezer", Tags: "faultpoint"})
	for _, point := range []string{"join.before", "join.placed"} {
		w.StopAgent()
		agent := w.StartAgent("LULL_FAULT=" + point + ":kill")
		app := w.User.StartLull(nil, "run", "org.lull.outer")
		if _, err := agent.Wait(t.Context(), limit); err != nil {
			t.Fatal(err)
		}
		w.StartAgent()
		w.Until("it runs in its group", limit, func() (bool, string) {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", app.PID))
			return strings.Contains(string(b), "lull.org.lull.outer/"), fmt.Sprint(string(b), err, app.Log())
		})
		app.Kill()
	}
}
