package engine_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/e2e/require"
)

// frozen freezes the unified cgroup of a process, as systemd does with users' slices
// before the machine is suspended. The cgroup is removed after the process has been killed.
func (s *scene) frozen(t *testing.T, pid int) {
	s.Helper()
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	if err != nil {
		s.Fatalf("%v", err)
	}
	_, group, ok := strings.Cut("\n"+string(b), "\n0::")
	if !ok {
		s.Fatalf("process %d is in no unified cgroup: %s", pid, b)
	}
	group, _, _ = strings.Cut(group, "\n")
	dir := filepath.Join(require.Unified(t), group)
	if err := os.WriteFile(filepath.Join(dir, "cgroup.freeze"), []byte("1"), 0); err != nil {
		s.Fatalf("%v", err)
	}
	defer s.Tick(100 * time.Millisecond)() // the kernel freezes in its own time, and a cgroup is none of the watched files
	s.Until(dir+" is frozen", limit, func() (bool, string) {
		text, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
		return err == nil && strings.Contains(string(text), "frozen 1"), string(text)
	})
}

// TestHaltedApplication: an application that is stopped, or whose cgroup is frozen, runs:
// a refresh waits for it, names it, and goes on when it has ended.
func TestHaltedApplication(t *testing.T) {
	const name = "org.lull.halted"
	s := set(t, "")
	s.publish(app(name, "1", ""), map[string]string{"app": "echo runs\n" + forever})
	s.Begin()
	s.MustLull("install", name)
	for i, how := range []string{"stopped", "frozen"} {
		from, to := strconv.Itoa(i+1), strconv.Itoa(i+2)
		run := s.User.StartLull(nil, "run", name)
		s.Until("it runs", limit, func() (bool, string) { return strings.Contains(run.Log(), "runs\n"), run.Log() })
		if how == "stopped" {
			run.Signal(syscall.SIGSTOP)
		} else {
			s.frozen(t, run.PID)
		}
		s.publish(app(name, to, ""), map[string]string{"app": "echo runs\n" + forever})
		if r := s.Lull("refresh", name); r.Code != 75 || !strings.Contains(r.Text(), "PID "+strconv.Itoa(run.PID)) {
			t.Errorf("%s: %v; want exit status 75 and %q", how, r, "PID "+strconv.Itoa(run.PID))
		}
		if p, _ := s.API.Package(name); p.Str("Version") != from {
			t.Errorf("%s: version %s is in use beneath it, want %v", how, p.Str("Version"), from)
		}
		// The end comes to a process that is stopped or frozen by SIGKILL alone.
		if i == 0 {
			run.Signal(syscall.SIGCONT)
			run.Stop()
		} else {
			run.Kill()
		}
		s.UntilState(name, to, "done")
	}
}

// TestHaltedService: a service that is stopped, or whose cgroup is frozen, is asked to end,
// gets its stop-timeout, and is killed; the refresh takes no longer than that.
func TestHaltedService(t *testing.T) {
	const name = "org.lull.haltedservice"
	s := set(t, "")
	publish := func(version string) {
		s.publish(app(name, version, service+"    stop-timeout: 1s\n"), map[string]string{
			"app":    forever,
			"daemon": "echo $$ >$LULL_COMMON/new; mv $LULL_COMMON/new $LULL_COMMON/" + version + "\n" + forever,
		})
	}
	publish("1")
	s.Begin()
	s.MustLull("install", name)
	pid := func(version string) (pid int) {
		t.Helper()
		s.UntilFile("the service of version "+version+" runs", limit, filepath.Join(s.Store, "data", name, "common", version), func(text string) (bool, string) {
			pid, _ = strconv.Atoi(strings.TrimSpace(text))
			return pid > 0, text
		})
		return pid
	}
	for i, how := range []string{"stopped", "frozen"} {
		from, to := strconv.Itoa(i+1), strconv.Itoa(i+2)
		old := pid(from)
		fd, err := unix.PidfdOpen(old, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if how == "stopped" {
			if err := unix.PidfdSendSignal(fd, unix.SIGSTOP, nil, 0); err != nil {
				t.Fatal(err)
			}
		} else {
			s.frozen(t, old) // the cgroup goes with the service
		}
		publish(to)
		s.MustLull("refresh", name)
		if err := unix.PidfdSendSignal(fd, 0, nil, 0); err != unix.ESRCH {
			t.Errorf("%s: the old service is still there: %v, want %v", how, err, unix.ESRCH)
		}
		if now := pid(to); now == old {
			t.Errorf("%s: the service has not been restarted", how)
		}
	}
}

// TestHaltedAgent: while the agent is stopped in its critical section, launches wait; when
// it goes on they get the new version.
func TestHaltedAgent(t *testing.T) {
	const name = "org.lull.haltedagent"
	require.Program(t, "script")
	s := set(t, "")
	s.publish(app(name, "1", ""), map[string]string{"app": "echo version 1"})
	env, reached, open := s.gate()
	s.Begin(env, "LULL_FAULT=refresh.copy.before#2:gate")
	s.MustLull("install", name)
	s.publish(app(name, "2", ""), map[string]string{"app": "echo version 2"})
	refresh := s.Admin.StartLull(nil, "refresh", name)
	reached()
	s.Agent().Signal(syscall.SIGSTOP)
	run := s.User.OnTerminal("run", name) // elsewhere the journal gets the message, if there is one
	s.Until("the launch waits", limit, func() (bool, string) { return strings.Contains(run.Log(), "being refreshed"), run.Log() })
	s.Agent().Signal(syscall.SIGCONT)
	if run.Ended() {
		t.Errorf("a launch in the critical section has ended, want it to wait: %s", run.Log())
	}
	open()
	if code, err := run.Wait(t.Context(), limit); err != nil || code != 0 || !strings.Contains(run.Log(), "version 2") {
		t.Errorf("the launch ended with %d, %v: %s; want no error, code 0 and %q", code, err, run.Log(), "version 2")
	}
	if code, err := refresh.Wait(t.Context(), limit); err != nil || code != 0 {
		t.Errorf("the refresh ended with %d, want 0, %v: %s", code, err, refresh.Log())
	}
}
