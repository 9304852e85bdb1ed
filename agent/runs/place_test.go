package runs_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/cgroup"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/runctl"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/runs/conformance"
)

const app = "org.lull-test.place"

var pkg = digest.Of([]byte("a package"))

func open(t *testing.T, opts runs.Options) (runs.Tracker, *runctl.Dir) {
	t.Helper()
	if opts.RunDir == "" {
		opts.RunDir = t.TempDir()
	}
	opts.Log = logged(t)
	ctl, err := runctl.Create(opts.RunDir)
	if err != nil {
		t.Fatal(err)
	}
	if err := ctl.CreateInstance(app); err != nil {
		t.Fatal(err)
	}
	tr, err := runs.Choose(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	})
	return tr, ctl
}

func pidfd(t *testing.T, pid int) int {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// TestPlaceKnowsItsCaller refuses everything but the very process that asked.
func TestPlaceKnowsItsCaller(t *testing.T) {
	top := unified(t)
	tr, ctl := open(t, runs.Options{Want: "subtree"})
	p := conformance.Start(t, conformance.Launch{})
	t.Cleanup(p.End)
	q := conformance.Start(t, conformance.Launch{})
	t.Cleanup(q.End)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	ended := conformance.Start(t, conformance.Launch{})
	endedFD := pidfd(t, ended.PID)
	ended.End()
	before, err := cgroup.Of(p.PID)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		instance, service string
		pid, fd           int
		kind              errkind.Kind
	}{
		"another process":   {app, "", p.PID, pidfd(t, q.PID), errkind.NotPermitted},
		"no pidfd":          {app, "", p.PID, int(null.Fd()), errkind.Invalid},
		"a process of old":  {app, "", ended.PID, endedFD, errkind.Failed},
		"its number only":   {app, "", p.PID, endedFD, errkind.Failed},
		"nobody":            {app, "", 0, pidfd(t, p.PID), errkind.Invalid},
		"a path":            {"../" + app, "", p.PID, pidfd(t, p.PID), errkind.Invalid},
		"a path in service": {app, "a/b", p.PID, pidfd(t, p.PID), errkind.Invalid},
		"dots":              {"..", "", p.PID, pidfd(t, p.PID), errkind.Invalid},
	} {
		if group, err := tr.Attach(c.instance, pkg, c.service, c.pid, c.fd); errkind.KindOf(err) != c.kind {
			t.Errorf("%s: %q, %v (%s), want %s", name, group, err, errkind.KindOf(err), c.kind)
		}
	}
	if after, err := cgroup.Of(p.PID); err != nil || cgroup.Unified(after) != cgroup.Unified(before) {
		t.Errorf("got process %d in %v (%v), want it where it was: %v", p.PID, after, err, before)
	}
	if there, err := ctl.Running(app); there || err != nil {
		t.Errorf("got a marker %v (%v), want none", there, err)
	}
	if left, _ := filepath.Glob(filepath.Join(top, "lull/*/*")); slices.ContainsFunc(left, func(s string) bool { return strings.Contains(s, app) }) {
		t.Errorf("got groups %q left, want none of %s", left, app)
	}

	group, err := tr.Attach(app, pkg, "", p.PID, pidfd(t, p.PID))
	if err != nil || !strings.HasPrefix(group, "/lull/app/"+app+"/"+pkg.Short()+".") {
		t.Errorf("got %q, %v; want no error and group that begins with %q", group, err, "/lull/app/"+app+"/"+pkg.Short()+".")
	}
	if now, err := cgroup.Of(p.PID); err != nil || cgroup.Unified(now) != group {
		t.Errorf("got process %d in %v (%v), want it in %s", p.PID, now, err, group)
	}
	// From one run to another, as when an application restarts itself.
	again, err := tr.Attach(app, pkg, "", p.PID, -1)
	if err != nil || again == group {
		t.Errorf("got group %q (%v) at the restart, want another than %q and no error", again, err, group)
	}
	p.End()
	q.End()
	if ps, err := tr.Busy(app); err != nil || len(ps) != 0 {
		t.Errorf("%v, %v; want no error and 0 of them", ps, err)
	}
}

