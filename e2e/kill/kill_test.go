package kill_test

import (
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lull/lull/e2e/isolate"
	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/sample"
)

// TestMain runs the tests in three processes, because most of the time each waits: one
// has the tests that need the release agent, two share the points of TestFaults.
func TestMain(m *testing.M) {
	os.Exit(isolate.Shards(3, func() int { rig.MainWithReleaseAgent(m.Run); return 0 }))
}

// first skips a test that is for the first process alone.
func first(t *testing.T) {
	t.Helper()
	if i, _ := isolate.Shard(); i > 0 {
		t.Skip("the first process runs it")
	}
}

// mine reports whether a part of TestFaults is for this process.
func mine(part string) bool {
	i, n := isolate.Shard()
	if n == 1 {
		return true
	}
	h := fnv.New32a()
	h.Write([]byte(part))
	return 1+int(h.Sum32()%uint32(n-1)) == i
}

const (
	limit = 30 * time.Second
)

// scene is a world with version 1 installed and running, and version 2 ready
// to be published.
type scene struct {
	*rig.Scene
	app *rig.Proc
}

// TestKilledAtEveryPoint first lets one refresh run and lists the points that
// it passes; then it repeats that, and dies at each of them.
func TestKilledAtEveryPoint(t *testing.T) {
	first(t)
	require.ReleaseAgent(t)
	require.Program(t, "dbus-daemon", "setpriv", "cc")
	require.Lock(t, "freezer")
	points := slices.DeleteFunc(passed(t), func(p string) bool {
		return strings.HasPrefix(p, "launch.") // of the launcher, which services inherit the variables to
	})
	if len(points) < 2*13 {
		t.Fatalf("a refresh passes %d points, want at least %d: %q", len(points), 2*13, points)
	}
	if testing.Short() {
		points = slices.DeleteFunc(points, func(p string) bool { return !strings.HasPrefix(p, "refresh.") })
	}
	for _, point := range points {
		t.Run(point, func(t *testing.T) { dieAt(t, point) })
	}
}

