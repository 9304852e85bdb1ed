package runs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/cgroup"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/runctl"
	"github.com/lull/lull/agent/lib/runname"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/runs/conformance"
	"github.com/lull/lull/e2e/require"
)

// machine is a tree of groups like systemd's, below a group of the test's own.
// It does with scopes what systemd does: makes them, and removes them when they
// are empty. (With systemd itself the suite runs in a container: e2e.)
type machine struct {
	*testing.T
	top  string
	used *sync.Map // of the directories of groups: closed when it is removed
}

func newMachine(t *testing.T) machine {
	top := unified(t)
	dir, err := os.MkdirTemp(top, "lulltest.")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cgroup.RemoveTree(dir); err != nil {
			t.Error(err)
		}
	})
	m := machine{t, dir, new(sync.Map)}
	m.mkdir("init.scope")
	m.mkdir("system.slice/cron.service")
	m.mkdir("system.slice/system-getty.slice/getty@tty1.service")
	return m
}

func (m machine) mkdir(path string) string {
	m.Helper()
	dir := filepath.Join(m.top, path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		m.Fatal(err)
	}
	return dir
}

func (m machine) options(user bool) runs.Options {
	return runs.Options{Want: "scope", UserMode: user, Layout: &cgroup.Layout{Unified: m.top, SystemdUnified: true}}
}

const userService = "user.slice/user-1000.slice/user@1000.service"

// in returns a LaunchFunc that makes scopes in a slice.
func (m machine) in(slice string) conformance.LaunchFunc {
	return func(t *testing.T, _ runs.Tracker, l conformance.Launch) *conformance.Proc {
		unit := runname.Scope(l.Instance, l.Package, runname.Random())
		if l.Service != "" {
			unit = runname.ServiceUnit(l.Instance, l.Service)
		}
		dir := filepath.Join(m.top, slice, unit)
		gone := make(chan struct{})
		if before, there := m.used.Swap(dir, gone); there {
			<-before.(chan struct{}) // as systemd does, which has one unit of a name
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Error(err)
		}
		p := conformance.Start(t, l)
		if err := cgroup.Join(dir, p.PID); err != nil {
			t.Error(err)
		}
		go func() {
			p.Wait()
			// Its children may live on; then another cleanup removes them.
			cgroup.RemoveTree(dir)
			close(gone)
		}()
		return p
	}
}

func TestScope(t *testing.T) {
	for _, slice := range []string{"system.slice", userService + "/app.slice", userService + "/app.slice/app-gnome.slice", "user.slice/user-1000.slice/user-1000-lull.slice"} {
		t.Run(filepath.Base(slice), func(t *testing.T) {
			m := newMachine(t)
			opts := m.options(false)
			opts.RunDir = t.TempDir()
			ctl, err := runctl.Create(opts.RunDir)
			if err != nil {
				t.Fatal(err)
			}
			o := conformance.Options{Ctl: ctl, Mount: m.top, Short: testing.Short()}
			if strings.HasPrefix(slice, userService) {
				o.Session, o.SessionServices = 1000, true
			}
			conformance.Conformance(t, tracker(opts, "scope", "cgroup.events of systemd's scopes"), m.in(slice), o)
		})
	}
}

// TestScopeOfAUser sees the agent's own user only.
func TestScopeOfAUser(t *testing.T) {
	m := newMachine(t)
	opts := m.options(true)
	opts.RunDir = t.TempDir()
	if _, err := runs.Choose(opts); !errkind.Is(err, errkind.Unavailable) {
		t.Errorf("without a manager of the user: got %v, want an error of kind %s", err, errkind.Unavailable)
	}
	id := strconv.Itoa(os.Getuid())
	own := "user.slice/user-" + id + ".slice/user@" + id + ".service"
	m.mkdir(own)
	tr, ctl := open(t, opts)
	ours := m.in(own+"/app.slice")(t, tr, conformance.Launch{Instance: app, Package: pkg})
	t.Cleanup(ours.End)
	theirs := m.in(userService+"/app.slice")(t, tr, conformance.Launch{Instance: app, Package: pkg})
	t.Cleanup(theirs.End)
	if ps, err := tr.Busy(app); err != nil || len(ps) != 1 || ps[0].PID != ours.PID {
		t.Errorf("got %+v, %v, want process %d", ps, err, ours.PID)
	}
	awaitMarker(t, tr, ctl, true)
	ours.End()
	awaitMarker(t, tr, ctl, false)
}

func awaitMarker(t *testing.T, tr runs.Tracker, ctl *runctl.Dir, want bool) {
	t.Helper()
	for deadline := time.After(10 * time.Second); ; {
		there, err := ctl.Running(app)
		if err != nil {
			t.Fatal(err)
		}
		if there == want {
			return
		}
		select {
		case <-tr.Changes():
		case <-deadline:
			t.Fatalf("the marker never became %v", want)
		}
	}
}