func TestPlaceAfterClose(t *testing.T) {
	unified(t)
	tr, _ := open(t, runs.Options{Want: "subtree"})
	p := conformance.Start(t, conformance.Launch{})
	t.Cleanup(p.End)
	if err := errors.Join(tr.Close(), tr.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := tr.Attach(app, pkg, "", p.PID, -1); !errkind.Is(err, errkind.Unavailable) {
		t.Errorf("got %v; want an error of kind %v", err, errkind.Unavailable)
	}
	if _, ok := <-tr.Changes(); ok {
		t.Error("a hint after Close")
	}
}

// TestReleaseAgentIsGivenBack covers a former registration, a crash, and
// another living agent.
func TestReleaseAgentIsGivenBack(t *testing.T) {
	top := freezer(t)
	agent := conformance.ReleaseAgent(t)
	file := filepath.Join(top, "release_agent")
	registered := func() string {
		t.Helper()
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(b))
	}
	register := func(path string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(path+"\n"), 0); err != nil {
			t.Fatal(err)
		}
	}
	register("")
	t.Cleanup(func() { register("") })
	opts := runs.Options{Want: "freezer", ReleaseAgent: agent, RunDir: t.TempDir()}
	ours := filepath.Join(opts.RunDir, "release-agent")

	// One that is not there any more is replaced, and put back all the same.
	gone := filepath.Join(t.TempDir(), "gone")
	register(gone)
	tr, _ := open(t, opts)
	if now := registered(); now != ours {
		t.Errorf("%q is registered, want %q", now, ours)
	}
	if target, err := os.Readlink(ours); err != nil || target != agent {
		t.Errorf("%s leads to %q, want %v: %v", ours, target, agent, err)
	}
	// A crash: another tracker finds ours still registered.
	tr2, _ := open(t, opts)
	if now := registered(); now != ours || !strings.HasPrefix(tr2.Events(), "release agent") {
		t.Errorf("after a crash: got %q registered and events %q, want %q and \"release agent\"", now, tr2.Events(), ours)
	}
	if err := tr2.Close(); err != nil || registered() != gone {
		t.Errorf("after the second tracker: got %q registered (%v), want %q", registered(), err, gone)
	}
	if err := tr.Close(); err != nil || registered() != gone {
		t.Errorf("after the first tracker: got %q registered (%v), want %q", registered(), err, gone)
	}

	// Another agent of this kind: alive, then killed.
	killed := opts
	killed.RunDir = t.TempDir()
	tr3, _ := open(t, opts)
	tr4, _ := open(t, killed)
	if registered() != ours || !strings.Contains(tr4.Events(), "no release agent: "+ours+" is registered") {
		t.Errorf("beside a living agent: got %q registered and events %q, want %q and \"no release agent: %s is registered\"", registered(), tr4.Events(), ours, ours)
	}
	saved, err := os.ReadFile(filepath.Join(opts.RunDir, "release-agent.saved"))
	if err != nil || strings.TrimSpace(string(saved)) != gone {
		t.Errorf("release-agent.saved: got %q (%v), want %q", saved, err, gone)
	}
	if err := errors.Join(tr3.Close(), tr4.Close(), os.WriteFile(filepath.Join(opts.RunDir, "release-agent.saved"), saved, 0o644)); err != nil {
		t.Error(err)
	}
	register(ours)
	tr4, _ = open(t, killed)
	if now := registered(); now != filepath.Join(killed.RunDir, "release-agent") {
		t.Errorf("%q is registered, %s; want %v", now, tr4.Events(), filepath.Join(killed.RunDir, "release-agent"))
	}
	if err := tr4.Close(); err != nil || registered() != gone {
		t.Errorf("after a killed agent: got %q registered (%v), want %q", registered(), err, gone)
	}

	// A living one stays, and its groups are none of ours.
	foreign := filepath.Join(t.TempDir(), "foreign")
	said := filepath.Join(t.TempDir(), "said")
	if err := os.WriteFile(foreign, []byte("#!/bin/sh\necho \"$1\" >>"+said+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	register(foreign)
	tr, _ = open(t, opts)
	if registered() != foreign || !strings.Contains(tr.Events(), "no release agent: "+foreign+" is registered") {
		t.Errorf("beside a foreign agent: got %q registered and events %q, want %q and \"no release agent: %s is registered\"", registered(), tr.Events(), foreign, foreign)
	}
	p := conformance.Placed(t, tr, conformance.Launch{Instance: app, Package: pkg})
	p.End()
	if ps, err := tr.Busy(app); err != nil || len(ps) != 0 {
		t.Errorf("%v, %v; want no error and 0 of them", ps, err)
	}
	if err := tr.Close(); err != nil || registered() != foreign {
		t.Errorf("after Close: got %q registered (%v), want %q", registered(), err, foreign)
	}
	if b, err := os.ReadFile(said); err == nil {
		t.Errorf("the foreign agent was called: got %s, want an error", b)
	}

	// Without a binary, or with a missing one, it polls and reports that.
	register("")
	for _, path := range []string{"", filepath.Join(t.TempDir(), "none")} {
		opts.ReleaseAgent = path
		tr, _ := open(t, opts)
		if registered() != "" || !strings.HasPrefix(tr.Events(), "reading cgroup.procs every second (no release agent: ") {
			t.Errorf("with the binary %q: got %q registered and events %q, want none and \"reading cgroup.procs every second (no release agent: …\"", path, registered(), tr.Events())
		}
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestStrangersCount: a process in the instance's group itself, where no run
// belongs, or in a group that another process has made there, is not overlooked.
func TestStrangersCount(t *testing.T) {
	top := unified(t)
	tr, _ := open(t, runs.Options{Want: "subtree"})
	p := conformance.Start(t, conformance.Launch{})
	t.Cleanup(p.End)
	group := filepath.Join(top, "lull/app", app)
	other := filepath.Join(group, "made-by-hand")
	if err := errors.Join(os.MkdirAll(other, 0o755), cgroup.Join(group, p.PID)); err != nil {
		t.Fatal(err)
	}
	if ps, err := tr.Busy(app); err == nil && len(ps) == 0 {
		t.Error("a process in the group itself was overlooked")
	}
	if err := errors.Join(os.MkdirAll(other, 0o755), cgroup.Join(other, p.PID)); err != nil {
		t.Fatal(err)
	}
	if ps, err := tr.Busy(app); err != nil || len(ps) != 1 || ps[0].PID != p.PID {
		t.Errorf("got %v, %v; want no error, 1 of them and pid %v", ps, err, p.PID)
	}
	p.End()
	if ps, err := tr.Busy(app); err != nil || len(ps) != 0 {
		t.Errorf("got %v, %v; want no error and 0 of them", ps, err)
	}
}

func TestChoose(t *testing.T) {
	if _, err := runs.Choose(runs.Options{Want: "magic", RunDir: t.TempDir()}); !errkind.Is(err, errkind.Usage) {
		t.Errorf("got %v; want an error of kind %v", err, errkind.Usage)
	}
	if _, err := runs.Choose(runs.Options{Want: "freezer", UserMode: true, RunDir: t.TempDir()}); !errkind.Is(err, errkind.Unavailable) {
		t.Errorf("got %v; want an error of kind %v", err, errkind.Unavailable)
	}
	if l, err := cgroup.Mounts(); err == nil && !l.SystemdUnified {
		for _, user := range []bool{true, false} {
			if _, err := runs.Choose(runs.Options{Want: "scope", UserMode: user, RunDir: t.TempDir()}); !errkind.Is(err, errkind.Unavailable) {
				t.Errorf("got %v; want an error of kind %v", err, errkind.Unavailable)
			}
		}
	}
}

func TestDescribeAndTerminate(t *testing.T) {
	p := conformance.Start(t, conformance.Launch{})
	t.Cleanup(p.End)
	ended := conformance.Start(t, conformance.Launch{})
	ended.End()
	ps := runs.Describe([]int{p.PID, ended.PID})
	if len(ps) != 1 || ps[0].PID != p.PID || ps[0].Command != "cat" || int(ps[0].UID) != os.Getuid() {
		t.Fatalf("got %+v, want PID %d with command cat and UID %d alone", ps, p.PID, os.Getuid())
	}
	// Not those who have only got the number.
	wrong := ps[0]
	wrong.UID++
	if err := runs.Terminate([]runs.Process{wrong, {PID: ended.PID}}); err != nil {
		t.Error(err)
	}
	if len(runs.Describe([]int{p.PID})) != 1 {
		t.Fatal("somebody else was ended")
	}
	if err := runs.Terminate(ps); err != nil {
		t.Error(err)
	}
	p.Wait()
}

// TestPlaceWhereOthersTidyUp: empty directories are removed by another agent that ends.
func TestPlaceWhereOthersTidyUp(t *testing.T) {
	top := unified(t)
	tr, _ := open(t, runs.Options{Want: "subtree"})
	for _, dir := range []string{"lull/app", "lull/svc", "lull"} {
		if err := unix.Rmdir(filepath.Join(top, dir)); err != nil {
			t.Skip("another agent's runs are there: ", err)
		}
	}
	p := conformance.Start(t, conformance.Launch{})
	t.Cleanup(p.End)
	if _, err := tr.Attach(app, pkg, "", p.PID, -1); err != nil {
		t.Fatal(err)
	}
	if ps, err := tr.Busy(app); err != nil || len(ps) != 1 {
		t.Errorf("%v, %v; want no error and 1 of them", ps, err)
	}
}