// set makes a scene; the agent is started with env before the application is,
// and restarted after version 1 was installed.
func set(t *testing.T, env ...string) *scene {
	t.Helper()
	s := &scene{Scene: rig.NewScene(t, rig.SceneOptions{Options: rig.Options{Tags: "faultpoint", Tracker: "freezer"}, Auto: true})}
	w := s.Scene
	for _, v := range []string{sample.V1, sample.V2} {
		sample.Write(w, w.Path(v), v)
		path := w.Path(v, "lull.yaml")
		b, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, []byte(strings.Replace(string(b), "[bin/notes-sync]", "[bin/notes-sync, --tidy=0s]", 1)), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	w.Publish(w.Path(sample.V1))
	s.Begin()
	w.MustLull("install", sample.Name)
	s.UntilFile("the service runs", limit, filepath.Join(w.Store, "data", sample.Name, "1", "sync.log"), func(text string) (bool, string) {
		return text == sample.V1+" started\n", text
	})
	s.StopAgent()
	s.StartAgent(env...)
	s.app = w.User.StartLull(nil, "run", sample.Name)
	runs := func(text string) bool { return strings.Contains(text, "1.0 note 2") }
	s.UntilFile("version 1 runs", limit, s.notes(1), func(text string) (bool, string) {
		return runs(text) || s.Agent().Ended() && s.app.Ended(), text + s.app.Log()
	})
	if s.app.Ended() && !runs(read(s.notes(1))) {
		// Which markers an agent finds when it starts is chance: it has passed the
		// point, and died, before anything was launched.
		s.StartAgent()
		s.app = w.User.StartLull(nil, "run", sample.Name)
		s.UntilFile("version 1 runs", limit, s.notes(1), func(text string) (bool, string) {
			return runs(text), text + s.app.Log()
		})
	}
	return s
}

func (s *scene) notes(revision int) string {
	return filepath.Join(s.User.Home, ".local/share/lull", sample.Name, strconv.Itoa(revision), "notes.txt")
}

// refresh publishes version 2, lets the application go as soon as the refresh
// waits for it, and returns when the refresh has ended or the agent has died.
func (s *scene) refresh() {
	s.Helper()
	s.Publish(s.Path(sample.V2))
	call := s.API.Go("Manager.Check")
	s.untilOrDead("the refresh waits", func(o rig.Object) bool { return o.Str("State") == "waiting" })
	if s.Agent().Ended() {
		return
	}
	<-call
	s.app.Signal(syscall.SIGTERM)
	s.untilOrDead("the refresh is done", func(o rig.Object) bool { return o.Str("State") == "done" })
}

func (s *scene) untilOrDead(what string, cond func(rig.Object) bool) {
	s.Helper()
	s.Until(what, limit, func() (bool, string) {
		if s.Agent().Ended() {
			return true, ""
		}
		o, err := s.API.TryRefresh(sample.Name, sample.V2)
		return err == nil && cond(o), fmt.Sprint(o.Str("State"), " ", o.Str("Step"), " ", o.Str("ErrorText"), err)
	})
}

// passed lists the points that the agent passes while it refreshes, each with
// the number of its passage since the agent's start.
func passed(t *testing.T) (points []string) {
	t.Helper()
	t.Run("undisturbed", func(t *testing.T) {
		list := filepath.Join(t.TempDir(), "points")
		s := set(t, "LULL_FAULT_LIST="+list)
		before := len(strings.Fields(read(list)))
		s.refresh()
		if s.Agent().Ended() {
			t.Fatal("the agent has died by itself")
		}
		counts := map[string]int{}
		for i, name := range strings.Fields(read(list)) {
			counts[name]++
			// The first passages of each kind matter; later ones repeat them.
			if i >= before && counts[name]-countIn(read(list), name, before) <= passages(name) {
				points = append(points, fmt.Sprintf("%s#%d", name, counts[name]))
			}
		}
		s.settled(t)
	})
	return points
}

// passages is how many of them a run tests: one of the packages below the steps, as durable
// and store, and three of the others; with LULL_FAULTS=all three of each.
func passages(name string) int {
	for _, below := range []string{"durable.", "store.", "runctl.", "resolve."} {
		if strings.HasPrefix(name, below) && os.Getenv("LULL_FAULTS") != "all" {
			return 1
		}
	}
	return 3
}

// countIn counts how often a name stands among the first n.
func countIn(list, name string, n int) int {
	count := 0
	for _, f := range strings.Fields(list)[:n] {
		if f == name {
			count++
		}
	}
	return count
}

func read(path string) string {
	b, _ := os.ReadFile(path)
	return string(b)
}

// dieAt kills the agent at a point and checks what the next one makes of it.
func dieAt(t *testing.T, point string) {
	s := set(t, "LULL_FAULT="+point+":kill")
	s.refresh()
	if !s.Agent().Ended() {
		// Work in the background may pass points in another order.
		t.Logf("the point was not reached")
	}
	running := !s.app.Ended()
	s.StopAgent()
	old := read(s.notes(1))
	if v := s.version(); v != sample.V1 && v != sample.V2 {
		t.Errorf("the version is %s, want %s or %s", v, sample.V1, sample.V2)
	}
	s.StartAgent()
	if running {
		if s.app.Ended() {
			t.Error("the application has died with the agent")
		}
		s.app.Signal(syscall.SIGTERM)
		if _, err := s.app.Wait(t.Context(), limit); err != nil {
			t.Fatal(err)
		}
		old = read(s.notes(1))
	}
	if r := s.Lull("refresh", sample.Name); r.Code != 0 {
		t.Errorf("the refresh cannot be done afterwards: %v", r)
	}
	s.settled(t)
	if got := read(s.notes(1)); got != old {
		t.Errorf("version 1's data has changed: got\n%s\nwant\n%s", got, old)
	}
	if r := s.User.Lull("run", sample.Name, "--show"); r.Code != 0 || !strings.Contains(r.Stdout, "version 1.0") {
		t.Errorf("version 2 does not run, or does not see version 1's data: %v", r)
	}
}

// version is what `current` names.
func (s *scene) version() string {
	s.Helper()
	b, err := os.ReadFile(filepath.Join(s.Store, "current", sample.Name, "share/doc/notes/news.txt"))
	if err != nil {
		s.Fatalf("current names no whole package: %v", err)
	}
	return strings.TrimSuffix(strings.TrimPrefix(string(b), "This is version "), ".\n")
}

// settled waits until nothing is under way, and checks that version 2 is
// current and all is whole.
func (s *scene) settled(t *testing.T) {
	t.Helper()
	s.Until("nothing is under way and no marker is left", limit, func() (bool, string) {
		for _, o := range s.API.Objects("Refresh") {
			switch o.Str("State") {
			case "done", "undone", "failed", "cancelled":
			default:
				return false, o.Str("State") + " at " + o.Str("Step") + " " + o.Str("ErrorText")
			}
		}
		return len(s.Markers()) == 0, strings.Join(s.Markers(), " ")
	})
	v := s.version()
	if v != sample.V2 {
		t.Errorf("the version is %s, want %v", v, sample.V2)
	}
	first, err := os.Readlink(filepath.Join(s.Store, "current", sample.Name))
	if err != nil || filepath.Base(first) == "1" {
		t.Errorf("version %s is revision %s (error %v), want another revision than 1 and no error", v, first, err)
	}
	o, _ := s.API.Package(sample.Name)
	if got := fmt.Sprint(o.Num("Revision")); got != filepath.Base(first) || o.Str("Version") != v {
		t.Errorf("on the bus: got %s, revision %s; want %s, %s", o.Str("Version"), got, v, first)
	}
	if list := fmt.Sprint(o.Props["Revisions"]); strings.Contains(list, "staged") {
		t.Errorf("a revision was left half made: %s", list)
	}
	path := filepath.Join(s.Store, "data", sample.Name, filepath.Base(first), "sync.log")
	s.UntilFile("the service runs", limit, path, func(text string) (bool, string) { return strings.HasSuffix(text, v+" started\n"), text })
	if log := read(path); !strings.Contains(log, "1.0 started\n1.0 stopping\n1.0 stopped\n") {
		t.Errorf("the system data of version 1 is not there:\n%s", log)
	}
	if r := s.Lull("verify"); r.Code != 0 {
		t.Errorf("the store is not whole: %v", r)
	}
	if dirs, _ := filepath.Glob(filepath.Join(s.Store, "data", sample.Name, "*partial*")); len(dirs) > 0 {
		t.Errorf("half copied data was left: %q", dirs)
	}
}
