package system_test

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lull/lull/e2e/rig"
)

// TestFollow checks the outputs for users while an update is staged: for the
// one who requested it, who queries its progress, who requests something else
// meanwhile, and who finds that the agent has died.
func TestFollow(t *testing.T) {
	s := set(t, 0, rig.Options{})
	two := s.update(update{version: "2", baseMB: 1, imagesMB: 1})
	g := s.gate()
	s.StartAgent()
	s.MustLull("repo", "add", "web", g.URL, "--trust", filepath.Join(s.Repo, "root.json"))
	one := s.Publish(s.write("org.test.other", "1", 0, "", nil))

	reached, open := g.hold(s.blobOf("org.test.image", "2"))
	first := s.Admin.StartLull(nil, "system", "stage", osName)
	<-reached
	s.prints(first, "system 2: downloading what installs it")
	s.looks("staging", "In effect:  as the machine came\nNext:       2: downloading what installs it, ")
	if v := s.status(); v.Step != "images" || v.Staged == nil || v.Staged.Version != "2" || v.Staged.Hash != two.hash {
		t.Errorf("the status for programs: got %+v, want step images and version 2 staged, %s", v, two.hash)
	}
	giveUp := "lull system status shows it, lull system rollback gives it up"
	s.Refused(s.Lull("system", "stage", one), 75, "cannot stage "+one+": system 2 is being staged", giveUp)
	s.Refused(s.Lull("system", "commit"), 75, "cannot commit system 2: it is not staged yet", "lull system status shows how far it is")
	if c := s.API.Call("Retained.Clear"); !strings.HasPrefix(text(c), "org.lull.Error.Busy cannot set the retained index: it belongs to the update to system 2") {
		t.Errorf("Retained.Clear while system 2 is staged: got %s, want org.lull.Error.Busy, as it belongs to the update", text(c))
	}

	first.Signal(syscall.SIGINT)
	s.ends(first, 1, "lull: cannot follow the system update any longer: interrupted\nhint: it goes on; `lull system status` shows it, `lull system rollback` gives it up\n")
	second := s.Admin.StartLull(nil, "system", "stage")
	again, last := g.hold(s.blobOf("org.test.base", "2"))
	close(open)
	<-again
	s.prints(second, "system 2: downloading the system")
	s.looks("staging", "Next:       2: downloading the system, ")
	s.Agent().Crash()
	s.ends(second, 69, "lull: cannot follow the system update any longer: the agent has left the bus\nhint: when it is back, `lull system stage` goes on where it has stopped; see `systemctl status lulld`\n")

	s.StartAgent()
	s.looks("interrupted", "Next:        2, interrupted while downloading the system\nTo go on:    lull system stage\nTo drop it:  lull system rollback\n")
	if out := s.MustLull("doctor").Stdout; !strings.Contains(out, "staging "+osName+" was interrupted") {
		t.Errorf("lull doctor: want that staging %s was interrupted, got\n%s", osName, out)
	}
	close(last)
	s.says("system 2 is staged: it takes effect when the machine starts again\n", "system", "stage")
	s.looks("staged", "Next:        2, staged")

	// On a terminal there is a bar, and at the end the same line.
	s.MustLull("system", "rollback")
	s.MustLull("gc")
	bar := s.Admin.OnScreen("system", "stage", osName)
	if code, err := bar.Wait(s.Context(), limit); err != nil || code != 0 || !strings.Contains(bar.Log(), "system 2 is staged: it takes effect when the machine starts again") {
		t.Errorf("lull system stage: got exit status %d, %v; want 0, and that system 2 is staged:\n%s", code, err, bar.Log())
	}

	for _, c := range []struct {
		args       []string
		code       int
		text, hint string
	}{
		{[]string{"system", "stage", "Not A Name"}, 65, `cannot look for a system update "Not A Name": want NAME, NAME@CHANNEL or the hash of a package`, ""},
		{[]string{"system", "stage", "org.test.other"}, 65, "cannot stage org.test.other: could not use package " + one[:16] + " as a system update: it has no system.json",
			"it must be re-published; lull system rollback drops this one"},
		{[]string{"system", "stage", ""}, 64, "cannot stage an update without a name", "leave it out to go on where staging has stopped"},
		{[]string{"system", "stage", "a", "b"}, 64, "cannot understand this command: too many arguments", "use it as `lull system stage [UPDATE] [flags]`"},
	} {
		r := s.Lull(c.args...)
		want := "lull: " + c.text + "\n"
		if c.hint != "" {
			want += "hint: " + c.hint + "\n"
		}
		if r.Code != c.code || !strings.HasSuffix(r.Stderr, want) {
			t.Errorf("got %v\nwant %d and\n%s", r, c.code, want)
		}
	}
	if r := s.Lull("system", "stage", "org.test.none"); r.Code != 1 || !strings.HasPrefix(r.Stderr, "lull: cannot find") {
		t.Errorf("got %v, want exit status 1 and error output that begins with %q", r, "lull: cannot find")
	}
}

// prints waits until a command has printed a text.
func (s *scene) prints(p *rig.Proc, what string) {
	s.Helper()
	s.Until("it says "+what, limit, func() (bool, string) { return strings.Contains(p.Log(), what), p.Log() })
}

// ends waits for the end of a command, and checks its last words.
func (s *scene) ends(p *rig.Proc, code int, words string) {
	s.Helper()
	got, err := p.Wait(s.Context(), limit)
	if err != nil || got != code || !strings.HasSuffix(p.Log(), words) {
		s.Errorf("exit status %d, %v:\n%s\nwant %d and\n%s", got, err, p.Log(), code, words)
	}
}

// looks checks the state, and what people see of it.
func (s *scene) looks(state, out string) {
	s.Helper()
	if v := s.status(); v.State != state {
		s.Errorf("it is %s, want %s: %+v", v.State, state, v)
	}
	if r := s.MustLull("system", "status"); !strings.Contains(r.Stdout, out) {
		s.Errorf("it says\n%swant\n%s", r.Stdout, out)
	}
}
