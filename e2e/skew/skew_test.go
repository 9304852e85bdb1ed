package skew_test

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
	name  = "org.lull.skew"
	limit = 60 * time.Second
)

// TestSkew: whichever part is the old one, a refresh waits for what runs, launches wait in the
// critical section, and an agent of the other version goes on with a refresh that waits, and
// with one whose agent was killed in the critical section.
func TestSkew(t *testing.T) {
	old := os.Getenv("LULL_OLD")
	if old == "" {
		t.Skip("LULL_OLD has no programs of an earlier version: make skew")
	}
	require.Root(t)
	require.Unified(t)
	require.Program(t, "dbus-daemon", "setpriv", "dunst", "Xvfb")
	now := rig.Binaries(t, "")
	for _, c := range []struct{ what, agent, launcher, command, helper, next string }{
		{"an old agent, then a new one", old, now, now, now, now},
		{"a new agent, then an old one", now, old, old, old, old},
		{"an old launcher", now, old, now, now, now},
		{"an old command", now, now, old, now, now},
		{"an old helper", now, now, now, old, now},
		{"an upgrade with the applications of before", old, old, old, old, now},
	} {
		t.Run(c.what, func(t *testing.T) {
			s := &scene{World: rig.New(t, rig.Options{Tracker: "subtree"}), launcher: c.launcher, command: c.command}
			s.Configure("policy.yaml", rig.Quiet+rig.Asked)
			s.command = old // an old agent reads no repository with the layout of a new one
			s.lull(0, "repo", "init", s.Repo)
			s.command = c.command
			s.publish("1")
			s.agent(c.agent)
			s.lull(0, "repo", "add", "local", s.Repo)
			s.lull(0, "install", name)
			s.StartDesktop()
			s.Bin = c.helper
			helper := s.StartHelper()

			app := s.start("stay")
			s.Until("it runs", limit, func() (bool, string) { return strings.Contains(app.Log(), "stays"), app.Log() })
			s.publish("2")
			s.lull(75, "refresh", name)
			s.StopAgent()
			s.agent(c.next)
			s.lull(75, "refresh", name)
			s.is("1")
			app.Stop()
			s.untilIs("2")

			gate := s.gate()
			s.publish("3")
			refresh := s.begin()
			gate.reached()
			launch := s.start()
			s.Until("a launch waits", limit, func() (bool, string) { return strings.Contains(launch.Log(), "waits"), launch.Log() })
			gate.open()
			if code, err := launch.Wait(t.Context(), limit); err != nil || code != 0 || !strings.Contains(launch.Log(), "version 3\n") {
				t.Errorf("the launch that has waited: got exit status %d, %v, want 0 and version 3:\n%s", code, err, launch.Log())
			}
			if code, err := refresh.Wait(t.Context(), limit); err != nil || code != 0 {
				t.Errorf("the refresh: got exit status %d, %v, want 0 and no error:\n%s", code, err, refresh.Log())
			}

			gate = s.gate()
			s.publish("4")
			s.begin()
			gate.reached()
			s.Agent().Crash()
			gate.close()
			s.agent(c.agent)
			s.untilIs("4")
			s.lull(0, "verify")
			s.lull(0, "gc")
			if helper.Ended() {
				t.Errorf("the helper has ended, want it to run:\n%s", helper.Log())
			}
			s.lull(0, "remove", name)
		})
	}
}

// scene is a world with programs of two versions.
type scene struct {
	*rig.World
	launcher, command string
}

func (s *scene) agent(bin string) {
	s.Helper()
	s.Bin = bin
	s.StartAgent()
}

func (s *scene) lull(code int, args ...string) {
	s.Helper()
	s.Bin = s.command
	if r := s.Lull(args...); r.Code != code {
		s.Fatalf("want status %d: %v\n%s", code, r, s.log())
	}
}

func (s *scene) log() string {
	if s.Agent() == nil {
		return ""
	}
	return s.Agent().Log()
}

// begin has a refresh begin.
func (s *scene) begin() *rig.Proc {
	s.Bin = s.command
	return s.Admin.StartLull(nil, "refresh", name)
}

func (s *scene) start(args ...string) *rig.Proc {
	s.Bin = s.launcher
	return s.User.Start("lull-run", append([]string{name}, args...)...)
}

func (s *scene) version() string {
	s.Helper()
	s.Bin = s.launcher
	return s.User.Run("lull-run", name).Stdout
}

func (s *scene) is(version string) {
	s.Helper()
	if got := s.version(); got != "version "+version+"\n" {
		s.Errorf("it prints %q, want version %s", got, version)
	}
}

func (s *scene) untilIs(version string) {
	s.Helper()
	defer s.Tick(100 * time.Millisecond)() // an old agent does not have all signals
	s.Until("version "+version+" is there", limit, func() (bool, string) {
		got := s.version()
		return got == "version "+version+"\n", got + s.log()
	})
}

// publish publishes a version whose health hook waits at the gate, if there is one.
func (s *scene) publish(version string) {
	s.Helper()
	dir := s.Tree("v"+version, map[string]string{
		"lull.yaml": fmt.Sprintf("name: %s\nversion: %q\nsummary: meets others\napps: [{name: app, command: [app]}]\nhooks: {health: [health]}\ndata: {versioned: true}\n", name, version),
		"app":       "#!/bin/sh\nif [ \"$1\" = stay ]; then echo stays; exec sleep infinity; fi\necho version " + version + "\n",
		"health":    fmt.Sprintf("#!/bin/sh\n[ ! -p %s ] || { echo here >%s; read answer <%[1]s; }\n", s.Path("gate"), s.Path("here")),
	})
	s.lull(0, "publish", "--repo", s.Repo, dir)
}

// gate is where the hook waits.
type gate struct{ s *scene }

func (s *scene) gate() gate {
	s.Helper()
	for _, pipe := range []string{"gate", "here"} {
		if err := syscall.Mkfifo(s.Path(pipe), 0o600); err != nil {
			s.Fatalf("%v", err)
		}
	}
	return gate{s}
}

func (g gate) reached() {
	g.s.Helper()
	if _, err := os.ReadFile(g.s.Path("here")); err != nil {
		g.s.Fatalf("%v", err)
	}
}

func (g gate) open() {
	g.s.Helper()
	if err := os.WriteFile(g.s.Path("gate"), []byte("go on\n"), 0); err != nil {
		g.s.Fatalf("%v", err)
	}
	g.close()
}

func (g gate) close() {
	for _, pipe := range []string{"gate", "here"} {
		os.Remove(g.s.Path(pipe))
	}
}
