package container_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/e2e/rig"
)

// racerEnv makes the test binary the racer: a desktop that starts programs and moves
// them, in the session of an ordinary user.
const racerEnv = "LULL_RACER"

// launchesEnv is how many launches TestMovedApplications does.
const launchesEnv = "LULL_LAUNCHES"

// order is one launch for the racer.
type order struct {
	Argv  []string
	After time.Duration // of the fork, when the desktop asks for the scope; less than zero: never
	Env   bool          // the launch is by a desktop file, as GLib marks it
}

// launched is what the racer reports when systemd has answered, and when it has ended.
type launched struct {
	PID   int
	Scope string // systemd's error about the scope, empty if none
	Ended string // how the process ended
}

type property struct {
	Name  string
	Value dbus.Variant
}

type auxiliary struct {
	Name       string
	Properties []property
}

// racer starts programs and has the user's systemd put each into app-gnome-…-PID.scope
// after the fork, by its PID, as gnome-shell and others do
// (https://systemd.io/DESKTOP_ENVIRONMENTS).
func racer() {
	conn, err := dbus.ConnectSessionBus()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	systemd := conn.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1")
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var o order
		if err := in.Decode(&o); err != nil {
			return
		}
		argv := o.Argv
		if o.Env {
			argv = append([]string{"sh", "-c", `export GIO_LAUNCHED_DESKTOP_FILE_PID=$$; exec "$@"`, "sh"}, argv...)
		}
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		l := launched{PID: cmd.Process.Pid}
		if o.After >= 0 {
			time.Sleep(o.After) // what is tried is that moment
			err := systemd.Call("org.freedesktop.systemd1.Manager.StartTransientUnit", 0,
				fmt.Sprintf("app-gnome-org.lull.contained-%d.scope", l.PID), "fail", []property{
					{"PIDs", dbus.MakeVariant([]uint32{uint32(l.PID)})},
					{"Slice", dbus.MakeVariant("app.slice")},
					{"CollectMode", dbus.MakeVariant("inactive-or-failed")},
				}, []auxiliary{}).Err
			if err != nil {
				l.Scope = err.Error()
			}
		}
		out.Encode(l)
		err := cmd.Wait()
		l.Ended = fmt.Sprint(err)
		out.Encode(l)
	}
}

// marking is an application that reports by a mark of its own that it runs, and in which
// revision: the oracle of these tests.
const marking = `#!/bin/sh
echo "$LULL_REVISION" >"$LULL_USER_COMMON/marks/$$.new"
mv "$LULL_USER_COMMON/marks/$$.new" "$LULL_USER_COMMON/marks/$$"
exec sleep 100000
`

// moving is a world with an application in two revisions, and a racer.
type moving struct {
	*rig.Scene
	t     *testing.T
	marks string
	tell  *json.Encoder
	hears *json.Decoder
}

func newMoving(t *testing.T) *moving {
	t.Helper()
	w := rig.NewScene(t, rig.SceneOptions{Options: rig.Options{System: true}, Auto: true})
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	tool := string(program)
	publish := func(version int) {
		t.Helper()
		w.Publish(w.Tree(fmt.Sprint("v", version), map[string]string{
			"lull.yaml": fmt.Sprintf("name: %s\nversion: \"%d\"\nsummary: is moved\napps: [{name: app, command: bin/app}]\nservices: [{name: daemon, command: bin/tool 100000}]\n", name, version),
			"bin/app":   marking,
			"bin/tool":  tool,
		}))
	}
	publish(1)
	w.Begin()
	m := &moving{Scene: w, t: t}
	w.MustLull("install", name)
	publish(2)
	w.MustLull("refresh", name)
	m.marks = m.follow(w.User)

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := w.User.Command(self)
	cmd.Env = append(cmd.Env, racerEnv+"=1", "DBUS_SESSION_BUS_ADDRESS=unix:path="+w.User.Runtime()+"/bus")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Process.Kill(); cmd.Wait() })
	m.tell, m.hears = json.NewEncoder(in), json.NewDecoder(bufio.NewReader(out))
	return m
}

// follow wakes Until whenever an application of a user has written its mark.
func (m *moving) follow(who *rig.Actor) (dir string) {
	m.t.Helper()
	dir = filepath.Join(who.Home, ".local/share/lull", name, "common/marks")
	who.Must("mkdir", "-p", dir)
	m.Watch(dir)
	return dir
}

