package badinput_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/sample"
)

func TestMain(m *testing.M) { rig.Main(m.Run) }

const (
	limit = 30 * time.Second
	app   = sample.Name
)

// scene is a world in which version 1 was installed and then refreshed to version 2,
// so that there are two revisions and data of each.
type scene struct {
	*rig.Scene
	t *testing.T // the subtest that asks
}

func set(t *testing.T, o rig.Options) *scene {
	t.Helper()
	require.Root(t)
	require.Program(t, "dbus-daemon", "cc", "setpriv")
	if o.Tracker == "" {
		o.Tracker = "poll"
	}
	s := &scene{Scene: rig.NewScene(t, rig.SceneOptions{Options: o}), t: t}
	for _, v := range []string{sample.V1, sample.V2} {
		sample.Write(s, s.Path(v), v)
	}
	s.Publish(s.Path(sample.V1))
	s.Begin()
	s.MustLull("install", app)
	s.Watch(filepath.Join(s.RunDir, "runctl"))
	s.start(1).Stop() // there are notes of the user's from now on
	s.Publish(s.Path(sample.V2))
	s.Lull("refresh", app) // postponed, if a launcher is not quite gone
	s.Until("version 2 is current", limit, func() (bool, string) { v := s.version(); return v == sample.V2, v })
	s.UntilIdle()
	return s
}

// path is a file below the root.
func (s *scene) path(elem ...string) string {
	return filepath.Join(append([]string{s.Store}, elem...)...)
}

func (s *scene) no(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) write(path, text string) {
	s.t.Helper()
	s.no(os.WriteFile(path, []byte(text), 0o644))
}

// replace puts a link in the place of any file.
func (s *scene) replace(path, target string) {
	s.t.Helper()
	s.no(os.RemoveAll(path))
	s.no(os.Symlink(target, path))
}

// runs checks that the application starts, and in which version.
func (s *scene) runs(version string) {
	s.t.Helper()
	r := s.User.Lull("run", app, "--show")
	if r.Code != 0 || !strings.Contains(r.Stdout, "version 1.0") {
		s.t.Errorf("it does not run: %v", r)
	}
	if got := s.version(); got != version {
		s.t.Errorf("version %s is current, want %s", got, version)
	}
}

// version is the version that `current` leads to, read directly.
func (s *scene) version() string {
	b, err := os.ReadFile(s.path("current", app, "share/doc/notes/news.txt"))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSuffix(strings.TrimPrefix(string(b), "This is version "), ".\n")
}

// refused checks a command's exact error.
func (s *scene) refused(r rig.Result, code int, text, hint string) {
	s.t.Helper()
	if why := r.NotRefused(code, text, hint); why != "" {
		s.t.Error(why)
	}
}

// doctor checks that the doctor prints a line, and the advice below it.
func (s *scene) doctor(state, name, seen, advice string) {
	s.t.Helper()
	out := s.Lull("doctor").Stdout
	for block := range strings.SplitSeq(out, "\n") {
		f := strings.Fields(block)
		if len(f) < 3 || f[0] != state || f[1] != name || !strings.Contains(block, seen) {
			continue
		}
		if !strings.Contains(out, "→ "+advice) {
			s.t.Errorf("the doctor does not advise %q:\n%s", advice, out)
		}
		return
	}
	s.t.Errorf("the doctor does not say %s %s %q:\n%s", state, name, seen, out)
}

// whole checks that all is as it was after set: nothing lost, nothing left over.
func (s *scene) whole() {
	s.t.Helper()
	s.same()
	if r := s.Lull("refresh", app); r.Code != 0 {
		s.t.Errorf("not to be refreshed: %v", r)
	}
	s.MustLull("revert", app)
	s.UntilIdle()
	s.runs(sample.V1)
	s.noMarkers()
}

func (s *scene) noMarkers() {
	s.t.Helper()
	s.Until("no marker is left", limit, func() (bool, string) { m := s.Markers(); return len(m) == 0, fmt.Sprint(m) })
}

// same is whole but for what changes something.
func (s *scene) same() {
	s.t.Helper()
	s.runs(sample.V2)
	for _, v := range []string{"1", "2"} {
		if _, err := os.Stat(s.path("revisions", app, v, "share")); err != nil {
			s.t.Errorf("revision %s: %v", v, err)
		}
		if _, err := os.Stat(s.path("data", app, v)); err != nil {
			s.t.Errorf("data of revision %s: %v", v, err)
		}
	}
	s.Until("the package is on the bus with revision 2 of repository local, channel stable, a current and a previous revision, none staged", limit, func() (bool, string) {
		o, ok := s.API.Package(app) // as far as signals have come
		revisions := fmt.Sprint(o.Props["Revisions"])
		return ok && o.Num("Revision") == 2 && o.Str("Repository") == "local" && o.Str("Channel") == "stable" &&
			strings.Contains(revisions, "current") && strings.Contains(revisions, "previous") && !strings.Contains(revisions, "staged"), fmt.Sprint(o.Props)
	})
	if r := s.Lull("verify"); r.Code != 0 {
		s.t.Errorf("not whole: %v", r)
	}
}

// restart restarts the agent.
func (s *scene) restart(change func()) {
	s.t.Helper()
	s.StopAgent()
	change()
	s.StartAgent()
}

// start runs the current version until the returned process is asked to end.
func (s *scene) start(revision int) *rig.Proc {
	s.t.Helper()
	p := s.User.StartLull(nil, "run", app)
	notes := filepath.Join(s.User.Home, ".local/share/lull", app, fmt.Sprint(revision), "notes.txt")
	s.UntilFile("it runs", limit, notes, func(text string) (bool, string) { return text != "", text + p.Log() })
	return p
}

// readOnly makes all paths below dir read-only until the result is called. The
// mount goes over the one that is there, since a mount with files open for writing
// cannot be made read-only by anything but an error of its disk.
func readOnly(t *testing.T, dir string) (again func()) {
	t.Helper()
	remount := func(flags uintptr) {
		t.Helper()
		if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_NOSUID|syscall.MS_NODEV|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mount(dir, dir, "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	remount(syscall.MS_RDONLY)
	return func() { t.Helper(); remount(0) }
}
