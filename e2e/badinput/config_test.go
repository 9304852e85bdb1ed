package badinput_test

import (
	"strings"
	"testing"

	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/sample"
)

// TestBrokenConfiguration starts the agent with files of the administrator's that
// cannot be used: it starts, launches and refreshes go on, the last valid
// settings hold, and every command reports the fault.
func TestBrokenConfiguration(t *testing.T) {
	s := set(t, rig.Options{})
	s.Configure("policy.d/20-kept.yaml", "defaults: {keep-revisions: 3}\n")
	s.MustLull("policy", "reload")
	for _, broken := range []map[string]string{
		{"repos.d/other.yaml": "url: /x\n  root: r\n"},
		{"policy.d/20-kept.yaml": "defaults: {keep-revisions: many}\n"},
		{"system.yaml": "bass: []\n"},
		{"repos.d/other.yaml": "", "policy.d/20-kept.yaml": "\x00", "system.yaml": "- x\n"},
	} {
		s.StopAgent()
		for name, text := range broken {
			s.Configure(name, text)
		}
		s.StartAgent()
		r := s.MustLull("list")
		for name := range broken {
			if !strings.Contains(r.Stderr, "not all of the configuration can be used: ") || !strings.Contains(r.Stderr, name) {
				t.Errorf("%s: lull list does not say so: %v", name, r)
			}
			if r := s.Lull("doctor"); !strings.Contains(strings.Join(strings.Fields(r.Stdout), ""), name) {
				t.Errorf("%s: the doctor does not say so: %v", name, r)
			}
		}
		s.start(2).Stop() // launching works
		if r := s.Lull("refresh", app); r.Code != 0 {
			t.Errorf("%v: a refresh from the repository that is whole: %v; want exit status 0", broken, r)
		}
		if r := s.Lull("policy", "reload"); r.Code != 78 {
			t.Errorf("%v: reload: %v; want exit status 78", broken, r)
		}
	}
	s.Configure("policy.d/20-kept.yaml", "defaults: {keep-revisions: 3}\n")
	s.Configure("system.yaml", "")
	s.Configure("repos.d/other.yaml", "url: "+s.Repo+"\nroot: local.root.json\n")
	s.MustLull("policy", "reload")
	if r := s.MustLull("list"); r.Stderr != "" {
		t.Errorf("all is mended, and it says %v; want no error output", r)
	}
	// Two repositories offer the name now: it stays with the one it came from.
	sample.Write(s, s.Path("3"), "3.0")
	s.Publish(s.Path("3"), "--notes", "words of the publisher")
	if r := s.MustLull("--json", "refresh", "--wait", app); !strings.Contains(r.Stdout, "words of the publisher") {
		t.Errorf("what is new does not arrive: %v", r)
	}
	if r := s.MustLull("status", app); !strings.Contains(r.Stdout, "local") {
		t.Errorf("it does not come from where it came from: %v", r)
	}
	s.MustLull("revert", app)
	if r := s.MustLull("refresh", app); !strings.Contains(r.Stdout, "3.0 is left out: you went back from it") {
		t.Errorf("after a revert: got %v, want %q in the output", r, "3.0 is left out: you went back from it")
	}
}
