package container_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/e2e/rig"
)

// of names the unit of a service.
func of(service string) string { return "lull-org.lull.contained-" + service + ".service" }

// ask reads a property of a unit.
func ask(w *rig.Scene, service, property string) string {
	return strings.TrimSpace(w.Admin.Must("systemctl", "show", "--value", "--property="+property, of(service)).Stdout)
}

// isOf reports whether a process is of a revision. The launcher becomes it a
// moment after systemd was notified, which makes no event.
func isOf(pid, revision string) bool {
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		env, err := os.ReadFile("/proc/" + pid + "/environ")
		if _, of, ok := strings.Cut(string(env), "\x00LULL_REVISION="); err == nil && ok {
			return strings.HasPrefix(of, revision+"\x00")
		}
	}
	return false
}

// TestServicesThroughRefreshes: two services that are restarted, in order, and one
// that endures, through a refresh, one that is undone, a revert, and a version
// without the enduring one.
func TestServicesThroughRefreshes(t *testing.T) {
	here(t)
	const first, second = "{name: first, command: bin/svc first}", "{name: second, command: bin/svc second}"
	const lasting = "{name: lasting, command: bin/svc lasting, refresh-mode: endure}"
	w := world(t, first, second, lasting)
	seen := 0
	ended := func() []string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(w.Store, "data", name, "common/log"))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		all := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
		if len(b) == 0 {
			all = nil
		}
		fresh := slices.DeleteFunc(slices.Clone(all[seen:]), func(line string) bool { return !strings.HasSuffix(line, " ends") })
		seen = len(all)
		return fresh
	}
	pids := map[string]string{}
	check := func(what, version string, restarted bool) {
		t.Helper()
		for _, s := range []string{"first", "second", "lasting"} {
			if state := ask(w, s, "ActiveState"); state != "active" {
				t.Errorf("%s: service %s is %s, want active", what, s, state)
			}
			pid := ask(w, s, "MainPID")
			if same, want := pid == pids[s], s == "lasting" || !restarted; len(pids) == 3 && same != want {
				t.Errorf("%s: service %s was process %s and is %s, want the same process: %v", what, s, pids[s], pid, want)
			}
			pids[s] = pid
			if s != "lasting" && !isOf(pid, version) {
				t.Errorf("%s: service %s is not of revision %s", what, s, version)
			}
		}
		// Both are decimal numbers of microseconds since the start of the machine.
		a, b := ask(w, "first", "ActiveEnterTimestampMonotonic"), ask(w, "second", "ActiveEnterTimestampMonotonic")
		if len(a) > len(b) || len(a) == len(b) && a >= b {
			t.Errorf("%s: the first service was started at %s µs, the second at %s µs, want the second later", what, a, b)
		}
		if got := revision(t, w); got != version {
			t.Errorf("%s: revision %s is current, want %v", what, got, version)
		}
		markers := []string{}
		if !restarted {
			markers = append(markers, "lull."+name+".running")
		}
		same(t, what+": markers", w.Markers(), markers)
	}
	check("installed", "1", true)
	same(t, "ended by the installation", ended(), nil)

	write(t, w, 2, true, first, second, lasting)
	w.MustLull("refresh", name)
	check("refreshed", "2", true)
	same(t, "ended by the refresh", ended(), []string{"second of 1 ends", "first of 1 ends"})

	write(t, w, 3, false, first, second, lasting)
	if r := w.Lull("refresh", name); r.Code != 1 || !strings.Contains(r.Stderr, "it hurts") {
		t.Errorf("got %v, want exit status 1 and %q in the error output", r, "it hurts")
	}
	check("undone", "2", true)
	same(t, "ended by what was undone", ended(), []string{"second of 2 ends", "first of 2 ends", "second of 3 ends", "first of 3 ends"})

	// A refresh that waits does not touch a service.
	app := w.User.StartLull(nil, "run", name)
	w.UntilFile("the application runs", limit, filepath.Join(w.User.Home, ".local/share/lull", name, "common/pid"), func(text string) (bool, string) { return text != "", text })
	write(t, w, 4, true, first, second, lasting)
	if r := w.Lull("refresh", name); r.Code != 75 {
		t.Errorf("got %v, want exit status 75", r)
	}
	check("waiting", "2", false)
	w.Agent().Crash() // systemd keeps the services
	check("without the agent", "2", false)
	w.StartAgent()
	app.Stop()
	w.Until("the refresh has ended", limit, func() (bool, string) {
		o, ok := w.API.Refresh(name, "4")
		return ok && o.Str("State") == "done", o.Str("State") + " " + o.Str("ErrorText")
	})
	check("refreshed later", revision(t, w), true)
	same(t, "ended by the later refresh", ended(), []string{"second of 2 ends", "first of 2 ends"})

	w.MustLull("revert", name)
	check("reverted", "2", true)
	same(t, "ended by going back", ended(), []string{"second of 4 ends", "first of 4 ends"})

	write(t, w, 5, true, first)
	w.MustLull("refresh", name)
	same(t, "ended by a version with one service", ended(), []string{"lasting of 1 ends", "second of 2 ends", "first of 2 ends"})
	for _, s := range []string{"second", "lasting"} {
		if state := ask(w, s, "ActiveState"); state != "inactive" {
			t.Errorf("service %s, which is no more, is %s, want inactive", s, state)
		}
	}
	w.MustLull("remove", name)
	same(t, "ended by the removal", ended(), []string{"first of 5 ends"})
	if left := w.Admin.Run("systemctl", "--no-legend", "--no-pager", "--all", "list-units", "lull-org*", "app-lull-*").Stdout; strings.TrimSpace(left) != "" {
		t.Errorf("units are left:\n%s", left)
	}
	fmt.Println("the services went through it all")
}

