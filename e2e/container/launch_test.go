package container_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/lull/lull/e2e/rig"
)

// inScope makes a command that runs as the actor in a scope with other processes.
func inScope(who *rig.Actor, name string, args ...string) *exec.Cmd {
	c := who.Command(name, args...)
	scoped := exec.Command("systemd-run", append([]string{"--scope", "--quiet", "--collect", "--", "sh", "-c", "\"$@\"; exit $?", "sh", c.Path}, c.Args[1:]...)...)
	scoped.Env, scoped.Dir = c.Env, c.Dir
	return scoped
}

// TestLaunchesWithoutAgent: while the agent is stopped, root and a user who is not
// logged in but lingers launch; the agent finds both when it is back, and notices
// at its next start what has ended while it was away.
func TestLaunchesWithoutAgent(t *testing.T) {
	here(t)
	w := world(t)
	w.StopAgent()
	launch := func(who *rig.Actor, group string) (*rig.Proc, int) {
		t.Helper()
		p := who.StartLull(nil, "run", name)
		pid := 0
		w.UntilFile(who.Name+"'s application runs", limit, filepath.Join(who.Home, ".local/share/lull", name, "common/pid"), func(text string) (bool, string) {
			if p.Ended() {
				t.Fatalf("the application has ended, want it to run: %s", p.Log())
			}
			pid, _ = strconv.Atoi(strings.TrimSpace(text))
			return pid > 0, text
		})
		if in := groupOf(t, pid); in != group {
			t.Errorf("%s's application is in %s, want %s", who.Name, in, group)
		}
		return p, pid
	}
	// Both are in the unit of this test, and stay there: TestUserManagers has scopes.
	root, rootPID := launch(w.Admin, groupOf(t, os.Getpid()))
	user, userPID := launch(w.User, groupOf(t, os.Getpid()))
	if rootPID == userPID {
		t.Fatal("it is one process")
	}
	// A user without a systemd manager has no run, and is known by the tether.
	stranger := w.Ordinary("nobody")
	if r := stranger.Lull("run", name, "once"); r.Code != 0 || r.Stdout != "version 1\n" {
		t.Errorf("got %v, want exit status 0 and output %q", r, "version 1\n")
	}
	// One that no manager can take has no run either, and the journal has why.
	outside := stranger.Command("lull", "run", name, "once")
	outside.Args = append([]string{"sh", "-c", `for top in /sys/fs/cgroup /sys/fs/cgroup/unified; do
if test -e $top/cgroup.procs; then echo $$ >$top/init.scope/cgroup.procs && exec "$@"; fi
done`, "sh"}, outside.Args...)
	outside.Path = "/bin/sh"
	if out, err := outside.CombinedOutput(); err != nil || string(out) != "version 1\n" {
		t.Errorf("got %v %s, want no error and output %q", err, out, "version 1\n")
	}
	sh(t, "timeout 60 grep -q -m1 '^%s runs without a run of its own: ' < <(exec journalctl -b -f -n all -o cat -t lull-run)", name)

	w.StartAgent()
	if tracker := fmt.Sprint(w.API.Property("", "Manager.Tracker")); tracker != "scope" {
		t.Errorf("the tracker is %s, want scope", tracker)
	}
	running := func() []int {
		o, _ := w.API.Package(name)
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
	// The user is in the service unit of this test, is not moved out of that,
	// and is known by the tether.
	if r := stranger.Lull("run", name, "once"); r.Code != 0 || r.Stdout != "version 1\n" {
		t.Errorf("got %v, want exit status 0 and output %q", r, "version 1\n")
	}
	if out, err := inScope(stranger, "lull", "run", name, "once").CombinedOutput(); err != nil || string(out) != "version 1\n" {
		t.Errorf("got %v %s, want no error and output %q", err, out, "version 1\n")
	}
	// A process that does not launch is moved nowhere.
	o, _ := w.API.Package(name)
	join := []string{"call", "org.lull.Agent1", "/org/lull/Agent1", "org.lull.Agent1.Manager", "JoinRun", "sss", name, o.Str("Hash"), ""}
	if out, err := inScope(stranger, "busctl", join...).CombinedOutput(); err == nil || !strings.Contains(string(out), "does not hold its launch lock") {
		t.Errorf("got %v %s, want an error and %q in the output", err, out, "does not hold its launch lock")
	}

	write(t, w, 2, true)
	r := w.Lull("refresh", name)
	if r.Code != 75 || !strings.Contains(r.Stderr, strconv.Itoa(rootPID)) || !strings.Contains(r.Stderr, strconv.Itoa(userPID)) || !strings.Contains(r.Stderr, w.User.Name) {
		t.Errorf("got %v, want exit status 75, %q in the error output, %q in the error output and %q in the error output", r, strconv.Itoa(rootPID), strconv.Itoa(userPID), w.User.Name)
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
		t.Errorf("got %v, want output %q", r, "version 1\n")
	}
	w.StartAgent()
	w.Until("the refresh goes on", limit, func() (bool, string) { return revision(t, w) == "2", revision(t, w) })
	w.Until("it has ended", limit, func() (bool, string) {
		o, ok := w.API.Refresh(name, "2")
		return ok && o.Str("State") == "done", o.Str("State") + " " + o.Str("ErrorText")
	})
	w.StopAgent()
	for _, who := range []*rig.Actor{w.Admin, w.User} {
		if r := who.Lull("run", name, "once"); r.Code != 0 || r.Stdout != "version 2\n" {
			t.Errorf("got %v, want exit status 0 and output %q", r, "version 2\n")
		}
	}
	w.StartAgent()
	w.MustLull("remove", name)
}

// TestLaunchFromAnotherPIDNamespace: the launcher has a number there that is an
// unrelated process's here. That one stays where it is, and the application is
// tracked.
func TestLaunchFromAnotherPIDNamespace(t *testing.T) {
	here(t)
	w := world(t)
	for _, who := range []*rig.Actor{w.Admin, w.User} {
		unit := "innocent-" + who.Name + ".service"
		w.Admin.Must("systemd-run", "--quiet", "--collect", "--service-type=exec", "--unit="+unit, "sleep", "infinity")
		pid, err := strconv.Atoi(strings.TrimSpace(w.Admin.Must("systemctl", "show", "--property=MainPID", "--value", unit).Stdout))
		if err != nil {
			t.Fatal(err)
		}
		before, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(who.Home, ".local/share/lull", name, "common/pid")
		os.Remove(file)
		p := who.StartLull(func(cmd *exec.Cmd) {
			// The next process there gets the number after this one.
			script := fmt.Sprintf(`echo %d >/proc/sys/kernel/ns_last_pid; exec 3<&0; "$@" <&3 & wait`, pid-1)
			cmd.Args = append([]string{"unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", script, "sh"}, cmd.Args...)
			cmd.Path = "/usr/bin/unshare"
		}, "run", name)
		w.UntilFile("the application runs", limit, file, func(text string) (bool, string) {
			if p.Ended() {
				t.Fatalf("the application has ended, want it to run: %s", p.Log())
			}
			n, _ := strconv.Atoi(strings.TrimSpace(text))
			if n > 0 && n != pid {
				t.Fatalf("it has the number %d there, want %d: this tests nothing", n, pid)
			}
			return n > 0, text
		})
		if after, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid)); err != nil || string(after) != string(before) {
			t.Errorf("the innocent process is in %s, %v, was in %s; want no error and %v", after, err, before, string(before))
		}
		o, _ := w.API.Package(name)
		procs := rig.Processes(o.Props["Processes"])
		if len(procs) != 1 || int(procs[0].PID) == pid || int(procs[0].UID) != who.UID {
			t.Errorf("the application's processes are %+v, want one of user %d, not the innocent %d", procs, who.UID, pid)
		}
		for _, q := range procs {
			syscall.Kill(int(q.PID), syscall.SIGTERM)
		}
		w.Admin.Must("systemctl", "stop", unit)
		if _, err := p.Wait(t.Context(), limit); err != nil {
			t.Error(err)
		}
	}
}
