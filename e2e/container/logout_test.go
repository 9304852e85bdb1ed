package container_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/e2e/rig"
)

// groupOf is the group of a process in the hierarchy that systemd uses.
func groupOf(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if group, ok := strings.CutPrefix(line, "0::"); ok {
			return strings.TrimSpace(group)
		}
	}
	t.Fatalf("process %d is in %q", pid, b)
	return ""
}

// other is the revision that is not current.
func (m *moving) other() string {
	return map[string]string{"1": "2", "2": "1"}[revision(m.t, m.Scene)]
}

// numbers are the processes that have written marks.
func numbers(marks string) (pids []int) {
	for _, e := range list(marks) {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// started returns the process of an application that has written a mark which was not
// there before.
func (m *moving) started(marks string, before []int) (pid int) {
	m.t.Helper()
	m.Until("an application has started", limit, func() (bool, string) {
		fresh := slices.DeleteFunc(numbers(marks), func(pid int) bool { return slices.Contains(before, pid) })
		if len(fresh) > 0 {
			pid = fresh[0]
		}
		return len(fresh) > 0, "no mark"
	})
	m.alone(pid)
	return pid
}

// alone waits until an application has no helpers any more that have written its mark:
// it executes its program then, which makes no event.
func (m *moving) alone(pid int) {
	m.t.Helper()
	comm := ""
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil {
			m.t.Fatal(err)
		}
		if comm = strings.TrimSpace(string(b)); comm == "sleep" {
			return
		}
	}
	m.t.Fatalf("process %d is %s", pid, comm)
}

// waitsFor has a refresh begin and wait for just one process.
func (m *moving) waitsFor(pid int) {
	m.t.Helper()
	at := revision(m.t, m.Scene)
	m.revert(m.other())
	m.stillWaitsFor(pid, at)
}

func (m *moving) stillWaitsFor(pid int, at string) {
	m.t.Helper()
	m.waitsForAll(at, pid)
}

// waitsForAll waits until a refresh names just these processes.
func (m *moving) waitsForAll(at string, pids ...int) {
	m.t.Helper()
	slices.Sort(pids)
	m.Until("the refresh waits for what runs", limit, func() (bool, string) {
		o, err := m.API.TryRefresh(name, "")
		var waiting []int
		for _, p := range rig.Processes(o.Props["Waiting"]) {
			waiting = append(waiting, int(p.PID))
		}
		slices.Sort(waiting)
		return err == nil && o.Str("State") == "waiting" && slices.Equal(waiting, pids), fmt.Sprint(o.Str("State"), " for ", waiting, ", want ", pids, " ", err)
	})
	if now := revision(m.t, m.Scene); now != at {
		m.t.Errorf("revision %s is current, want %s", now, at)
	}
}

// ends waits for the end of a process that is not a child of this one.
func ends(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(limit.Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		if n != 1 {
			t.Fatalf("process %d has not ended: %v", pid, err)
		}
		return
	}
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

// environ is the environment of an actor, without what a session sets.
func environ(who *rig.Actor) []string {
	return slices.DeleteFunc(who.Command("true").Env, func(v string) bool { return strings.HasPrefix(v, "XDG_RUNTIME_DIR=") })
}

// setenv are the flags for systemd-run that give a unit the environment of an actor.
func setenv(who *rig.Actor) (flags []string) {
	for _, v := range environ(who) {
		flags = append(flags, "--setenv="+v)
	}
	return flags
}

// inSession makes a command that has the environment of an actor in a session. It sets
// it itself, because pam_systemd of systemd 262 sets HOME to the one of the account,
// over the HOME of the unit.
func inSession(who *rig.Actor, argv ...string) []string {
	return append(append([]string{"env"}, environ(who)...), argv...)
}

// configureLogind sets what becomes of a session's processes at its end.
func configureLogind(t *testing.T, setting string) {
	t.Helper()
	const file = "/etc/systemd/logind.conf.d/50-test.conf"
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte("[Login]\n"+setting+"\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	sh(t, "systemctl reset-failed systemd-logind; systemctl restart systemd-logind")
	t.Cleanup(func() {
		if err := os.Remove(file); err != nil {
			t.Error(err)
		}
		sh(t, "systemctl reset-failed systemd-logind; systemctl restart systemd-logind")
	})
}

// TestLogOut: an application that a user leaves with nohup is treated like any
// other program: it is kept, or killed with the session, by logind's settings.
// While it runs, refreshes wait for it, and no longer.
func TestLogOut(t *testing.T) {
	here(t)
	m := newMoving(t)
	wrapper := filepath.Join(m.Store, "exports/bin", name)
	for _, c := range []struct {
		name, setting string
		root, kept    bool
	}{
		{"kept", "KillUserProcesses=no", false, true},
		{"killed", "KillUserProcesses=yes", false, false},
		{"of root", "KillUserProcesses=no", true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			m.t = t
			configureLogind(t, c.setting)
			who := m.Admin
			if !c.root {
				who = m.NewUser("leaves-"+c.name, false)
			}
			marks := m.follow(who)
			before := numbers(marks)
			files := m.Path("files-" + strings.ReplaceAll(c.name, " ", ""))
			if err := errors.Join(os.Mkdir(files, 0o755), syscall.Mkfifo(files+"/end", 0o644)); err != nil {
				t.Fatal(err)
			}
			who.Own(files)
			who.Own(files + "/end")
			m.Watch(files)
			script := fmt.Sprintf(`cd %[1]s; nohup sleep 100000 >/dev/null 2>&1 & echo $! >%[1]s/.plain; mv %[1]s/.plain %[1]s/plain
nohup %[2]s >/dev/null 2>&1 &
read -r _ <%[1]s/end`, files, wrapper)
			args := []string{"--quiet", "--pipe", "--wait", "--collect", "--uid=" + who.Name, "--property=PAMName=login"}
			session := m.Admin.Start("systemd-run", append(args, inSession(who, "sh", "-c", script)...)...)
			app, plain := m.started(marks, before), 0
			m.UntilFile("the other program runs", limit, files+"/plain", func(text string) (bool, string) {
				plain, _ = strconv.Atoi(strings.TrimSpace(text))
				return plain > 0, session.Log()
			})
			in := groupOf(t, plain)
			if got := groupOf(t, app); got != in || !strings.Contains(in, fmt.Sprintf("/user-%d.slice/session-", who.UID)) {
				t.Errorf("the application is in %s, another program in %s; want %v and %q", got, in, in, fmt.Sprintf("/user-%d.slice/session-", who.UID))
			}
			m.waitsFor(app)
			at := revision(t, m.Scene)

			if err := os.WriteFile(files+"/end", []byte("x\n"), 0); err != nil {
				t.Fatal(err)
			}
			if _, err := session.Wait(t.Context(), limit); err != nil {
				t.Fatalf("the session has not ended: %v", err)
			}
			if c.kept {
				// The action of logind when the user has no session left, without the delay.
				sh(t, "systemctl stop user@%d.service", who.UID)
				if !alive(plain) || !alive(app) {
					t.Errorf("processes are kept, and yet the other program lives: %v, the application: %v; want true and true", alive(plain), alive(app))
				}
				m.stillWaitsFor(app, at)
				if err := errors.Join(syscall.Kill(app, syscall.SIGTERM), syscall.Kill(plain, syscall.SIGTERM)); err != nil {
					t.Error(err)
				}
			}
			ends(t, plain)
			ends(t, app)
			m.settledDone()
		})
	}
}

// TestSystemUnits: an application that a system unit with User= starts belongs to that
// unit: it outlives the user's manager, and ends with the unit.
func TestSystemUnits(t *testing.T) {
	here(t)
	m := newMoving(t)
	wrapper := filepath.Join(m.Store, "exports/bin", name)
	for _, c := range []struct {
		name string
		argv []string
		root bool
	}{
		{"main process", []string{wrapper}, false},
		{"child", []string{"sh", "-c", `"$0" & wait`, wrapper}, false},
		{"child of root's", []string{"sh", "-c", `"$0" & wait`, wrapper}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			m.t = t
			who := m.Admin
			if !c.root {
				who = m.NewUser("unit-"+strings.ReplaceAll(c.name, " ", "-"), true) // whose manager runs
			}
			marks := m.follow(who)
			before := numbers(marks)
			unit := "lulltest-" + strings.ReplaceAll(strings.ReplaceAll(c.name, " ", "-"), "'", "") + ".service"
			args := append([]string{"--quiet", "--collect", "--unit=" + unit, "--uid=" + who.Name, "--setenv=XDG_RUNTIME_DIR=" + who.Runtime()}, setenv(who)...)
			m.Admin.Must("systemd-run", append(args, c.argv...)...)
			app := m.started(marks, before)
			if got := groupOf(t, app); got != "/system.slice/"+unit {
				t.Errorf("the application is in %s, want %v", got, "/system.slice/"+unit)
			}
			m.waitsFor(app)
			at := revision(t, m.Scene)
			if !c.root {
				sh(t, "loginctl disable-linger %s && systemctl stop user@%d.service", who.Name, who.UID)
				m.stillWaitsFor(app, at)
			}
			sh(t, "systemctl stop %s", unit)
			ends(t, app)
			m.settledDone()
		})
	}
}

// TestUserManagers: the manager of the user is re-executed, restarted, killed, and
// stopped, with and without the agent. Refreshes wait for running applications only,
// and no launch is refused.
func TestUserManagers(t *testing.T) {
	here(t)
	m := newMoving(t)
	wrapper := filepath.Join(m.Store, "exports/bin", name)
	who := m.NewUser("managed", true)
	marks := m.follow(who)
	manager := fmt.Sprintf("user@%d.service", who.UID)
	bus := "DBUS_SESSION_BUS_ADDRESS=unix:path=" + who.Runtime() + "/bus"
	// open launches as a program of the user's session does, which is a unit of the manager.
	open := func() (pid int) {
		t.Helper()
		before := numbers(marks)
		cmd := who.Command("systemd-run", append(append([]string{"--user", "--quiet", "--collect"}, setenv(who)...), "sh", "-c", `"$0" & wait`, wrapper)...)
		cmd.Env = append(cmd.Env, bus)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return m.started(marks, before)
	}
	reexec := func() {
		t.Helper()
		cmd := who.Command("systemctl", "--user", "daemon-reexec")
		cmd.Env = append(cmd.Env, bus)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	part := func(what string, f func(t *testing.T)) { t.Run(what, func(t *testing.T) { m.t = t; f(t) }) }

	part("executed again", func(t *testing.T) {
		app := open()
		in := groupOf(t, app)
		if !strings.Contains(in, "/"+manager+"/app.slice/app-lull-") {
			t.Errorf("the application is in %s; want %q", in, "/"+manager+"/app.slice/app-lull-")
		}
		m.waitsFor(app)
		at := revision(t, m.Scene)
		reexec()
		sh(t, "systemctl daemon-reexec")
		sh(t, "systemctl daemon-reload")
		m.stillWaitsFor(app, at)
		if now := groupOf(t, app); now != in {
			t.Errorf("the application was in %s and is in %s; want %v", in, now, in)
		}
		if err := syscall.Kill(app, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		m.settledDone()
	})
	part("launches meanwhile", func(t *testing.T) {
		// Launches of a program that is below the manager, and goes on while that one is
		// re-executed repeatedly.
		before := numbers(marks)
		const n = 30
		script := `i=0; while [ $i -lt ` + strconv.Itoa(n) + ` ]; do "$0" & i=$((i+1)); done; wait`
		cmd := who.Command("systemd-run", append(append([]string{"--user", "--quiet", "--collect", "--unit=many"}, setenv(who)...), "sh", "-c", script, wrapper)...)
		cmd.Env = append(cmd.Env, bus)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for range 5 {
			reexec()
		}
		m.Until("all have started", limit, func() (bool, string) {
			now := len(numbers(marks)) - len(before)
			return now == n, fmt.Sprintf("%d of %d", now, n)
		})
		pids := slices.DeleteFunc(numbers(marks), func(pid int) bool { return slices.Contains(before, pid) })
		for _, pid := range pids {
			m.alone(pid)
		}
		at := revision(t, m.Scene)
		m.revert(m.other())
		m.waitsForAll(at, pids...)
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		}
		m.settledDone()
	})
	for _, c := range []struct{ what, stop, start string }{
		{"restarted", "systemctl restart %s", ""},
		{"restarted again", "systemctl restart %s", ""},
		{"killed", "systemctl kill --signal=KILL %s; while systemctl is-active --quiet %[1]s; do :; done", "systemctl reset-failed %s; systemctl start %[1]s"},
		// The action of logind without a session and without lingering.
		{"stopped with the session", "loginctl disable-linger managed; systemctl stop %s || systemctl stop %[1]s", "loginctl enable-linger managed; systemctl start %s"},
	} {
		part(c.what, func(t *testing.T) {
			app := open()
			m.waitsFor(app)
			sh(t, c.stop, manager)
			ends(t, app)
			m.settledDone()
			if c.start != "" {
				sh(t, c.start, manager)
			}
			app = open()
			m.waitsFor(app)
			if err := syscall.Kill(app, syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			m.settledDone()
		})
	}
	part("restarted without the agent", func(t *testing.T) {
		app := open()
		m.waitsFor(app)
		m.Agent().Crash()
		sh(t, "systemctl restart %s", manager)
		ends(t, app)
		m.StartAgent()
		m.settledDone()
		app = open()
		m.waitsFor(app)
		m.Agent().Crash()
		reexec()
		m.StartAgent()
		m.waitsForAll(revision(t, m.Scene), app)
		if err := syscall.Kill(app, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		m.settledDone()
	})
}
