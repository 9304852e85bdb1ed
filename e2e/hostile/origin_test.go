package hostile_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

// TestCallersInGroups launches an application with cgroup v1, from control groups that
// confine the launcher. It is not taken out of a freezer group of others, which may be
// about to stop it, and counts as running there. From a service unit, which systemd does not keep in the freezer
// hierarchy, it is tracked, stays in the unit's group, and ends with it.
func TestCallersInGroups(t *testing.T) {
	freezer, unified := require.Freezer(t), require.Unified(t)
	w, _ := world(t, rig.Options{Tracker: "freezer"})
	const name = "org.lull.stays"
	dir := w.Path("stays")
	for path, text := range map[string]string{
		"lull.yaml": "name: " + name + "\nversion: \"1\"\nsummary: Stays\napps: [{name: stays, command: bin/app}]\n",
		"bin/app":   "#!/bin/sh\necho started\nexec sleep infinity\n",
	} {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w.MustLull("publish", "--repo", w.Repo, dir)
	w.MustLull("install", name)
	wrapper := filepath.Join(w.Store, "exports/bin", name)
	group := func(top, name string) string {
		t.Helper()
		dir := filepath.Join(top, fmt.Sprintf("%s-%d%s", "lull-test", os.Getpid(), name))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Rmdir(dir); err != nil {
				t.Errorf("%s: %v", dir, err)
			}
		})
		return dir
	}
	// launch starts the application out of a group.
	launch := func(dir string) *rig.Proc {
		return w.Admin.Start("sh", "-c", `echo $$ >"$0/cgroup.procs" && exec "$1"`, dir, wrapper)
	}
	groups := func(p *rig.Proc) string {
		t.Helper()
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.PID))
		if err != nil {
			t.Error(err)
		}
		return string(b)
	}

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	current, err := filepath.EvalSymlinks(filepath.Join(w.Store, "current", name))
	if err != nil {
		t.Fatal(err)
	}
	// asks calls JoinRun out of a group, as a launcher does.
	asks := func(dir string) *rig.Proc {
		p := w.Admin.Start("env", "LULL_TEST_ATTACK=join", "LULL_TEST_ADDRESS="+w.Bus.Address, "LULL_TEST_HASH="+filepath.Base(current),
			"LULL_TEST_LOCK="+filepath.Join(w.RunDir, "runctl", "lull."+name+".lock"), "sh", "-c", `echo $$ >"$0/cgroup.procs" && exec "$1"`, dir, self)
		w.Until("it is answered", time.Minute, func() (bool, string) { return strings.Contains(p.Log(), "\n"), p.Log() })
		return p
	}
	stays := func(p *rig.Proc, hierarchy, dir string) {
		t.Helper()
		if at := groups(p); !strings.Contains("\n"+at, hierarchy+":/"+filepath.Base(dir)+"\n") {
			t.Errorf("it is not in %s:\n%s", dir, at)
		}
	}
	running := func(want bool) {
		t.Helper()
		if list := w.MustLull("list").Stdout; strings.Contains(list, "running") != want {
			t.Errorf("want running %v: %s", want, list)
		}
	}

	foreign := group(freezer, "-suspended")
	p := asks(foreign)
	if log := p.Log(); !strings.Contains(log, "it is in the freezer group /"+filepath.Base(foreign)+", and is not taken out of that") {
		t.Errorf("out of a foreign freezer group: got %s, want %q in the log", log, "it is in the freezer group /"+filepath.Base(foreign)+", and is not taken out of that")
	}
	stays(p, ":freezer", foreign)
	p.Kill()
	running(false)
	p = launch(foreign)
	w.Until("it has started", time.Minute, func() (bool, string) { return strings.Contains(p.Log(), "started"), p.Log() })
	stays(p, ":freezer", foreign)
	w.Until("it counts as running", time.Minute, func() (bool, string) {
		list := w.MustLull("list").Stdout
		return strings.Contains(list, "running"), list
	})
	p.Kill()

	unit := group(unified, "-web.service")
	p = asks(unit)
	if log := p.Log(); strings.TrimSpace(log) != "<nil>" {
		t.Errorf("out of a service unit: got %s, want <nil>", log)
	}
	stays(p, "0:", unit)
	if at := groups(p); !strings.Contains(at, ":freezer:/lull."+name+"/") {
		t.Errorf("it is in no run:\n%s", at)
	}
	p.Kill()
	p = launch(unit)
	w.Until("it has started", time.Minute, func() (bool, string) { return strings.Contains(p.Log(), "started"), p.Log() })
	stays(p, "0:", unit)
	running(true)
	if err := os.WriteFile(filepath.Join(unit, "cgroup.kill"), []byte("1"), 0); err != nil { // the end of the unit
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := p.Wait(ctx, time.Minute); err != nil {
		t.Errorf("it has survived its unit: %v", err)
	}
	w.Until("it does not run any more", time.Minute, func() (bool, string) {
		list := w.MustLull("list").Stdout
		return !strings.Contains(list, "running"), list
	})
}