// TestServicesSettle: systemd counts a service as active when its launcher has become it,
// and restarts failed ones. An update whose service ends a moment later, or
// repeatedly, is undone; the old revision's service runs afterwards.
func TestServicesSettle(t *testing.T) {
	here(t)
	w := rig.NewScene(t, rig.SceneOptions{Options: rig.Options{System: true}, Auto: true, Policy: collects})
	publish := func(version, script string) {
		t.Helper()
		w.Publish(w.Tree("v"+version, map[string]string{
			"lull.yaml":  fmt.Sprintf("name: %s\nversion: %q\nsummary: settles\napps: [{name: app, command: bin/daemon}]\nservices: [{name: daemon, command: bin/daemon}]\n", name, version),
			"bin/daemon": "#!/bin/sh\n" + script + "\n",
		}))
	}
	publish("1", "exec sleep 100000")
	w.Begin()
	w.MustLull("install", name)
	for version, script := range map[string]string{
		"2": "sleep 0.2; exit 3",
		"3": "exit 4",
		"4": "sleep 0.5", // an end without an error is one too
	} {
		publish(version, script)
		if r := w.Lull("refresh", name); r.Code != 1 || !strings.Contains(r.Stderr, "service daemon of "+name) {
			t.Errorf("version %s: %v; want exit status 1 and %q in the error output", version, r, "service daemon of "+name)
		}
		if got := revision(t, w); got != "1" {
			t.Errorf("version %s: revision %s is current, want 1", version, got)
		}
		if state := ask(w, "daemon", "ActiveState"); state != "active" || !isOf(ask(w, "daemon", "MainPID"), "1") {
			t.Errorf("version %s: the old service is %s, process %s, want active with a process of revision 1", version, state, ask(w, "daemon", "MainPID"))
		}
	}
	publish("5", "exec sleep 100000")
	w.MustLull("refresh", name)
	if state := ask(w, "daemon", "ActiveState"); state != "active" || isOf(ask(w, "daemon", "MainPID"), "1") {
		t.Errorf("the new service is %s, process %s, want active with a process not of revision 1", state, ask(w, "daemon", "MainPID"))
	}
	publish("6", "sleep 1.5; exit 3") // too late to be undone: systemd restarts it, and gives up
	w.MustLull("refresh", name)
	w.Until("systemd has given up", 2*time.Minute, func() (bool, string) {
		state := ask(w, "daemon", "ActiveState")
		return state == "failed", state
	})
	for _, c := range []struct{ args, want string }{
		{"list", "service daemon has failed"},
		{"status", "daemon of " + name + " has failed"},
		{"status " + name, "daemon is failed"},
	} {
		if r := w.Lull(strings.Fields(c.args)...); !strings.Contains(r.Stdout, c.want) {
			t.Errorf("lull %s: got %v, want that it says %q", c.args, r, c.want)
		}
	}
	w.MustLull("remove", name)
}
