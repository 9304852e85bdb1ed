package badinput_test

import (
	"strings"
	"testing"

	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/sample"
)

// TestReadOnlyRoot has the agent's root become read-only while the agent runs, and
// before it starts: reading and launching go on, refused requests name the
// reason, and waiting work resumes by itself once the root can be written.
func TestReadOnlyRoot(t *testing.T) {
	for _, when := range []string{"while it runs", "before the start"} {
		t.Run(when, func(t *testing.T) {
			root := rig.SmallDisk(t, 64<<20)
			s := set(t, rig.Options{Root: root})
			running := s.start(2)
			sample.Write(s, s.Path("3"), "3.0")
			s.Publish(s.Path("3"))
			if r := s.Lull("refresh", app); r.Code != 75 {
				t.Fatalf("it does not wait for the application: %v", r)
			}
			if when == "before the start" {
				s.StopAgent()
			}
			writable := readOnly(t, root)
			if when == "before the start" {
				s.StartAgent()
			}
			for _, args := range [][]string{{"list"}, {"status"}, {"status", app}, {"pending"}, {"why", app}, {"du"}, {"verify"}, {"gc", "--dry-run"}} {
				s.MustLull(args...)
			}
			s.start(2).Stop() // launching works
			s.doctor("fail", "root", root+" cannot be written: read-only file system",
				"mount it for writing again; until then applications start, and nothing can be installed or refreshed")
			why := root + " cannot be written: read-only file system"
			hint := "mount it for writing again: mount -o remount,rw; applications can be started all the same"
			for _, c := range []struct {
				text string
				args []string
			}{
				{"cannot install org.example.new: ", []string{"install", "org.example.new"}},
				{"cannot remove " + app + ": ", []string{"remove", app}},
				{"cannot revert " + app + ": ", []string{"revert", app}},
				{"cannot refresh " + app + ": ", []string{"refresh", app}},
				{"cannot hold " + app + ": ", []string{"hold", app}},
				{"cannot collect: ", []string{"gc"}},
				{"cannot repair the store: ", []string{"verify", "--repair"}},
				{"cannot add repository more: ", []string{"repo", "add", "more", s.Repo}},
			} {
				s.refused(s.Lull(c.args...), 1, c.text+why, hint)
			}
			running.Stop()
			s.start(2).Stop()
			if v := s.version(); v != sample.V2 {
				t.Errorf("version %s, want %v", v, sample.V2)
			}
			for _, m := range s.Markers() {
				if strings.HasSuffix(m, ".inhibited") {
					t.Errorf("launches are inhibited by the marker %s, want no such marker", m)
				}
			}
			writable()
			s.Until("the refresh goes on by itself", limit, func() (bool, string) { v := s.version(); return v == "3.0", v })
			s.UntilIdle()
			s.runs("3.0")
			s.noMarkers()
			s.MustLull("hold", app)
			s.MustLull("unhold", app)
			s.doctor("ok", "root", root, "")
			if r := s.Lull("verify"); r.Code != 0 {
				t.Errorf("not whole: %v", r)
			}
		})
	}
}