// TestScopeTellsApart: what only looks like a run is none, and what comes
// later, slices and users, is found.
func TestScopeTellsApart(t *testing.T) {
	m := newMachine(t)
	tr, ctl := open(t, m.options(false))
	scope := runname.Scope(app, pkg, "01234567")
	var ends []func()
	for _, dir := range []string{
		"system.slice/app-gnome-" + app + "-0123456789abcdef01234567.scope",
		"system.slice/app-lull-" + app + "-1234.scope",
		"system.slice/lull-boot.service",
		"system.slice/cron.service/" + scope,              // inside of another service
		"user.slice/user-1000.slice/session-3.scope/a",    // a login
		"user.slice/user-1000.slice/other.slice/" + scope, // not below the user's manager
		"machine.slice/" + scope,
	} {
		p := conformance.Start(t, conformance.Launch{})
		t.Cleanup(p.End)
		ends = append(ends, p.End)
		if err := cgroup.Join(m.mkdir(dir), p.PID); err != nil {
			t.Fatal(err)
		}
	}
	if all, err := tr.Runs(); err != nil || len(all) != 0 {
		t.Errorf("got %+v, %v; want no error and 0 of them", all, err)
	}
	// A user logs in, and a slice is made, after the tracker has started.
	for _, slice := range []string{"user.slice/user-7.slice/user@7.service/app.slice", "system.slice/late.slice/later.slice", "user.slice/user-7.slice/user-7-lull.slice", "user.slice/user-9.slice/user-9-lull.slice"} {
		p := m.in(slice)(t, tr, conformance.Launch{Instance: app, Package: pkg})
		awaitMarker(t, tr, ctl, true)
		p.End()
		awaitMarker(t, tr, ctl, false)
	}
	// The same slice, removed and re-created.
	p := m.in("system.slice/late.slice/later.slice")(t, tr, conformance.Launch{Instance: app, Package: pkg})
	awaitMarker(t, tr, ctl, true)
	p.End()
	awaitMarker(t, tr, ctl, false)
	late := filepath.Join(m.top, "system.slice/late.slice")
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if err := cgroup.RemoveTree(late); err == nil || time.Now().After(deadline) {
			break
		}
	}
	p = m.in("system.slice/late.slice/later.slice")(t, tr, conformance.Launch{Instance: app, Package: pkg})
	awaitMarker(t, tr, ctl, true)
	p.End()
	awaitMarker(t, tr, ctl, false)
	for _, end := range ends {
		end()
	}
}

// TestScopePlaceNeedsSystemd: there is none to ask here.
func TestScopePlaceNeedsSystemd(t *testing.T) {
	if _, err := os.Stat("/run/systemd/private"); !errors.Is(err, fs.ErrNotExist) {
		t.Skip("systemd runs here")
	}
	m := newMachine(t)
	tr, _ := open(t, m.options(false))
	p := conformance.Start(t, conformance.Launch{})
	t.Cleanup(p.End)
	if _, err := tr.Attach(app, pkg, "", p.PID, -1); !errkind.Is(err, errkind.Unavailable) {
		t.Errorf("got %v; want an error of kind %v", err, errkind.Unavailable)
	}
	if _, err := tr.Attach(app, pkg, "daemon", p.PID, -1); !errkind.Is(err, errkind.Invalid) {
		t.Errorf("got %v; want an error of kind %v", err, errkind.Invalid)
	}
	if err := unix.Kill(p.PID, 0); err != nil {
		t.Error(err)
	}
}

// TestScopeOfSystemd is the suite on the real thing. The tests of whole
// machines run this test binary where systemd is PID 1.
func TestScopeOfSystemd(t *testing.T) { onSystemd(t, conformance.Scoped, 0) }

// TestScopeOfLingeringUser: a user who is not logged in, but whose manager runs.
func TestScopeOfLingeringUser(t *testing.T) {
	const tester = 1000 // of the containers
	if l, err := cgroup.Mounts(); err == nil && l.SystemdUnified {
		require.File(t, fmt.Sprintf("/run/user/%d/bus", tester))
	}
	// The user cannot enter the directory that `go test` makes for the test binary.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "lull-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "test")
	if out, err := exec.Command("install", "-m755", self, program).CombinedOutput(); err != nil {
		t.Fatalf("install: %v: %s", err, out)
	}
	onSystemd(t, conformance.ScopedByUser(tester, program), tester)
}

func onSystemd(t *testing.T, launch conformance.LaunchFunc, uid uint32) {
	t.Helper()
	l, err := cgroup.Mounts()
	if err != nil {
		t.Fatal(err)
	}
	if !l.SystemdUnified || os.Getuid() != 0 {
		t.Skip("systemd is not PID 1 here, or this is not root")
	}
	opts := runs.Options{Want: "scope", RunDir: t.TempDir()}
	o := conformOptions(t, opts, l.Unified, false)
	o.UID, o.Session = uid, uid
	conformance.Conformance(t, tracker(opts, "scope", "cgroup.events of systemd's scopes"), launch, o)
}

// TestScopePlaceBySystemd: the agent asks on behalf of a launcher that cannot.
func TestScopePlaceBySystemd(t *testing.T) {
	if l, err := cgroup.Mounts(); err != nil || !l.SystemdUnified || os.Getuid() != 0 {
		t.Skip("systemd is not PID 1 here, or this is not root")
	}
	tr, ctl := open(t, runs.Options{Want: "scope"})
	p := conformance.Start(t, conformance.Launch{})
	t.Cleanup(p.End)
	own, err := cgroup.Of(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	slice := "/system.slice"
	if strings.HasPrefix(cgroup.Unified(own), "/user.slice/user-0.slice/") { // root has logged in
		slice = "/user.slice/user-0.slice/user-0-lull.slice"
	}
	group, err := tr.Attach(app, pkg, "", p.PID, -1)
	if err != nil || filepath.Dir(group) != slice {
		t.Fatalf("got group %q (%v), want one in %s", group, err, slice)
	}
	if ps, err := tr.Busy(app); err != nil || len(ps) != 1 || ps[0].PID != p.PID {
		t.Errorf("%+v, %v; want no error, 1 of them and pid %v", ps, err, p.PID)
	}
	awaitMarker(t, tr, ctl, true)
	p.End()
	awaitMarker(t, tr, ctl, false)
}
