package system_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/rig"
)

// change is one of `lull history --json`.
type change struct {
	Kind        string `json:"kind"`
	FromVersion string `json:"from-version"`
	ToVersion   string `json:"to-version"`
	Result      string `json:"result"`
	Reason      string `json:"reason"`
	By          *struct {
		UID  int    `json:"uid"`
		Name string `json:"name"`
	} `json:"by"`
	Began string   `json:"began"`
	Undo  []string `json:"undo"`
}

func (s *scene) history(args ...string) (list []change) {
	s.Helper()
	var doc struct {
		Changes []change `json:"changes"`
	}
	s.NoError(json.Unmarshal([]byte(s.MustLull(append([]string{"--json", "history"}, args...)...).Stdout), &doc))
	return doc.Changes
}

func (c change) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %s>%s %s; %s", c.Kind, c.FromVersion, c.ToVersion, c.Result, strings.Join(c.Undo, " ")))
}

// current is the version that is installed, or "".
func (s *scene) current(name string) string {
	s.Helper()
	var doc struct {
		Packages []struct{ Instance, Version string }
	}
	s.NoError(json.Unmarshal([]byte(s.MustLull("--json", "list").Stdout), &doc))
	for _, p := range doc.Packages {
		if p.Instance == name {
			return p.Version
		}
	}
	return ""
}

// TestHistory checks that each change is in the history with its asker and its end, also
// after the agent was killed, and that the command that is printed beside the last one
// undoes it: a refresh, that revert again, a removal and an install.
func TestHistory(t *testing.T) {
	const name = "org.test.undo"
	s := set(t, 0, rig.Options{})
	s.StartAgent()
	s.MustLull("repo", "add", "local", s.Repo)
	publish := func(version, health string) {
		t.Helper()
		s.Publish(s.write(name, version, 0, "hooks: {health: [bin/health]}\n", map[string]string{"bin/health": "#!/bin/sh\n" + health}))
	}
	// undo runs the command of the youngest change.
	undo := func(want, version string) {
		t.Helper()
		c := s.history(name)[0]
		if strings.Join(c.Undo, " ") != want {
			t.Fatalf("%v is undone by %q, want %q", c, c.Undo, want)
		}
		if out := s.MustLull("history").Stdout; !strings.Contains(out, "\n  undo: "+want+"\n") {
			t.Errorf("for people there is no %q:\n%s", want, out)
		}
		s.MustLull(c.Undo[1:]...)
		if v := s.current(name); v != version {
			t.Fatalf("after %q the version is %q, want %q", want, v, version)
		}
	}

	publish("1", "exit 0")
	s.MustLull("install", name)
	publish("2", "exit 0")
	s.MustLull("refresh", name)
	publish("3", "echo it is broken; exit 3")
	if r := s.Lull("refresh", name); r.Code == 0 {
		t.Fatalf("the broken version is refreshed: got %v, want a failure", r)
	}
	s.Agent().Crash()
	s.StartAgent()

	list := s.history()
	var got []string
	for _, c := range list {
		got = append(got, c.String())
		if c.By == nil || c.By.UID != 0 || c.By.Name != "root" || c.Began == "" {
			t.Errorf("%v is by %+v and began at %q, want root, user 0, and a time", c, c.By, c.Began)
		}
	}
	want := []string{"refresh 2>3 undone;", "refresh 1>2 done; lull revert --revision 1 " + name, "install >1 done;"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Fatalf("the history is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if !strings.Contains(list[0].Reason, "it is broken") {
		t.Errorf("it does not say why the update was undone: %q", list[0].Reason)
	}

	s.MustLull(list[1].Undo[1:]...)
	if v := s.current(name); v != "1" {
		t.Fatalf("the refresh was undone, and the version is %q, want 1", v)
	}
	undo("lull revert --revision 2 "+name, "2")
	s.MustLull("remove", name)
	publish("4", "exit 0")
	undo("lull install --repository local --channel stable "+name, "4")
	undo("lull remove "+name, "")
	if r := s.Lull("history", "org.test.none"); r.Code != 1 || !strings.Contains(r.Stderr, "nothing is known of it") {
		t.Errorf("of an unknown name: got %v, want exit status 1 and %q in the error output", r, "nothing is known of it")
	}
}
