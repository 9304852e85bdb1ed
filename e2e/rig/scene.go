package rig

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The policy of a scene: the agent does nothing by itself.
const (
	// Quiet has no checks but those that are asked for, no collections and no reserve.
	Quiet = "schedule: {check: 31d}\ngc: {after-refresh: false, watermark: 0, reserve: 0}\n"
	// Asked has no refreshes but those that are asked for.
	Asked = "defaults: {auto-refresh: false}\n"
	// PolicyFile is what overrides them.
	PolicyFile = "policy.d/10-scene.yaml"
)

// settled is how long a scene waits for a state that the agent reaches by itself.
const settled = 60 * time.Second

// SceneOptions choose what a scene is made of.
type SceneOptions struct {
	Options
	Policy string // overrides Quiet and Asked, key by key: see Scene.Policy
	Auto   bool   // Asked does not apply
}

// Scene is a world with an empty repository and an agent that follows Quiet and
// Asked. Tests embed it in types of their own.
type Scene struct {
	*World
	API *API
}

// NewScene makes a scene. The agent is not started: see Begin.
func NewScene(tb TB, o SceneOptions) *Scene {
	tb.Helper()
	w := New(tb, o.Options)
	policy := Quiet
	if !o.Auto {
		policy += Asked
	}
	w.Configure("policy.yaml", policy)
	w.MustLull("repo", "init", w.Repo)
	s := &Scene{World: w, API: w.Bus.Watch()}
	s.Policy(o.Policy)
	return s
}

// Policy replaces what overrides Quiet and Asked. A running agent reloads it.
func (s *Scene) Policy(text string) {
	s.Helper()
	s.Configure(PolicyFile, text)
	if s.Agent() != nil {
		s.NoError(s.API.Call("Manager.Reload").Err)
	}
}

// Begin starts the agent, with variables of its environment, adds the repository as
// "local" and returns the agent.
func (s *Scene) Begin(env ...string) *Proc {
	s.Helper()
	agent := s.StartAgent(env...)
	s.MustLull("repo", "add", "local", s.Repo)
	return agent
}

// Publish publishes the package in a directory, without packs of differences unless a
// flag asks for them, and returns its package hash.
func (s *Scene) Publish(dir string, flags ...string) string {
	s.Helper()
	r := s.MustLull(append([]string{"publish", "--json", "--deltas-from", "0", "--repo", s.Repo, dir}, flags...)...)
	var p struct{ Package string }
	s.Decode(r, &p)
	if len(p.Package) != 64 {
		s.Fatalf("package hash %q, want 64 digits: %v", p.Package, r)
	}
	return p.Package
}

// Decode reads what a command has printed with --json.
func (s *Scene) Decode(r Result, into any) {
	s.Helper()
	if err := json.Unmarshal([]byte(r.Stdout), into); err != nil {
		s.Fatalf("cannot decode what the command printed: %v\n%v", err, r)
	}
}

// Version is the version of an instance that is current.
func (s *Scene) Version(instance string) string {
	s.Helper()
	p, ok := s.API.Package(instance)
	if !ok {
		s.Fatalf("%s is not installed", instance)
	}
	return p.Str("Version")
}

// UntilVersion waits until a version of an instance is current.
func (s *Scene) UntilVersion(instance, version string) {
	s.Helper()
	s.Until(instance+" "+version+" is current", settled, func() (bool, string) {
		p, _ := s.API.Package(instance)
		return p.Str("Version") == version, p.Str("Version")
	})
}

// UntilState waits until the refresh of an instance to a version is in a state.
func (s *Scene) UntilState(instance, version, state string) (o Object) {
	s.Helper()
	s.Until("the refresh of "+instance+" is "+state, settled, func() (bool, string) {
		o, _ = s.API.Refresh(instance, version)
		return o.Str("State") == state, o.Str("State") + " at " + o.Str("Step") + " " + o.Str("ErrorText")
	})
	return o
}

// UntilIdle waits until no refresh is under way.
func (s *Scene) UntilIdle() {
	s.Helper()
	s.Until("nothing is under way", settled, func() (bool, string) {
		for _, o := range s.API.Objects("Refresh") {
			switch o.Str("State") {
			case "done", "undone", "failed", "cancelled":
			default:
				return false, o.Str("Kind") + " " + o.Str("State") + " at " + o.Str("Step")
			}
		}
		return true, ""
	})
}

// Tree is WriteTree in a directory of the world, whose path it returns.
func (w *World) Tree(dir string, files map[string]string) string {
	w.Helper()
	dir = w.Path(dir)
	WriteTree(w, dir, files)
	return dir
}

// WriteTree writes files by path below a directory. Scripts and programs are executable.
func WriteTree(tb TB, dir string, files map[string]string) {
	tb.Helper()
	for path, text := range files {
		mode := os.FileMode(0o644)
		if strings.HasPrefix(text, "#!") || strings.HasPrefix(text, "\x7fELF") {
			mode = 0o755
		}
		path = filepath.Join(dir, path)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil {
			err = os.WriteFile(path, []byte(text), mode)
		}
		if err != nil {
			tb.Fatalf("cannot write a package: %v", err)
		}
	}
}

// Refused reports an error unless a command was refused: see Result.NotRefused.
func (w *World) Refused(r Result, code int, text, hint string) {
	w.Helper()
	if why := r.NotRefused(code, text, hint); why != "" {
		w.Errorf("%s", why)
	}
}

// NotRefused describes why a command did not end with an exit status, an error and, if one
// is given, a hint, and nothing else there. It is empty for one that did.
func (r Result) NotRefused(code int, text, hint string) string {
	want := "lull: " + text + "\n"
	if hint != "" {
		want += "hint: " + hint + "\n"
	}
	if r.Code == code && r.Stderr == want {
		return ""
	}
	return fmt.Sprintf("%q: got exit status %d and\n%swant %d and\n%s", r.Args, r.Code, r.Stderr, code, want)
}

// NoError ends the test at an error.
func (w *World) NoError(err error) {
	w.Helper()
	if err != nil {
		w.Fatalf("%v", err)
	}
}
