package engine_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/rig"
)

// undo runs the command that `lull history` prints beside the last change of an application,
// as a user would copy it.
func (s *scene) undo(name, want string) {
	s.Helper()
	var last string
	for line := range strings.Lines(s.MustLull("history", name).Stdout) {
		if command, ok := strings.CutPrefix(strings.TrimSpace(line), "undo: "); ok {
			last = command
		}
	}
	if last != want {
		s.Fatalf("to undo it is %q, want %q:\n%s", last, want, s.MustLull("history", name).Stdout)
	}
	s.MustLull(strings.Fields(strings.TrimPrefix(last, "lull "))...)
}

// TestUndo: each kind of change is undone by the command that the history has for it, also an
// undoing itself, and a keyed instance from a channel of its own comes back to that.
func TestUndo(t *testing.T) {
	const name = "org.lull.app"
	s := set(t, "")
	s.publish(app(name, "1", ""), map[string]string{"app": forever})
	s.Begin()
	is := func(instance, want string) {
		t.Helper()
		got := "gone"
		if r := s.Lull("status", "--json", instance); r.Code == 0 {
			got = versionOf(t, r)
		}
		if got != want {
			t.Errorf("%s is %s, want %s", instance, got, want)
		}
	}
	s.MustLull("install", name)
	s.undo(name, "lull remove "+name)
	is(name, "gone")
	s.undo(name, "lull install --repository local --channel stable "+name)
	is(name, "1 stable")
	s.publish(app(name, "2", ""), map[string]string{"app": forever})
	s.MustLull("refresh", name)
	is(name, "2 stable")
	s.undo(name, "lull revert --revision 2 "+name)
	is(name, "1 stable")
	s.undo(name, "lull revert --revision 3 "+name)
	is(name, "2 stable")
	s.MustLull("remove", name)
	s.undo(name, "lull install --repository local --channel stable "+name)
	is(name, "2 stable")

	const keyed = name + "_work"
	s.publishWith([]string{"--channel", "edge"}, app(name, "3", ""), map[string]string{"app": forever})
	s.MustLull("install", "--key", "work", "--channel", "edge", name)
	is(keyed, "3 edge")
	s.MustLull("remove", keyed)
	s.undo(keyed, "lull install --repository local --channel edge --key work "+name)
	is(keyed, "3 edge")
	is(name, "2 stable")
}

// versionOf returns the version and the channel of `lull status --json`.
func versionOf(t *testing.T, r rig.Result) string {
	t.Helper()
	var doc struct {
		Package struct{ Version, Channel string }
	}
	if err := json.Unmarshal([]byte(r.Stdout), &doc); err != nil {
		t.Fatal(err)
	}
	return doc.Package.Version + " " + doc.Package.Channel
}
