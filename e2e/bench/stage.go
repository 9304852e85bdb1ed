package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/lull/lull/e2e/rig"
)

// quiet is a policy under which nothing happens by itself.
const quiet = "defaults: {keep-revisions: 2, auto-refresh: false}\nschedule: {check: 31d}\ngc: {after-refresh: false, watermark: 0, reserve: 0}\n"

// stage is a world with an agent and a repository.
type stage struct {
	*rig.World
	api   *rig.API
	agent *rig.Proc
}

// myTurn waits until no test on this machine uses the freezer hierarchy.
func myTurn(tb rig.TB) {
	rig.Turn(tb, func() { fmt.Fprintln(os.Stderr, "waiting for another test of lull on this machine …") })
}

// setStage starts an agent that logs what it logs in production.
func setStage(tb rig.TB, o rig.Options) *stage {
	s := &stage{World: rig.New(tb, o)}
	s.Configure("policy.yaml", quiet)
	s.api = s.Bus.Watch()
	s.MustLull("repo", "init", s.Repo)
	s.start()
	return s
}

func (s *stage) start() {
	p, err := s.TryAgentWith([]string{"--log-level=info"})
	if err != nil {
		s.Fatalf("%v", err)
	}
	s.agent = p
}

// publish makes a package of one program. More lines of lull.yaml may be given.
func (s *stage) publish(name, version, program, more string) {
	dir := s.Path("packages", name, version)
	b, err := os.ReadFile(program)
	if err == nil {
		err = os.MkdirAll(filepath.Join(dir, "bin"), 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "bin", "program"), b, 0o755)
	}
	if err == nil {
		yaml := fmt.Sprintf("name: %s\nversion: %q\nsummary: Measured\napps:\n  - {name: %s, command: [bin/program]}\n%s", name, version, name, more)
		err = os.WriteFile(filepath.Join(dir, "lull.yaml"), []byte(yaml), 0o644)
	}
	if err != nil {
		s.Fatalf("cannot make package %s: %v", name, err)
	}
	s.MustLull("publish", "--repo", s.Repo, dir)
}

// install adds the repository and installs.
func (s *stage) install(names ...string) {
	s.MustLull("repo", "add", "local", s.Repo)
	s.MustLull(append([]string{"install"}, names...)...)
}

// wrapper is what starts an application, as a desktop would.
func (s *stage) wrapper(name string) string { return filepath.Join(s.Store, "exports", "bin", name) }
