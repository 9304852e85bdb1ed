package kill_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/sample"
)

// TestCollectAtEveryPoint runs a collection and a check of the whole store
// before and after each step of an install, a refresh, a revert and a removal:
// it removes nothing that is in use or being fetched.
func TestCollectAtEveryPoint(t *testing.T) {
	first(t)
	require.ReleaseAgent(t)
	require.Program(t, "dbus-daemon", "setpriv", "cc")
	require.Lock(t, "freezer")
	w := rig.NewScene(t, rig.SceneOptions{Options: rig.Options{Tags: "faultpoint", Tracker: "freezer"}, Auto: true})
	for _, v := range []string{sample.V1, sample.V2} {
		sample.Write(w, w.Path(v), v)
	}
	w.Publish(w.Path(sample.V1))
	pipe := w.Path("gate")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	var points []string
	for _, step := range []plan.Step{plan.Resolve, plan.Fetch, plan.Stage, plan.Precopy, plan.Wait, plan.Inhibit, plan.StopServices,
		plan.Copy, plan.Link, plan.StartServices, plan.Health, plan.Uninhibit, plan.Finish} {
		points = append(points, fmt.Sprintf("refresh.%s.before#*:gate,refresh.%s.after#*:gate", step, step))
	}
	w.StartAgent("LULL_FAULT_GATE="+pipe, "LULL_FAULT="+strings.Join(points, ","))
	w.MustLull("repo", "add", "local", w.Repo)
	through := func(args ...string) {
		t.Helper()
		p := w.Admin.StartLull(nil, args...)
		passed := map[string]bool{}
		for {
			name, there := reached(t, pipe, p)
			if !there {
				break
			}
			passed[name] = true
			w.MustLull("gc")
			if r := w.Lull("verify"); r.Code != 0 {
				t.Errorf("%q, after a collection at %s: %v; want exit status 0", args, name, r)
			}
			letGo(t, pipe)
		}
		if code, err := p.Wait(t.Context(), limit); err != nil || code != 0 {
			t.Errorf("%q: %d, want 0, %v: %s", args, code, err, p.Log())
		}
		if len(passed) < 10 {
			t.Errorf("%q passed %d points, want at least 10: %v", args, len(passed), passed)
		}
		t.Logf("%q: %d points", args, len(passed))
	}
	runs := func(revision int, version string) {
		t.Helper()
		p := w.User.StartLull(nil, "run", sample.Name)
		notes := filepath.Join(w.User.Home, ".local/share/lull", sample.Name, fmt.Sprint(revision), "notes.txt")
		w.UntilFile("version "+version+" runs", limit, notes, func(text string) (bool, string) {
			return strings.Contains(text, version+" note"), text + p.Log()
		})
		p.Stop()
	}
	through("install", sample.Name)
	runs(1, sample.V1)
	w.Publish(w.Path(sample.V2))
	through("refresh", sample.Name)
	runs(2, sample.V2)
	through("revert", sample.Name)
	runs(1, sample.V1)
	through("remove", sample.Name)
	w.MustLull("gc")
	if left, err := filepath.Glob(filepath.Join(w.Store, "packages", "*")); err != nil || len(left) > 0 {
		t.Errorf("left are %v (%v)", left, err)
	}
}

// reached waits until the agent is at a gate, and returns which; or until the
// process has ended.
func reached(t *testing.T, pipe string, p *rig.Proc) (name string, there bool) {
	t.Helper()
	said := make(chan string, 1)
	go func() {
		f, err := os.Open(pipe) // waits for the other end
		if err != nil {
			said <- err.Error()
			return
		}
		defer f.Close()
		b, _ := io.ReadAll(f)
		said <- strings.TrimSpace(string(b))
	}()
	select {
	case name := <-said:
		return name, true
	case <-p.Done():
		if f, err := os.OpenFile(pipe, os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil { // ends the wait
			f.Close()
		}
		<-said
		return "", false
	}
}

// letGo opens the gate.
func letGo(t *testing.T, pipe string) {
	t.Helper()
	f, err := os.OpenFile(pipe, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}
