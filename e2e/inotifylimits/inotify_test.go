package inotifylimits_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

func TestMain(m *testing.M) { rig.Main(m.Run) }

const (
	name  = "org.lull.scarce"
	limit = 60 * time.Second
)

// publish publishes a version whose application runs until its input ends.
func publish(t *testing.T, w *rig.World, version int) {
	t.Helper()
	w.MustLull("publish", "--repo", w.Repo, w.Tree(fmt.Sprint("v", version), map[string]string{
		"lull.yaml": fmt.Sprintf("name: %s\nversion: \"%d\"\nsummary: is tested\napps: [{name: app, command: bin/app}]\n", name, version),
		"bin/app":   fmt.Sprintf("#!/bin/sh\necho $$ > \"$LULL_USER_COMMON/pid\"\necho version %d\nexec cat\n", version),
	}))
}

// TestInotify runs the agent in a user namespace of its own that allows it no
// inotify instance, or instances with few watches (user_namespaces(7)): it
// polls for the missing events, reports that, and a refresh is applied all the
// same, at the end of the application and not before. Outside of the namespace
// it can read only processes of its own user, so that the administrator runs
// the application; that of another user it knows by the tether, and cannot
// name.
func TestInotify(t *testing.T) {
	require.Freezer(t)
	require.Unified(t)
	require.Program(t, "dbus-daemon", "setpriv", "unshare")
	for _, c := range []struct {
		name, tracker, limit string
		n                    int
		seen                 string
		tied                 bool // the user is none of the namespace, so that the agent has the tether alone
	}{
		{"subtree without instances", "subtree", "instances", 0, "subtree, exits noticed by reading cgroup.procs every second (no inotify: cannot use inotify: too many open files)", false},
		{"the tether alone", "subtree", "instances", 0, "subtree, exits noticed by reading cgroup.procs every second (no inotify: cannot use inotify: too many open files)", true},
		{"subtree without watches", "subtree", "watches", 0, "subtree, exits noticed by reading cgroup.procs every second (no inotify: ", false},
		{"subtree with one watch", "subtree", "watches", 1, "; what could not be watched is read every second (watch ", false},
		{"freezer without instances", "freezer", "instances", 0, "freezer, exits noticed by reading cgroup.procs every second (no release agent: ", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			limited := fmt.Sprintf(`echo %d > /proc/sys/user/max_inotify_%s && exec "$@"`, c.n, c.limit)
			w := rig.New(t, rig.Options{Tracker: c.tracker, Below: []string{
				"unshare", "--user", "--map-root-user", "sh", "-c", limited, "sh",
			}})
			w.Configure("policy.yaml", "schedule: {check: 31d}\ngc: {watermark: 0, reserve: 0}\n")
			w.MustLull("repo", "init", w.Repo)
			publish(t, w, 1)
			w.StartAgent()
			api := w.Bus.Watch()
			w.MustLull("repo", "add", "local", w.Repo)
			w.MustLull("install", name)

			who := w.Admin
			if c.tied {
				who = w.User
			}
			app, end := start(w, who)
			var pid int
			w.UntilFile("the application runs", limit, filepath.Join(who.Home, ".local/share/lull", name, "common/pid"), func(text string) (bool, string) {
				if app.Ended() {
					t.Fatalf("the application has ended, want it to run: %s", app.Log())
				}
				pid, _ = strconv.Atoi(strings.TrimSpace(text))
				return pid > 0, text
			})
			if r := w.Lull("doctor"); !strings.Contains(r.Stdout, "warn  tracker") || !strings.Contains(r.Stdout, c.seen) || !strings.Contains(r.Stdout, "max_user_watches") {
				t.Errorf("the doctor does not say %q:\n%v", c.seen, r)
			}
			german := w.Admin.Run("env", "LANG=de_DE.UTF-8", "COLUMNS=400", filepath.Join(w.Bin, "lull"), "status")
			if strings.Contains(german.Stdout, "every second") || !strings.Contains(german.Stdout, "jede Sekunde") {
				t.Errorf("the status in German has no German words for the tracker:\n%v", german)
			}
			publish(t, w, 2)
			if r := w.Lull("refresh", name); r.Code != 75 || !c.tied && !strings.Contains(r.Stderr, strconv.Itoa(pid)) {
				t.Errorf("refresh while it runs: got %v; want exit status 75, and process %d named unless it is tied (%v)", r, pid, c.tied)
			}
			end()
			w.Until("the refresh is done", limit, func() (bool, string) {
				o, ok := api.Refresh(name, "2")
				return ok && o.Str("State") == "done", o.Str("State") + " " + o.Str("ErrorText")
			})
			again, end := start(w, who)
			w.Until("the next launch is version 2", limit, func() (bool, string) {
				return strings.Contains(again.Log(), "version 2\n"), again.Log()
			})
			end()
			w.UntilNoMarkers(limit)
			if r := w.Lull("refresh", name); r.Code != 0 {
				t.Errorf("got %v, want exit status 0", r)
			}
			w.MustLull("remove", name)
		})
	}
}

// start launches the application; end closes its input and waits for its end.
func start(w *rig.World, who *rig.Actor) (p *rig.Proc, end func()) {
	r, in, err := os.Pipe()
	if err != nil {
		w.Fatalf("%v", err)
	}
	w.Cleanup(func() { in.Close() })
	p = who.StartLull(func(c *exec.Cmd) { c.Stdin = r }, "run", name)
	r.Close()
	return p, func() {
		w.Helper()
		in.Close()
		if _, err := p.Wait(w.Context(), limit); err != nil {
			syscall.Kill(p.PID, syscall.SIGKILL)
			w.Fatalf("%v", err)
		}
	}
}
