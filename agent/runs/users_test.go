package runs_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/cgroup"
	"github.com/lull/lull/agent/lib/runctl"
	"github.com/lull/lull/agent/lib/runname"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/runs/conformance"
)

// mallory makes groups below her own manager, vic runs applications.
const (
	malloryService = "user.slice/user-2001.slice/user@2001.service"
	vicService     = "user.slice/user-2002.slice/user@2002.service"
)

// deep makes a chain of groups below dir, each name so long that the path
// exceeds PATH_MAX, and removes it at the end.
func deep(t *testing.T, dir, suffix string, levels int) {
	t.Helper()
	name := strings.Repeat("a", 242) + suffix
	fds := make([]int, 1, levels+1)
	var err error
	if fds[0], err = unix.Open(dir, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for i := len(fds) - 1; i >= 0; i-- {
			if i > 0 {
				if err := unix.Unlinkat(fds[i-1], name, unix.AT_REMOVEDIR); err != nil {
					t.Error(err)
				}
			}
			unix.Close(fds[i])
		}
	})
	for i := range levels {
		if err := unix.Mkdirat(fds[i], name, 0o755); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Openat(fds[i], name, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		fds = append(fds, fd)
	}
}

// wide makes n groups with names of the form.
func wide(t *testing.T, dir, form string, n int) {
	t.Helper()
	t.Cleanup(func() {
		for i := range n {
			if err := unix.Rmdir(filepath.Join(dir, fmt.Sprintf(form, i))); err != nil && !cgroup.Gone(err) {
				t.Error(err)
			}
		}
	})
	for i := range n {
		if err := os.Mkdir(filepath.Join(dir, fmt.Sprintf(form, i)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// storm makes and removes groups in a process of its own, until the end of the
// test.
func storm(t *testing.T, dir string, names ...string) {
	t.Helper()
	script := "cd " + dir + "; while :; do mkdir " + strings.Join(names, " ") + "; rmdir " + strings.Join(names, " ") + "; done"
	cmd := exec.Command("sh", "-c", script)
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		cmd.Wait()
		for _, n := range names {
			unix.Rmdir(filepath.Join(dir, n))
		}
	})
}

// users are the UIDs of processes, each once, and whether it only may run.
func users(ps []runs.Process) map[uint32]bool {
	all := map[uint32]bool{}
	for _, p := range ps {
		all[p.UID] = p.Perhaps()
	}
	return all
}

// TestTreeOfAUser has a user make groups that cannot be read, or not within
// bounds, before the tracker starts and after it. They count as that user
// running everything, and change nothing for other users.
func TestTreeOfAUser(t *testing.T) {
	scope := runname.Scope(app, pkg, "01234567")
	for _, c := range []struct {
		name   string
		make   func(t *testing.T, dir string)
		unread bool // of app, the tree cannot be read
	}{
		{"deeper than PATH_MAX", func(t *testing.T, dir string) { deep(t, dir, ".slice", 18) }, true},
		{"a deep run", func(t *testing.T, dir string) { // with a process at its bottom
			run := filepath.Join(dir, scope)
			if err := os.Mkdir(run, 0o755); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := cgroup.RemoveTree(run); err != nil {
					t.Error(err)
				}
			})
			deep(t, run, "", 15)
		}, false},
		{"6000 slices", func(t *testing.T, dir string) { wide(t, dir, "x%d.slice", 6000) }, true},
		{"6000 runs", func(t *testing.T, dir string) {
			wide(t, dir, "app-lull-"+runname.Escape(app)+"-"+pkg.Short()+"%08x.scope", 6000)
		}, true},
		{"slices that come and go", func(t *testing.T, dir string) { storm(t, dir, "a.slice", "b.slice", "c.slice") }, false},
		{"runs that come and go", func(t *testing.T, dir string) { storm(t, dir, scope) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, when := range []string{"before", "after"} {
				t.Run(when, func(t *testing.T) {
					m := newMachine(t)
					hers := m.mkdir(malloryService + "/app.slice")
					m.mkdir(vicService + "/app.slice")
					if when == "before" {
						c.make(t, hers)
					}
					tr, ctl := open(t, m.options(false))
					if err := ctl.CreateInstance("org.lull-test.other"); err != nil {
						t.Fatal(err)
					}
					if when == "after" {
						c.make(t, hers)
					}
					for range 3 {
						p := m.in(vicService+"/app.slice")(t, tr, conformance.Launch{Instance: "org.lull-test.other", Package: pkg})
						ps, err := tr.Busy("org.lull-test.other")
						if err != nil {
							t.Fatal(err)
						}
						if _, only := users(ps)[0]; !only || len(users(ps)) > 2 {
							t.Errorf("got processes %v, want one that is vic's for sure, and of two users at most", ps)
						}
						if there, err := ctl.Running("org.lull-test.other"); err != nil || !there {
							awaitRunning(t, tr, ctl, "org.lull-test.other", true)
						}
						p.End()
						awaitBusy(t, tr, "org.lull-test.other", func(ps []runs.Process) bool { _, vic := users(ps)[0]; return !vic })
					}
					ps, err := tr.Busy(app)
					if err != nil {
						t.Error(err)
					}
					if perhaps, there := users(ps)[2001]; c.unread && (!there || !perhaps || len(ps) != 1) {
						t.Errorf("got processes %+v, want one that may be of mallory, UID 2001", ps)
					}
					if procs, err := tr.ServiceProcs(app, ""); err != nil || len(procs) > 0 {
						t.Errorf("got processes %v (%v) of services, want none", procs, err)
					}
				})
			}
		})
	}
}

