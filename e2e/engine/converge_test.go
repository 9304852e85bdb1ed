package engine_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// TestPlayedTwice plays what a configuration manager would, twice: each command succeeds
// both times, and the second time nothing on the machine changes.
func TestPlayedTwice(t *testing.T) {
	s := set(t, "")
	s.publish(app("org.lull.one", "1", "notes: The first.\n"+service), map[string]string{"app": forever, "daemon": forever})
	s.publish(app("org.lull.two", "1", ""), map[string]string{"app": forever})
	s.publish(app("org.lull.three", "1", ""), map[string]string{"app": forever})
	s.Begin()
	s.MustLull("install", "org.lull.three")
	s.MustLull("repo", "remove", "local")
	play := [][]string{
		{"repo", "add", "local", s.Repo},
		{"install", "org.lull.one"},
		{"install", "org.lull.one", "org.lull.two"},
		{"switch", "--channel", "stable", "org.lull.one"},
		{"hold", "--until", "2090-01-01", "--reason", "fleet", "org.lull.one"},
		{"hold", "--all", "--until", "2090-01-01"},
		{"unhold", "--all"},
		{"unhold", "org.lull.two"},
		{"remove", "org.lull.three"},
		{"remove", "--purge", "org.lull.none"},
		{"refresh"},
		{"policy", "reload"},
		{"repo", "remove", "other"},
		{"repo", "set-url", "local", s.Repo},
		{"refresh", "org.lull.one"},
		{"gc"},
		{"gc", "--free", "1MB"},
		{"verify"},
		{"policy", "check"},
		{"channel", "promote", "org.lull.one", "--repo", s.Repo},
		{"channel", "halt", "org.lull.two", "--reason", "slow", "--repo", s.Repo},
		{"channel", "resume", "org.lull.two", "--repo", s.Repo},
		{"channel", "remove", "org.lull.three", "--repo", s.Repo},
		{"repo", "check", s.Repo},
		{"repo", "prune", s.Repo},
		{"repo", "deltas", s.Repo},
		{"repo", "resign", s.Repo},
		{"system", "status"},
	}
	// state is what must be the same after the second time.
	state := func() (text []string) {
		for _, args := range [][]string{{"list"}, {"repo", "list"}, {"history"}, {"pending"}, {"policy"}} {
			var doc map[string]any
			if err := json.Unmarshal([]byte(s.MustLull(append([]string{"--json"}, args...)...).Stdout), &doc); err != nil {
				t.Fatal(err)
			}
			if args[0] == "repo" {
				doc["repositories"] = len(doc["repositories"].([]any)) // when it was read may differ
			}
			b, err := json.Marshal(doc)
			if err != nil {
				t.Fatal(err)
			}
			text = append(text, string(b))
		}
		return text
	}
	var before []string
	for round := range 2 {
		for _, args := range play {
			r := s.Lull(append([]string{"--json"}, args...)...)
			if r.Code != 0 {
				t.Errorf("round %d, lull %s: %v; want exit status 0", round+1, strings.Join(args, " "), r)
			}
			var doc struct {
				Version   int
				Refreshes []any
			}
			if err := json.Unmarshal([]byte(r.Stdout), &doc); err != nil || doc.Version != 1 {
				t.Errorf("round %d, lull %s: %v: %v; want no error and version 1", round+1, strings.Join(args, " "), err, r)
			}
			if round == 1 && len(doc.Refreshes) > 0 {
				t.Errorf("the second lull %s: got %v; want no refreshes, as nothing is to change", strings.Join(args, " "), r)
			}
		}
		if round == 0 {
			before = state()
		}
	}
	if after := state(); !slices.Equal(before, after) {
		t.Errorf("the second round changed something: want\n%q\ngot\n%q", before, after)
	}

	// Likely queries then, with short names.
	for _, ask := range []struct{ line, want string }{
		{"changelog one", "  The first."},
		{"info one", "Rights:          service daemon runs in the background as user root"},
		{"why one", "installed → package "},
		{"open one -- cat lull.yaml", ""},
		{"policy explain one", "auto-refresh"},
	} {
		r := s.Lull(strings.Fields(ask.line)...)
		if ask.want != "" && (r.Code != 0 || !strings.Contains(r.Stdout, ask.want)) {
			t.Errorf("lull %s: want %q, got %v", ask.line, ask.want, r)
		}
	}
	s.refused(1, "cannot find three: it is not installed", "status", "three")
	if r := s.Lull("repo", "add", "local", t.TempDir()); r.Code == 0 {
		t.Errorf("another repository has taken the name: got %v, want a failure", r)
	}
}
