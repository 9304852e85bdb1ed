package badinput_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/sample"
)

const repairHint = "lull doctor has details; as root, lull verify --repair repairs it"

// TestLinks damages the links of an installed application: a launch gives one
// clear error; each of three ways repairs it, and nothing is lost.
func TestLinks(t *testing.T) {
	all := set(t, rig.Options{})
	for _, c := range []struct {
		name   string
		damage func(s *scene)
		launch func(s *scene) string // the error, behind "cannot run NAME: "; "" means that it starts
		found  string                // by the doctor
		aside  string                // pattern of what is kept, below the root
	}{
		{"current leads nowhere", func(s *scene) { s.replace(s.path("current", app), "../revisions/"+app+"/7") },
			func(s *scene) string {
				return "its installation is damaged: readlink " + s.path("revisions", app, "7") + ": no such file or directory"
			}, "cannot read revision 7 of " + app, ""},
		{"current leads out", func(s *scene) { s.replace(s.path("current", app), "/etc/passwd") },
			func(s *scene) string {
				return "its installation is damaged: " + s.path("current", app) + ` leads to "/etc/passwd", which is no revision`
			}, `leads to "/etc/passwd", which is no revision of it`, ""},
		{"current is garbage", func(s *scene) { s.replace(s.path("current", app), "\x01\xff garbage") },
			func(s *scene) string {
				return "its installation is damaged: " + s.path("current", app) + ` leads to "\x01\xff garbage", which is no revision`
			}, "which is no revision of it", ""},
		{"current is a file", func(s *scene) { s.no(os.Remove(s.path("current", app))); s.write(s.path("current", app), "mine") },
			func(s *scene) string { return "its installation is damaged: " + s.path("current", app) + " is no link" }, "is a file, and should be a link", "current/.aside-" + app + "-*"},
		{"current is a folder", func(s *scene) {
			s.no(os.Remove(s.path("current", app)))
			s.no(os.Mkdir(s.path("current", app), 0o755))
			s.write(s.path("current", app, "mine"), "mine")
		}, func(s *scene) string { return "its installation is damaged: " + s.path("current", app) + " is no link" }, "is a folder, and should be a link", "current/.aside-" + app + "-*/mine"},
		{"current is gone", func(s *scene) { s.no(os.Remove(s.path("current", app))) }, func(*scene) string { return "it is not installed" }, "", ""},
		{"the revision is gone", func(s *scene) { s.no(os.Remove(s.path("revisions", app, "2"))) },
			func(s *scene) string {
				return "its installation is damaged: readlink " + s.path("revisions", app, "2") + ": no such file or directory"
			}, "cannot read revision 2 of " + app, ""},
		{"all revisions are gone", func(s *scene) { s.no(os.RemoveAll(s.path("revisions", app))) },
			func(s *scene) string {
				return "its installation is damaged: readlink " + s.path("revisions", app, "2") + ": no such file or directory"
			}, "cannot read revision 2 of " + app, ""},
		{"the revision is garbage", func(s *scene) { s.replace(s.path("revisions", app, "2"), "nonsense") },
			func(s *scene) string {
				return "its installation is damaged: " + s.path("revisions", app, "2") + ` leads to "nonsense", which is no package`
			}, `it leads to "nonsense", which is no package`, ""},
		{"the revision is a file", func(s *scene) {
			s.no(os.Remove(s.path("revisions", app, "2")))
			s.write(s.path("revisions", app, "2"), "mine")
		},
			func(s *scene) string {
				return "its installation is damaged: readlink " + s.path("revisions", app, "2") + ": invalid argument"
			}, "is a file, and should be a link", "revisions/" + app + "/.aside-2-*"},
		{".from is garbage", func(s *scene) { s.write(s.path("revisions", app, "2.from"), "\x00nonsense") }, func(*scene) string { return "" }, "", ""},
		{".from is a folder", func(s *scene) {
			s.no(os.Remove(s.path("revisions", app, "2.from")))
			s.no(os.Mkdir(s.path("revisions", app, "2.from"), 0o755))
		}, func(*scene) string { return "" }, "", ""},
		{"the package is gone", func(s *scene) {
			pkg, err := filepath.EvalSymlinks(s.path("current", app))
			s.no(err)
			s.no(os.RemoveAll(pkg))
		}, func(s *scene) string {
			target, err := os.Readlink(s.path("revisions", app, "2"))
			s.no(err)
			return fmt.Sprintf("its installation is damaged: package %.16s of revision 2 is not there", filepath.Base(target))
		}, "of revision 2 is not resident", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, way := range []string{"verify", "refresh", "restart"} {
				t.Run(way, func(t *testing.T) {
					if way == "refresh" && (c.name == "the package is gone" || c.found == "" && c.name != "current is gone") {
						return // the links are whole
					}
					s := *all
					s.t = t
					c.damage(&s)
					if text := c.launch(&s); text == "" {
						s.runs(sample.V2)
					} else {
						hint := repairHint
						if text == "it is not installed" {
							hint = ""
						}
						s.refused(s.User.Lull("run", app), 1, "cannot run "+app+": "+text, hint)
					}
					if c.found != "" {
						s.doctor("fail", "installed", c.found, "lull verify --repair")
					}
					switch way {
					case "restart":
						s.StopAgent()
						s.StartAgent()
					case "verify":
						r := s.Lull("verify", "--repair")
						if c.found != "" && (r.Code != 0 || !strings.Contains(r.Stdout, "repaired")) {
							t.Errorf("verify --repair: got %v; want exit status 0 and \"repaired\"", r)
						}
						if c.found == "" {
							s.StopAgent() // nothing to be found by it
							s.StartAgent()
						}
					case "refresh":
						if r := s.Lull("refresh", app); r.Code != 0 {
							t.Errorf("refresh: got %v, want exit status 0", r)
						}
					}
					if c.name == "the package is gone" && way == "restart" {
						s.UntilFile("the package was fetched", limit, s.path("current", app, "share/doc/notes/news.txt"), func(text string) (bool, string) { return text != "", text })
					}
					if c.aside != "" {
						if f := found(s.path(c.aside)); len(f) != 1 {
							t.Errorf("what lay there is lost: %q", f)
						}
						for _, f := range found(s.path(strings.TrimSuffix(c.aside, "/mine"))) {
							s.no(os.RemoveAll(f))
						}
					}
					s.doctor("ok", "installed", "1, all whole", "")
					s.same()
				})
			}
		})
	}
	all.whole()
}