func awaitRunning(t *testing.T, tr runs.Tracker, ctl *runctl.Dir, instance string, want bool) {
	t.Helper()
	awaitHint(t, tr, func() bool { there, err := ctl.Running(instance); return err == nil && there == want })
}

func awaitBusy(t *testing.T, tr runs.Tracker, instance string, want func([]runs.Process) bool) {
	t.Helper()
	awaitHint(t, tr, func() bool { ps, err := tr.Busy(instance); return err == nil && want(ps) })
}

func awaitHint(t *testing.T, tr runs.Tracker, cond func() bool) {
	t.Helper()
	for deadline := time.After(60 * time.Second); !cond(); {
		select {
		case <-tr.Changes():
		case <-deadline:
			t.Fatal("no hint came")
		}
	}
}

// TestEndAfterTheEvents has a run end when the groups of its user have just changed too
// often to be watched any longer, and before they are read for the first time.
func TestEndAfterTheEvents(t *testing.T) {
	m := newMachine(t)
	hers := m.mkdir(malloryService + "/app.slice")
	tr, ctl := open(t, m.options(false))
	other := filepath.Join(hers, runname.Scope("org.lull-test.other", pkg, "01234567"))
	for range 3 {
		p := m.in(malloryService+"/app.slice")(t, tr, conformance.Launch{Instance: app, Package: pkg})
		awaitMarker(t, tr, ctl, true)
		for range 600 {
			if err := os.Mkdir(other, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := unix.Rmdir(other); err != nil {
				t.Fatal(err)
			}
		}
		p.End()
		awaitMarker(t, tr, ctl, false)
	}
}

// TestDeepRun has a process where no path reaches it: it is seen, and so is its
// end.
func TestDeepRun(t *testing.T) {
	m := newMachine(t)
	hers := m.mkdir(malloryService + "/app.slice")
	tr, ctl := open(t, m.options(false))
	run := filepath.Join(hers, runname.Scope(app, pkg, "01234567"))
	p := conformance.Start(t, conformance.Launch{UID: 2001})
	t.Cleanup(p.End)
	if err := os.Mkdir(run, 0o755); err != nil {
		t.Fatal(err)
	}
	at, err := cgroup.OpenDir(run)
	if err != nil {
		t.Fatal(err)
	}
	deep(t, run, "", 18)
	for range 18 {
		sub, err := at.Open(strings.Repeat("a", 242))
		at.Close()
		if err != nil {
			t.Fatal(err)
		}
		at = sub
	}
	defer at.Close()
	if err := cgroup.Join(at.Handle(), p.PID); err != nil {
		t.Fatal(err)
	}
	awaitMarker(t, tr, ctl, true)
	ps, err := tr.Busy(app)
	if _, there := users(ps)[2001]; err != nil || !there || len(ps) != 1 {
		t.Errorf("got processes %+v (%v), want one of UID 2001", ps, err)
	}
	if unread, err := tr.Unread(); err != nil || len(unread) > 0 {
		t.Errorf("got %v unread (%v), want none", unread, err)
	}
	p.End()
	awaitMarker(t, tr, ctl, false)
}

// TestNamesInAUsersTree: what a user calls a group is believed for that user
// alone.
func TestNamesInAUsersTree(t *testing.T) {
	m := newMachine(t)
	tr, ctl := open(t, m.options(false))
	for _, slice := range []string{malloryService, malloryService + "/app.slice"} {
		p := m.in(slice)(t, tr, conformance.Launch{Instance: app, Package: pkg, Service: "daemon"})
		if ps, err := tr.ServiceProcs(app, "daemon"); err != nil || len(ps) > 0 {
			t.Errorf("got processes %v (%v) of the system's service, want none", ps, err)
		}
		if ps, err := tr.ServiceProcs(app, ""); err != nil || len(ps) > 0 {
			t.Errorf("got processes %v (%v) of the system's services, want none", ps, err)
		}
		if err := tr.KillService(app, "daemon"); err != nil {
			t.Error(err)
		}
		if ps, err := tr.SessionProcs(app, "daemon"); err != nil || len(ps) != 1 {
			t.Errorf("of sessions there are %v, %v; want no error and 1 of them", ps, err)
		}
		all, err := tr.Runs()
		if err != nil || len(all) != 1 || !all[0].Session || all[0].UID != 2001 {
			t.Errorf("got runs %+v (%v), want one of a session of UID 2001", all, err)
		}
		if ps, err := tr.Busy(app); err != nil || len(ps) > 0 {
			t.Errorf("got processes %v (%v) of the application, want none", ps, err)
		}
		p.End()
	}
	// A user's slice that is called like a branch of the system's.
	p := m.in(malloryService+"/system.slice")(t, tr, conformance.Launch{Instance: app, Package: pkg})
	awaitMarker(t, tr, ctl, true)
	if all, err := tr.Runs(); err != nil || len(all) != 1 || !all[0].Session {
		t.Errorf("got runs %+v (%v), want one of a session", all, err)
	}
	p.End()
	awaitMarker(t, tr, ctl, false)
}

// TestWatchesOfAUser: the watches of one user are bounded, and no other user's
// events are late for it.
func TestWatchesOfAUser(t *testing.T) {
	m := newMachine(t)
	hers := m.mkdir(malloryService + "/app.slice")
	tr, _ := open(t, m.options(false))
	before := watches(t)
	wide(t, hers, "x%d.slice", 6000)
	for i := range 6 {
		wide(t, hers, "app-lull-x-0123456789abcdef"+fmt.Sprint(i)+"%07x.scope", 1000)
	}
	m.mkdir(vicService + "/app.slice")
	p := m.in(vicService+"/app.slice")(t, tr, conformance.Launch{Instance: app, Package: pkg})
	awaitBusy(t, tr, app, func(ps []runs.Process) bool { _, vic := users(ps)[0]; return vic })
	p.End()
	awaitBusy(t, tr, app, func(ps []runs.Process) bool { _, vic := users(ps)[0]; return !vic })
	if tr.Polls() {
		t.Errorf("got polling of everything (%s), want events", tr.Events())
	}
	if n := watches(t) - before; n > 1200 {
		t.Errorf("got %d watches for one user, want at most 1200", n)
	}
}