// mark waits for the mark of a process, and returns the revision that it runs. A launch
// that was refused leaves none.
func (m *moving) mark(pid int) string {
	m.t.Helper()
	var text string
	m.Until("the application has written its mark", limit, func() (bool, string) {
		b, err := os.ReadFile(filepath.Join(m.marks, strconv.Itoa(pid)))
		text = strings.TrimSpace(string(b))
		return text != "", fmt.Sprint(err)
	})
	return text
}

// revert asks for the other revision, as an administrator who cannot wait.
func (m *moving) revert(to string) {
	m.t.Helper()
	rev, err := strconv.Atoi(to)
	if err != nil {
		m.t.Fatal(err)
	}
	call := m.API.Call("Manager.Revert", name, map[string]dbus.Variant{"revision": dbus.MakeVariant(uint32(rev))})
	if call.Err != nil {
		m.t.Fatalf("cannot revert: %v", call.Err)
	}
}

// settled waits until the refresh is done, or waits for processes; these are returned.
func (m *moving) settled() (waiting []int) {
	m.t.Helper()
	m.Until("the refresh is done or waits", limit, func() (bool, string) {
		o, err := m.API.TryRefresh(name, "")
		if err != nil {
			return false, err.Error()
		}
		waiting = nil
		for _, p := range rig.Processes(o.Props["Waiting"]) {
			waiting = append(waiting, int(p.PID))
		}
		switch o.Str("State") {
		case "done":
			waiting = nil
			return true, ""
		case "waiting":
			return len(waiting) > 0, "waiting for nothing"
		}
		return false, o.Str("State") + " at " + o.Str("Step") + " " + o.Str("ErrorText")
	})
	return waiting
}

// TestMovedApplications: a desktop moves what it has started into a scope of its own at
// any moment, while a refresh is requested at any moment. No application has its
// revision replaced while it runs, no launch is refused, none starts twice, and processes
// that a refresh waits for are named.
func TestMovedApplications(t *testing.T) {
	here(t)
	n, err := strconv.Atoi(os.Getenv(launchesEnv))
	if err != nil || n <= 0 {
		n = 100
	}
	m := newMoving(t)
	wrapper := filepath.Join(m.Store, "exports/bin", name)
	moments := []time.Duration{0, time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond, -1}
	escaped, unnamed, waited, moved := 0, 0, 0, 0
	for i := range n {
		at := revision(t, m.Scene)
		other := map[string]string{"1": "2", "2": "1"}[at]
		o := order{Argv: []string{wrapper}, After: moments[i%len(moments)], Env: i%7 == 3}
		if err := m.tell.Encode(o); err != nil {
			t.Fatal(err)
		}
		time.Sleep(max(moments[i/len(moments)%len(moments)], 0)) // after the click
		m.revert(other)
		var l launched
		if err := m.hears.Decode(&l); err != nil {
			t.Fatal(err)
		}
		runs := m.mark(l.PID)
		waiting := m.settled()
		if now := revision(t, m.Scene); now != runs {
			escaped++
			t.Errorf("launch %d, the desktop after %v: revision %s runs, %s is current", i, o.After, runs, now)
		}
		if len(waiting) > 0 {
			waited++
			found := false
			for _, pid := range waiting {
				found = found || pid == l.PID
			}
			if !found {
				unnamed++
				t.Errorf("launch %d: it waits for %v, not for %d", i, waiting, l.PID)
			}
		}
		group, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", l.PID))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(group), "/app-gnome-") {
			moved++
		}
		if err := syscall.Kill(l.PID, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := m.hears.Decode(&l); err != nil {
			t.Fatal(err)
		}
		if waiting := m.settledDone(); len(waiting) > 0 {
			t.Errorf("launch %d: the refresh still waits for %v", i, waiting)
		}
		if now := revision(t, m.Scene); now != other {
			t.Errorf("launch %d: revision %s is current, want %s", i, now, other)
		}
		if t.Failed() {
			break
		}
	}
	marks, err := os.ReadDir(m.marks)
	if err != nil {
		t.Fatal(err)
	}
	if !t.Failed() && len(marks) != n {
		t.Errorf("%d applications have started, want %d, one in each launch", len(marks), n)
	}
	t.Logf("%d launches, %d moved by the desktop, %d refreshes waited, %d escaped, %d not named", n, moved, waited, escaped, unnamed)
	if moved == 0 {
		t.Error("the desktop has moved none")
	}
}