func found(pattern string) []string {
	list, _ := filepath.Glob(pattern) // the pattern is ours
	return list
}

// TestForeignLinks: what belongs to no application is neither followed nor deleted.
func TestForeignLinks(t *testing.T) {
	s := set(t, rig.Options{})
	s.restart(func() {
		s.replace(s.path("current", "org.evil.x"), "/etc")
		s.no(os.Mkdir(s.path("current", "org.evil.y"), 0o755))
		s.write(s.path("current", "Not A Name"), "mine")
		s.no(os.MkdirAll(s.path("revisions", "org.evil.z"), 0o755))
		s.write(s.path("revisions", "org.evil.z", "memory"), "{garbage")
		s.no(os.Mkdir(s.path("revisions", "..garbage"), 0o755))
	})
	if out := s.MustLull("--json", "list").Stdout; strings.Contains(out, "evil") {
		t.Errorf("the list is %s, want none of org.evil", out)
	}
	if b, err := os.ReadFile(s.path("current", "Not A Name")); err != nil || string(b) != "mine" {
		t.Errorf("what lay there is lost: %q %v", b, err)
	}
	if f := found(s.path("current", ".aside-org.evil.y-*")); len(f) != 1 {
		t.Errorf("what lay there is lost: %q", f)
	}
	s.whole()
}

// TestData: missing system data begins empty, with a log entry; a file of
// another type in its place is neither followed nor deleted.
func TestData(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(s *scene)
		what   string // where
		kind   string // "" means gone
	}{
		{"the revision's is gone", func(s *scene) { s.no(os.RemoveAll(s.path("data", app, "2"))) }, "2", ""},
		{"all is gone", func(s *scene) { s.no(os.RemoveAll(s.path("data", app))) }, "", ""},
		{"the revision's is a file", func(s *scene) {
			s.no(os.RemoveAll(s.path("data", app, "2")))
			s.write(s.path("data", app, "2"), "mine")
		}, "2", "file"},
		{"the revision's is a link", func(s *scene) { s.replace(s.path("data", app, "2"), "/etc") }, "2", "symbolic link"},
		{"all is a file", func(s *scene) { s.no(os.RemoveAll(s.path("data", app))); s.write(s.path("data", app), "mine") }, "", "file"},
		{"all is a link", func(s *scene) { s.replace(s.path("data", app), "/etc") }, "", "symbolic link"},
		{"common is a link", func(s *scene) { s.replace(s.path("data", app, "common"), "/etc") }, "common", "symbolic link"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := set(t, rig.Options{})
			path := filepath.Join(s.path("data", app), c.what)
			s.restart(func() {
				c.damage(s)
			})
			s.runs(sample.V2) // users' data is another thing
			if c.kind == "" {
				if log := s.Agent().Log(); !strings.Contains(log, "the system data of an instance is gone: it begins with an empty directory") || !strings.Contains(log, path) {
					t.Errorf("it is not said that %s is gone:\n%s", path, log)
				}
				s.doctor("ok", "installed", "all whole", "")
				return
			}
			text := "cannot use the data of " + app + ": " + path + " is a " + c.kind + ", and should be a directory"
			hint := "restore the directory; or lull verify --repair moves aside what is there and makes an empty one"
			s.doctor("fail", "installed", text, hint)
			sample.Write(s, s.Path("3"), "3.0")
			s.Publish(s.Path("3"))
			r := s.Lull("refresh", app)
			if r.Code != 1 || !strings.Contains(r.Stderr, path+" is a "+c.kind+", and should be a directory\nhint: "+hint) {
				t.Errorf("refresh: got %v, want exit status 1 and %q in the error output", r, path+" is a "+c.kind+", and should be a directory\nhint: "+hint)
			}
			s.UntilIdle()
			s.runs(sample.V2)
			if r := s.Lull("verify", "--repair"); r.Code != 0 {
				t.Errorf("verify --repair: got %v, want exit status 0", r)
			}
			if f := found(path + ".aside-*"); len(f) != 1 {
				t.Errorf("what lay there is lost: %q", f)
			}
			if _, err := os.Stat("/etc/2"); err == nil {
				t.Error("the link was followed")
			}
			s.doctor("ok", "installed", "all whole", "")
			s.MustLull("refresh", app)
			s.runs("3.0")
		})
	}
}
