package badinput_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/sample"
)

// TestMarkersByHand makes markers that belong to nothing, while the agent runs
// and while it does not. All are removed by the agent, and block no launch.
func TestMarkersByHand(t *testing.T) {
	for _, tracker := range []string{"poll", "freezer"} {
		t.Run(tracker, func(t *testing.T) {
			if tracker == "freezer" {
				require.Freezer(t)
			}
			s := set(t, rig.Options{Tracker: tracker})
			file := func(text string) func(string) {
				return func(path string) { s.write(path, text) }
			}
			folder := func(path string) {
				made := s.Path("folder") // it appears as a whole: the agent is quick
				s.no(os.MkdirAll(filepath.Join(made, "with"), 0o755))
				s.write(filepath.Join(made, "with", "content"), "")
				s.no(os.Rename(made, path))
			}
			for _, c := range []struct {
				name, suffix string
				make         func(path string)
			}{
				{"refresh-pending", ".inhibited", file("refresh-pending\n")},
				{"refresh-in-progress", ".inhibited", file("refresh-in-progress\n")},
				{"refresh-starting", ".inhibited", file("refresh-starting\n")},
				{"garbage", ".inhibited", file("\x00\xff nonsense")},
				{"nothing", ".inhibited", file("")},
				{"a folder", ".inhibited", folder},
				{"a link to itself", ".inhibited", func(path string) { s.no(os.Symlink(filepath.Base(path), path)) }},
				{"running", ".running", file("")},
				{"running, a folder", ".running", folder},
			} {
				for _, instance := range []string{app, "org.example.absent"} {
					for _, when := range []string{"before the start", "while it runs"} {
						path := filepath.Join(s.RunDir, "runctl", "lull."+instance+c.suffix)
						if when == "while it runs" {
							c.make(path)
						} else {
							s.restart(func() { c.make(path) })
						}
						if c.suffix == ".inhibited" {
							s.Until("it is said", limit, func() (bool, string) {
								log := s.Agent().Log()
								return strings.Contains(log, "removing a marker that belongs to no refresh\" instance="+instance), log
							})
						}
						s.Until(c.name+" for "+instance+", made "+when+", is removed", limit, func() (bool, string) {
							_, err := os.Lstat(path)
							return os.IsNotExist(err), s.Agent().Log()
						})
					}
				}
			}
			s.doctor("ok", "markers", "each belongs to a refresh or a run", "")
			s.whole()
		})
	}
}

// TestMarkersBesideRefresh: a marker made by hand beside a refresh that waits is
// removed, and neither keeps launches out nor disturbs the refresh; the same word is
// left alone where it is the refresh's own.
func TestMarkersBesideRefresh(t *testing.T) {
	s := set(t, rig.Options{})
	one := s.start(2)
	sample.Write(s, s.Path("3"), "3.0")
	s.Publish(s.Path("3"))
	if r := s.Lull("refresh", app); r.Code != 75 {
		t.Fatalf("refresh: got %v, want exit status 75", r)
	}
	path := filepath.Join(s.RunDir, "runctl", "lull."+app+".inhibited")
	for _, word := range []string{"refresh-in-progress", "refresh-pending", "nonsense"} {
		s.write(path, word)
		s.Until(word+" is removed", limit, func() (bool, string) {
			_, err := os.Lstat(path)
			return os.IsNotExist(err), s.Agent().Log()
		})
	}
	two := s.start(2)
	two.Stop()
	s.Configure("policy.d/20-pending.yaml", "defaults: {refresh-pending: block}\n")
	s.Admin.Must("busctl", "--address="+s.Bus.Address, "call", rig.AgentName, rig.AgentPath, rig.AgentName+".Manager", "Reload")
	s.UntilFile("policy keeps launches out", limit, path, func(text string) (bool, string) { return text == "refresh-pending\n", text })
	s.doctor("ok", "markers", "each belongs to a refresh or a run", "")
	one.Stop()
	s.Until("it is refreshed", limit, func() (bool, string) { v := s.version(); return v == "3.0", v })
	s.UntilIdle()
	s.noMarkers()
	s.runs("3.0")
}
