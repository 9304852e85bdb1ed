package engine_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"github.com/lull/lull/e2e/rig"
)

// TestBoot: after a boot the services of an application whose refresh is prepared are
// started once, in the new revision; in the old one where the refresh fails or has to wait.
func TestBoot(t *testing.T) {
	const name = "org.lull.booted"
	daemon := func(version string) string {
		return fmt.Sprintf("echo %s >>\"$LULL_COMMON/log\"\necho $$ >\"$LULL_COMMON/pid\"\n%s", version, forever)
	}
	for _, c := range []struct{ what, hooks, started string }{
		{"applied", "", "1 2"},
		{"fails", "hooks:\n  health: [sick]\n", "1 2 1"},
		{"held", "", "1 1"},
	} {
		t.Run(c.what, func(t *testing.T) {
			s := set(t, "")
			s.publish(app(name, "1", service), map[string]string{"app": forever, "daemon": daemon("1")})
			s.Begin()
			s.MustLull("install", name)
			run, _ := s.waiting(name, "2", func() {
				s.publish(app(name, "2", service+c.hooks), map[string]string{"app": forever, "daemon": daemon("2"), "sick": "exit 1"})
			})
			if c.what == "held" {
				s.MustLull("hold", name)
			}
			s.reboot(name, run)
			s.StartAgent()
			if c.what == "held" {
				s.UntilState(name, "2", "waiting")
			} else {
				s.UntilState(name, "2", map[string]string{"applied": "done", "fails": "undone"}[c.what])
			}
			s.UntilFile("services were started", limit, filepath.Join(s.Store, "data", name, "common", "log"), func(text string) (bool, string) {
				got := strings.Join(strings.Fields(text), " ")
				if !strings.HasPrefix(c.started, got) {
					t.Fatalf("services were started in the revisions %q, want %q", got, c.started)
				}
				return got == c.started, got
			})
		})
	}
}

// reboot ends the agent and all processes, and empties /run.
func (s *scene) reboot(name string, run *rig.Proc) {
	s.Helper()
	s.StopAgent()
	run.Kill()
	p, err := os.ReadFile(filepath.Join(s.Store, "data", name, "common", "pid"))
	if err != nil {
		s.Fatalf("%v", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(p)))
	if err != nil {
		s.Fatalf("%v", err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		s.Fatalf("%v", err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		s.Fatalf("%v", err)
	}
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(limit.Milliseconds())); n != 1 {
		s.Fatalf("the service has not ended: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(s.RunDir, "runctl")); err != nil {
		s.Fatalf("%v", err)
	}
}

// TestHoldAll: a hold on everything holds each refresh, is shown with its owner and
// end, and ends by one command.
func TestHoldAll(t *testing.T) {
	const name = "org.lull.all"
	s := set(t, "")
	s.publish(app(name, "1", ""), map[string]string{"app": forever})
	s.Begin()
	s.MustLull("hold", "--all", "2h", "--reason", "exam")
	s.MustLull("install", name)
	s.publish(app(name, "2", ""), map[string]string{"app": forever})
	if r := s.Lull("refresh", name); r.Code != 75 || !strings.Contains(r.Stderr, "cannot refresh "+name+" now: it is held until ") || !strings.Contains(r.Stderr, "by root: exam") {
		t.Errorf("it is not said to be held: %v", r)
	}
	s.UntilState(name, "2", "waiting")
	for _, c := range [][]string{{"status"}, {"status", name}, {"pending"}, {"list"}} {
		if r := s.Lull(c...); !strings.Contains(r.Stdout, "eld until ") && !strings.Contains(r.Stdout, "held:") || c[0] != "list" && !strings.Contains(r.Stdout, "root: exam") {
			t.Errorf("it is not shown as held: %v", r)
		}
	}
	err := s.API.Call("Manager.Refresh", []string{name}, map[string]dbus.Variant{}).Err
	if err == nil || !strings.Contains(err.Error(), "cannot refresh "+name+" now: it is held until ") || !strings.Contains(err.Error(), " by root: exam") {
		t.Errorf("the bus answers %v; want an error, %q in the error and %q in the error", err, "cannot refresh "+name+" now: it is held until ", " by root: exam")
	}
	s.says("the hold on everything is released", "unhold", "--all")
	s.UntilState(name, "2", "done")
}
