package container_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/lull/lull/e2e/rig"
)

// TestLaunchesWithoutAgent: while the agent is stopped, root and a user who is not
// logged in but lingers launch; the agent finds both when it is back, and notices
// at its next start what has ended while it was away.
func TestLaunchesWithoutAgent(t *testing.T) {
	here(t)
	w, api := world(t)
	w.StopAgent()
	launch := func(who *rig.Actor, group string) (*rig.Proc, int) {
		t.Helper()
		p := who.StartLull(nil, "run", name)
		pid := 0
		w.UntilFile(who.Name+"'s application runs", limit, filepath.Join(who.Home, ".local/share/lull", name, "common/pid"), func(text string) (bool, string) {
			if p.Ended() {
				t.Fatalf("%s", p.Log())
			}
			pid, _ = strconv.Atoi(strings.TrimSpace(text))
			return pid > 0, text
		})
		in, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if err != nil || !strings.Contains(string(in), group) {
			t.Errorf("%s's application is in %s, %v, want %s", who.Name, in, err, group)
		}
		return p, pid
	}
	root, rootPID := launch(w.Admin, "/system.slice/app-lull-org.lull.contained-")
	user, userPID := launch(w.User, fmt.Sprintf("/user.slice/user-%d.slice/user@%[1]d.service/app.slice/app-lull-org.lull.contained-", w.User.UID))
	if rootPID == userPID {
		t.Fatal("it is one process")
	}
	// A user without a systemd of his own depends on the agent.
	stranger := w.Ordinary("nobody")
	if r := stranger.Lull("run", name, "once"); r.Code == 0 || !strings.Contains(r.Stderr, "it cannot be tracked") {
		t.Errorf("%v", r)
	}

	w.StartAgent()
	if tracker := fmt.Sprint(api.Property("", "Manager.Tracker")); tracker != "scope" {
		t.Errorf("the tracker is %s", tracker)
	}
	running := func() []int {
		o, _ := api.Package(name)
		var pids []int
		for _, p := range rig.Processes(o.Props["Processes"]) {
			pids = append(pids, int(p.PID))
		}
		slices.Sort(pids)
		return pids
	}
	both := []int{rootPID, userPID}
	slices.Sort(both)
	same(t, "found by the agent", running(), both)
	same(t, "markers", w.Markers(), []string{"lull." + name + ".running"})
	if r := stranger.Lull("run", name, "once"); r.Code != 0 || r.Stdout != "version 1\n" {
		t.Errorf("%v", r)
	}

	write(t, w, 2, true)
	r := w.Lull("refresh", name)
	if r.Code != 75 || !strings.Contains(r.Stderr, strconv.Itoa(rootPID)) || !strings.Contains(r.Stderr, strconv.Itoa(userPID)) || !strings.Contains(r.Stderr, w.User.Name) {
		t.Errorf("%v", r)
	}
	end := func(p *rig.Proc, pid int) {
		t.Helper()
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Wait(t.Context(), limit); err != nil {
			t.Fatal(err)
		}
	}
	end(user, userPID)
	w.Until("only root's application is left", limit, func() (bool, string) {
		return slices.Equal(running(), []int{rootPID}), fmt.Sprint(running())
	})
	if revision(t, w) != "1" {
		t.Fatal("it was refreshed while it runs")
	}
	w.Agent().Crash()
	end(root, rootPID)
	if r := w.User.Lull("run", name, "once"); r.Stdout != "version 1\n" {
		t.Errorf("%v", r)
	}
	w.StartAgent()
	w.Until("the refresh goes on", limit, func() (bool, string) { return revision(t, w) == "2", revision(t, w) })
	w.Until("it has ended", limit, func() (bool, string) {
		o, ok := api.Refresh(name, "2")
		return ok && o.Str("State") == "done", o.Str("State") + " " + o.Str("ErrorText")
	})
	w.StopAgent()
	for _, who := range []*rig.Actor{w.Admin, w.User} {
		if r := who.Lull("run", name, "once"); r.Code != 0 || r.Stdout != "version 2\n" {
			t.Errorf("%v", r)
		}
	}
	w.StartAgent()
	w.MustLull("remove", name)
}