// settledDone waits for the end of the refresh.
func (m *moving) settledDone() (waiting []int) {
	m.t.Helper()
	m.Until("the refresh is done", limit, func() (bool, string) {
		o, err := m.API.TryRefresh(name, "")
		if err != nil {
			return false, err.Error()
		}
		return o.Str("State") == "done", fmt.Sprint(o.Str("State"), " at ", o.Str("Step"), " ", o.Props["Waiting"], o.Str("ErrorText"))
	})
	return nil
}

// TestMovers: however a running application leaves its run, it is waited for and
// named: systemd-run, setsid, other namespaces, a multiplexer's detached child, an
// interpreter whose script was read and closed, a program that closes what it inherits.
func TestMovers(t *testing.T) {
	here(t)
	m := newMoving(t)
	wrapper := filepath.Join(m.Store, "exports/bin", name)
	for _, c := range []struct {
		name string
		argv []string
		root bool
	}{
		{"systemd-run --scope", []string{"systemd-run", "--user", "--scope", "--quiet", "--collect", wrapper}, false},
		{"systemd-run service", []string{"systemd-run", "--user", "--quiet", "--collect", "--setenv=HOME=" + m.User.Home, wrapper}, false},
		{"setsid", []string{"setsid", "-f", wrapper}, false},
		{"a mount namespace", []string{"unshare", "--user", "--map-root-user", "--mount", wrapper}, false},
		{"root's unshare --pid", []string{"unshare", "--pid", "--fork", "--mount-proc", wrapper}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			at := revision(t, m.Scene)
			who := m.User
			if c.root {
				who = m.Admin
			}
			marks := m.marks
			if c.root {
				marks = m.follow(m.Admin)
			}
			before := len(list(marks))
			cmd := who.Command(c.argv[0], c.argv[1:]...)
			cmd.Env = append(cmd.Env, "DBUS_SESSION_BUS_ADDRESS=unix:path="+who.Runtime()+"/bus")
			cmd.Stderr = os.Stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			go cmd.Wait()
			m.Until("it runs", limit, func() (bool, string) { return len(list(marks)) > before, "no mark" })
			m.revert(map[string]string{"1": "2", "2": "1"}[at])
			waiting := m.settled()
			if now := revision(t, m.Scene); now != at || len(waiting) == 0 {
				t.Errorf("revision %s is current, want %s; it waits for %v", now, at, waiting)
			}
			for _, pid := range waiting {
				if pid > 1 {
					syscall.Kill(pid, syscall.SIGKILL)
				}
			}
			m.settledDone()
		})
	}
}

func list(dir string) []os.DirEntry {
	entries, _ := os.ReadDir(dir)
	return entries
}

// TestStrangers: what uses a file of the package without any launch is waited for and
// named, while a service that executes the same file is not in the way; the end of the
// use is noticed.
func TestStrangers(t *testing.T) {
	here(t)
	m := newMoving(t)
	for _, c := range []struct{ name, script string }{
		{"executes it", `exec "$0" 100000`},
		{"executes another name of it", `cd "$(dirname "$0")" && exec ./tool 100000`},
		{"has it open and no more", `exec sleep 100000 <"$0"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			at := revision(t, m.Scene)
			pkg, err := filepath.EvalSymlinks(filepath.Join(m.Store, "current", name))
			if err != nil {
				t.Fatal(err)
			}
			cmd := m.User.Command("sh", "-c", c.script, filepath.Join(pkg, "bin/tool"))
			cmd.Stderr = os.Stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { cmd.Process.Kill(); cmd.Wait() }()
			m.uses(cmd.Process.Pid, filepath.Join(pkg, "bin/tool"))
			m.revert(map[string]string{"1": "2", "2": "1"}[at])
			waiting := m.settled()
			if now := revision(t, m.Scene); now != at || len(waiting) != 1 || waiting[0] != cmd.Process.Pid {
				t.Errorf("revision %s is current, want %s; it waits for %v, want %d", now, at, waiting, cmd.Process.Pid)
			}
			cmd.Process.Kill()
			cmd.Wait()
			m.settledDone()
		})
	}
}

// uses waits until a process has a file open or executes it, which makes no event.
func (m *moving) uses(pid int, path string) {
	m.t.Helper()
	want, err := os.Stat(path)
	if err != nil {
		m.t.Fatal(err)
	}
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		for _, link := range []string{"exe", "fd/0"} {
			if fi, err := os.Stat(fmt.Sprintf("/proc/%d/%s", pid, link)); err == nil && os.SameFile(fi, want) {
				return
			}
		}
	}
	m.t.Fatalf("process %d does not use %s", pid, path)
}
