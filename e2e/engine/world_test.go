package engine_test

import (
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
	quiet = "schedule: {check: 31d}\ngc: {after-refresh: false, watermark: 0, reserve: 0}\n"
)

// scene is a world with an agent and a repository of packages of shell
// scripts.
type scene struct {
	*rig.World
	t   *testing.T
	api *rig.API
}

// set makes a scene. The agent is not started: see begin.
func set(t *testing.T, policy string) *scene {
	t.Helper()
	require.Root(t)
	require.Unified(t)
	require.NotShort(t) // it builds the programs
	require.Program(t, "dbus-daemon", "setpriv")
	w := rig.New(t, rig.Options{Tags: "faultpoint", Tracker: "subtree"})
	w.Configure("policy.yaml", quiet+policy)
	w.Configure("policy.d/10-asked.yaml", "defaults: {auto-refresh: false}\n") // publishing starts nothing
	w.MustLull("repo", "init", w.Repo)
	return &scene{World: w, t: t, api: w.Bus.Watch()}
}

func (s *scene) begin(env ...string) {
	s.t.Helper()
	s.StartAgent(env...)
	s.MustLull("repo", "add", "local", s.Repo)
}

// publish makes a package of a lull.yaml, scripts and programs by path, and publishes it.
func (s *scene) publish(yaml string, scripts map[string]string, programs ...map[string][]byte) {
	s.t.Helper()
	s.publishWith(nil, yaml, scripts, programs...)
}

// publishWith is publish with flags. It returns the output.
func (s *scene) publishWith(flags []string, yaml string, scripts map[string]string, programs ...map[string][]byte) string {
	s.t.Helper()
	dir, err := os.MkdirTemp(s.Path(), "package-")
	if err != nil {
		s.t.Fatal(err)
	}
	write := func(name, text string, mode os.FileMode) {
		if err := os.WriteFile(dir+"/"+name, []byte(text), mode); err != nil {
			s.t.Fatal(err)
		}
	}
	write("lull.yaml", yaml, 0o644)
	for name, text := range scripts {
		write(name, "#!/bin/sh\n"+text+"\n", 0o755)
	}
	for _, p := range programs {
		for name, content := range p {
			write(name, string(content), 0o755)
		}
	}
	return s.MustLull(append([]string{"publish", "--repo", s.Repo, dir}, flags...)...).Stdout
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
	s.t.Helper()
	run := s.User.StartLull(nil, "run", name)
	s.Until(name+" runs", limit, func() (bool, string) {
		p, _ := s.api.Package(name)
		running, _ := p.Props["Running"].Value().(bool)
		return running, run.Log()
	})
	publish()
	s.MustLull("refresh", "--no-wait", name)
	return run, s.state(name, next, "waiting")
}

// state waits until the refresh of an instance to a version is in a state.
func (s *scene) state(name, version, want string) (o rig.Object) {
	s.t.Helper()
	s.Until("the refresh of "+name+" is "+want, limit, func() (bool, string) {
		o, _ = s.api.Refresh(name, version)
		return o.Str("State") == want, o.Str("State") + " at " + o.Str("Step") + " " + o.Str("ErrorText")
	})
	return o
}

// refused has a command end with a status and an error.
func (s *scene) refused(code int, text string, args ...string) {
	s.t.Helper()
	if r := s.Lull(args...); r.Code != code || !strings.HasPrefix(r.Stderr, "lull: "+text+"\n") {
		s.t.Errorf("lull %s: want %d and %q, got %v", strings.Join(args, " "), code, text, r)
	}
}

// says checks that a command succeeds and prints a line.
func (s *scene) says(line string, args ...string) {
	s.t.Helper()
	if r := s.Lull(args...); r.Code != 0 || !strings.Contains("\n"+r.Stdout, "\n"+line+"\n") {
		s.t.Errorf("lull %s: want %q, got %v", strings.Join(args, " "), line, r)
	}
}

// gate makes the pipe of fault points that wait, and returns the variable for the agent,
// a function that waits until one is reached, and one that lets it go on.
func (s *scene) gate() (env string, reached func(), open func()) {
	s.t.Helper()
	pipe := s.Path("gate")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		s.t.Fatal(err)
	}
	reached = func() {
		s.t.Helper()
		if _, err := os.ReadFile(pipe); err != nil {
			s.t.Fatal(err)
		}
	}
	open = func() {
		s.t.Helper()
		f, err := os.OpenFile(pipe, os.O_WRONLY, 0)
		if err != nil {
			s.t.Fatal(err)
		}
		f.Close()
	}
	return "LULL_FAULT_GATE=" + pipe, reached, open
}
