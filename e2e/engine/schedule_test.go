package engine_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestReadOnRequest: with schedule.check 0 the agent neither watches a repository in a
// local directory nor reads it by itself. A reload changes that, in both directions.
func TestReadOnRequest(t *testing.T) {
	const name = "org.lull.asked"
	s := set(t, "")
	s.publish(app(name, "1", ""), map[string]string{"app": forever})
	s.Begin()
	s.MustLull("install", name)
	watched := func(want bool) {
		t.Helper()
		s.Until(fmt.Sprintf("the repository is watched: %t", want), limit, func() (bool, string) {
			n := watches(t, s.Agent().PID, filepath.Join(s.Repo, "metadata"))
			return n > 0 == want, fmt.Sprint(n, " watches")
		})
	}
	watched(true)
	s.Configure("policy.d/20-check.yaml", "defaults: {auto-refresh: true}\nschedule: {check: 0}\n")
	s.MustLull("policy", "reload")
	watched(false)
	s.publish(app(name, "2", ""), map[string]string{"app": forever})
	if o, ok := s.API.Refresh(name, "2"); ok {
		t.Errorf("version 2 is %s without a request", o.Str("State"))
	}
	if list := s.MustLull("list").Stdout; !strings.Contains(list, name) || strings.Contains(list, " 2 ") {
		t.Errorf("version 2 is in use without a request:\n%s", list)
	}
	s.MustLull("refresh")
	s.UntilState(name, "2", "done")

	s.Configure("policy.d/20-check.yaml", "defaults: {auto-refresh: true}\n")
	s.MustLull("policy", "reload")
	watched(true)
	s.publish(app(name, "3", ""), map[string]string{"app": forever})
	s.UntilState(name, "3", "done")
}

// watches counts the inotify watches that a process has on a directory, as proc(5) lists
// them in fdinfo.
func watches(t *testing.T, pid int, dir string) (n int) {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	if err != nil || len(files) == 0 {
		t.Fatal("the agent has no descriptors: ", err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // just closed
		}
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, "inotify ") && strings.Contains(line, fmt.Sprintf(" ino:%x ", st.Ino)) {
				n++
			}
		}
	}
	return n
}

// TestVersionInTheSection: a version that is published while a refresh is in its critical
// section is found then, and follows when that refresh has ended.
func TestVersionInTheSection(t *testing.T) {
	const name = "org.lull.hasty"
	s := set(t, "")
	s.Configure("policy.d/20-follows.yaml", "defaults: {auto-refresh: true}\n")
	pipe := s.Path("pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	publish := func(version, health string) {
		t.Helper()
		s.publish(app(name, version, "hooks: {health: [health]}\n"), map[string]string{"app": "exit 0", "health": health})
	}
	publish("1", "exit 0")
	s.Begin()
	s.MustLull("install", name)
	publish("2", "read -r _ <"+pipe)
	s.Until("version 2 is in its health check", limit, func() (bool, string) {
		o, err := s.API.TryRefresh(name, "2")
		return err == nil && o.Str("Step") == "health", o.Str("Step")
	})
	publish("3", "exit 0")
	s.Until("version 3 was found, and cannot replace version 2 now", limit, func() (bool, string) {
		return strings.Contains(s.Agent().Log(), "is in its critical section"), ""
	})
	if err := os.WriteFile(pipe, []byte("x\n"), 0); err != nil {
		t.Fatal(err)
	}
	s.Until("version 3 is current", limit, func() (bool, string) {
		o, _ := s.API.Package(name)
		return o.Str("Version") == "3", o.Str("Version")
	})
}
