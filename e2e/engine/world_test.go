package engine_test

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

func TestMain(m *testing.M) { rig.Main(m.Run) }

const (
	limit = 60 * time.Second
)

// scene is a world with an agent and a repository of packages of shell
// scripts.
type scene struct {
	*rig.Scene
	packages int // published so far
}

// set makes a scene. The agent is not started: see Begin.
func set(t *testing.T, policy string) *scene {
	t.Helper()
	require.Root(t)
	require.Unified(t)
	require.NotShort(t) // it builds the programs
	require.Program(t, "dbus-daemon", "setpriv")
	return &scene{Scene: rig.NewScene(t, rig.SceneOptions{Options: rig.Options{Tags: "faultpoint", Tracker: "subtree"}, Policy: policy})}
}

// publish makes a package of a lull.yaml, scripts and programs by path, publishes it and
// returns its package hash.
func (s *scene) publish(yaml string, scripts map[string]string, programs ...map[string][]byte) string {
	s.Helper()
	return s.publishWith(nil, yaml, scripts, programs...)
}

// publishWith is publish with flags.
func (s *scene) publishWith(flags []string, yaml string, scripts map[string]string, programs ...map[string][]byte) string {
	s.Helper()
	files := map[string]string{"lull.yaml": yaml}
	for path, text := range scripts {
		files[path] = "#!/bin/sh\n" + text + "\n"
	}
	for _, p := range programs {
		for path, content := range p {
			files[path] = string(content)
		}
	}
	s.packages++
	return s.Publish(s.Tree(fmt.Sprint("package-", s.packages), files), flags...)
}

// app is the lull.yaml of a package with an application.
func app(name, version, more string) string {
	return "name: " + name + "\nversion: \"" + version + "\"\nsummary: A test\napps:\n  - name: app\n    command: [app]\n" + more
}

// service is the entry of a service in lull.yaml.
const service = "services:\n  - name: daemon\n    scope: system\n    command: [daemon]\n"

// forever is a script that runs until it gets a signal.
const forever = "exec sleep infinity"

// waiting has an instance run, its refresh wait, and returns the application and the refresh.
func (s *scene) waiting(name, next string, publish func()) (*rig.Proc, rig.Object) {
	s.Helper()
	run := s.User.StartLull(nil, "run", name)
	s.Until(name+" runs", limit, func() (bool, string) {
		p, _ := s.API.Package(name)
		running, _ := p.Props["Running"].Value().(bool)
		return running, run.Log()
	})
	publish()
	s.MustLull("refresh", "--no-wait", name)
	return run, s.UntilState(name, next, "waiting")
}

// refused has a command end with a status and an error.
func (s *scene) refused(code int, text string, args ...string) {
	s.Helper()
	if r := s.Lull(args...); r.Code != code || !strings.HasPrefix(r.Stderr, "lull: "+text+"\n") {
		s.Errorf("lull %s: want %d and %q, got %v", strings.Join(args, " "), code, text, r)
	}
}

// says checks that a command succeeds and prints a line.
func (s *scene) says(line string, args ...string) {
	s.Helper()
	if r := s.Lull(args...); r.Code != 0 || !strings.Contains("\n"+r.Stdout, "\n"+line+"\n") {
		s.Errorf("lull %s: want %q, got %v", strings.Join(args, " "), line, r)
	}
}

// gate makes the pipe of fault points that wait, and returns the variable for the agent,
// a function that waits until one is reached, and one that lets it go on.
func (s *scene) gate() (env string, reached func(), open func()) {
	s.Helper()
	pipe := s.Path("gate")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		s.Fatalf("%v", err)
	}
	reached = func() {
		s.Helper()
		if _, err := os.ReadFile(pipe); err != nil {
			s.Fatalf("%v", err)
		}
	}
	open = func() {
		s.Helper()
		f, err := os.OpenFile(pipe, os.O_WRONLY, 0)
		if err != nil {
			s.Fatalf("%v", err)
		}
		f.Close()
	}
	return "LULL_FAULT_GATE=" + pipe, reached, open
}
