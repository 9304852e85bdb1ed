package container_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lull/lull/e2e/rig"
)

// TestRun0: what run0(1) starts, which has a session of a class of its own and a service as
// its unit, counts as running for the user that it runs as, and ends as it would without lull.
func TestRun0(t *testing.T) {
	here(t)
	run0, err := exec.LookPath("run0")
	if err != nil {
		t.Log("nothing to test: systemd has run0 since version 256")
		return
	}
	w := world(t)
	as := func(who *rig.Actor, args ...string) *exec.Cmd {
		lull := inSession(who, append([]string{filepath.Join(w.Bin, "lull")}, args...)...)
		return exec.Command(run0, append([]string{"--user=" + who.Name, "--background=", "--"}, lull...)...)
	}
	var commands []*exec.Cmd
	var pids []int
	for _, who := range []*rig.Actor{w.User, w.Admin} {
		cmd := as(who, "run", name)
		var out strings.Builder
		cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &out, time.Second // what it has started may keep the pipe
		t.Cleanup(func() {
			_ = cmd.Process.Kill() // it has ended, or never will
			_ = cmd.Wait()
			if t.Failed() {
				t.Logf("run0 for %s: %s", who.Name, out.String())
			}
		})
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		pid := 0
		w.UntilFile(who.Name+"'s application runs", limit, filepath.Join(who.Home, ".local/share/lull", name, "common/pid"), func(text string) (bool, string) {
			pid, _ = strconv.Atoi(strings.TrimSpace(text))
			return pid > 0, text
		})
		commands, pids = append(commands, cmd), append(pids, pid)
		t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
		t.Logf("%s: %s", who.Name, groupOf(t, pid))
	}
	o, _ := w.API.Package(name)
	found := map[int]uint32{}
	for _, p := range rig.Processes(o.Props["Processes"]) {
		found[int(p.PID)] = p.UID
	}
	if got, want := fmt.Sprint(found), fmt.Sprint(map[int]uint32{pids[0]: uint32(w.User.UID), pids[1]: 0}); got != want {
		t.Errorf("these run: %s, want %s", got, want)
	}
	write(t, w, 2, true)
	r := w.Lull("refresh", name)
	if r.Code != 75 || !strings.Contains(r.Stderr, strconv.Itoa(pids[0])) || !strings.Contains(r.Stderr, strconv.Itoa(pids[1])) || !strings.Contains(r.Stderr, w.User.Name) {
		t.Errorf("a refresh meanwhile: got %v, want exit status 75, %q in the error output, %q in the error output and %q in the error output", r, strconv.Itoa(pids[0]), strconv.Itoa(pids[1]), w.User.Name)
	}
	for i, cmd := range commands {
		if err := syscall.Kill(pids[i], syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // by a signal, which run0 reports in its own way
	}
	w.Until("it is refreshed", limit, func() (bool, string) { return revision(t, w) == "2", revision(t, w) })
	if out, err := as(w.User, "run", name, "once").CombinedOutput(); err != nil || !strings.Contains(string(out), "version 2") {
		t.Errorf("afterwards: %v %s; want no error and %q in the output", err, out, "version 2")
	}
}
