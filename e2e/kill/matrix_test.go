package kill_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/isolate"
	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

const app, second = "org.lull.fault", "org.lull.fault_two"

// stage is a world with a package of a service, versioned data and a health hook,
// in one instance or two.
type stage struct {
	*rig.Scene
	instances []string
	sick      string // an instance whose health hook finds a file of its name here is not healthy
}

// play is what is done on a stage.
type play struct {
	atomic    bool // two instances in one atomic refresh
	unhealthy bool // the last instance is not healthy, so that all is undone
	packed    bool // version 2 comes as a pack of the differences, from a web server
}

func (p play) set(t *testing.T, env ...string) *stage {
	t.Helper()
	w := rig.NewScene(t, rig.SceneOptions{Options: rig.Options{Tags: "faultpoint", Tracker: "subtree"}})
	s := &stage{Scene: w, instances: []string{app}, sick: w.Path("sick")}
	for _, v := range []string{"1", "2"} {
		s.write(t, v)
		if p.packed {
			s.ballast(t, v)
		}
	}
	w.MustLull("publish", "--repo", w.Repo, w.Path("1"))
	w.StartAgent()
	address := w.Repo
	if p.packed {
		server := httptest.NewServer(http.FileServer(http.Dir(w.Repo)))
		t.Cleanup(server.Close)
		address = server.URL
	}
	w.MustLull("repo", "add", "local", address, "--trust", filepath.Join(w.Repo, "root.json"))
	w.MustLull("install", app)
	if p.atomic {
		s.instances = append(s.instances, second)
		w.MustLull("install", "--key", "two", app)
	}
	w.StopAgent()
	w.StartAgent(env...)
	s.settled(t, "1")
	if p.unhealthy {
		s.makeSick(t)
	}
	w.MustLull("publish", "--repo", w.Repo, w.Path("2"))
	return s
}

func (s *stage) write(t *testing.T, version string) {
	t.Helper()
	s.Tree(version, map[string]string{
		"lull.yaml": fmt.Sprintf(`name: %s
version: "%s"
summary: fails when it is told to
apps: [{name: fault, command: bin/app}]
services: [{name: svc, command: bin/svc, stop-timeout: 5s}]
hooks: {health: bin/health}
data: {versioned: true}
`, app, version),
		"bin/app":    "#!/bin/sh\necho app " + version + "\n",
		"bin/svc":    "#!/bin/sh\necho started " + version + " >> \"$LULL_DATA/log\"\nexec sleep 1000000\n",
		"bin/health": "#!/bin/sh\n[ ! -e '" + s.sick + "'/\"$LULL_INSTANCE\" ]\n",
	})
}

// ballast adds files that differ little between versions, and do not compress.
func (s *stage) ballast(t *testing.T, version string) {
	t.Helper()
	for i := range 3 {
		b := make([]byte, 1<<20)
		rand.NewChaCha8([32]byte{byte(i)}).Read(b)
		copy(b[len(b)/2:], version)
		if err := os.WriteFile(s.Path(version, fmt.Sprint("ballast", i)), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func (s *stage) makeSick(t *testing.T) {
	t.Helper()
	last := s.instances[len(s.instances)-1]
	if err := errors.Join(os.MkdirAll(s.sick, 0o755), os.WriteFile(filepath.Join(s.sick, last), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
}

// refresh asks for version 2 and follows it as far as the agent goes.
func (s *stage) refresh(p play) rig.Result {
	args := []string{"refresh"}
	if p.atomic {
		args = append(args, "--atomic")
	}
	return s.Lull(append(args, s.instances...)...)
}

// points lists what the agent passes in an undisturbed refresh, each at most three times.
func (p play) points(t *testing.T) (points []string) {
	t.Helper()
	t.Run("undisturbed", func(t *testing.T) {
		list := filepath.Join(t.TempDir(), "points")
		s := p.set(t, "LULL_FAULT_LIST="+list)
		before := len(strings.Fields(read(list)))
		r := s.refresh(p)
		want, version := 0, "2"
		if p.unhealthy {
			want, version = 1, "1"
		}
		if r.Code != want {
			t.Fatalf("got %v, want exit status %v", r, want)
		}
		s.settled(t, version)
		counts := map[string]int{}
		for i, name := range strings.Fields(read(list)) {
			counts[name]++
			if i >= before && counts[name]-countIn(read(list), name, before) <= 3 && !ofLaunches(name) {
				points = append(points, fmt.Sprintf("%s#%d", name, counts[name]))
			}
		}
	})
	return points
}

// ofLaunches are the points that launches pass, services' among them, whenever they
// come; the launcher's own tests stop there.
func ofLaunches(point string) bool {
	return strings.HasPrefix(point, "launch.") || strings.HasPrefix(point, "runs.") || strings.HasPrefix(point, "runctl.set-running")
}

// suffer has a fault happen at a point, lets an agent without faults take over, and
// checks that what comes of it is whole, and that version 2 can be had in the end.
func (p play) suffer(t *testing.T, point, action string) {
	s := p.set(t, "LULL_FAULT="+point+":"+action)
	r := s.refresh(p)
	if action == "enospc" && r.Code != 0 && r.Code != 73 {
		t.Errorf("a full disk is not named: %v", r)
	}
	switch {
	case action == "kill" && r.Code == 69: // the command has seen it leave the bus
		if _, err := s.Agent().Wait(t.Context(), limit); err != nil {
			t.Fatal(err)
		}
		s.StopAgent()
		s.StartAgent()
	case action == "kill":
		t.Logf("the point was not reached: %v", r)
	}
	s.settled(t, "")
	s.StopAgent()
	s.StartAgent()
	if p.unhealthy {
		s.settled(t, "1")
		if err := os.RemoveAll(s.sick); err != nil {
			t.Fatal(err)
		}
	} else {
		s.settled(t, "")
	}
	if r := s.refresh(p); r.Code != 0 {
		t.Errorf("the refresh cannot be done afterwards: %v", r)
	}
	s.settled(t, "2")
}

// settled waits until nothing is under way and checks that all instances are whole
// and at the same version, and that this is want, unless want is empty.
func (s *stage) settled(t *testing.T, want string) {
	t.Helper()
	s.Until("nothing is under way and no marker is left", limit, func() (bool, string) {
		for _, o := range s.API.Objects("Refresh") {
			switch o.Str("State") {
			case "done", "undone", "failed", "cancelled":
			default:
				return false, o.Str("Instance") + " is " + o.Str("State") + " at " + o.Str("Step") + " " + o.Str("ErrorText")
			}
		}
		return len(s.Markers()) == 0, strings.Join(s.Markers(), " ")
	})
	for _, i := range s.instances {
		v := s.whole(t, i)
		if want == "" {
			want = v
		}
		if v != want {
			t.Errorf("%s has version %s, want %s", i, v, want)
		}
	}
	if r := s.Lull("verify"); r.Code != 0 {
		t.Errorf("the store is not whole: %v", r)
	}
}

// whole checks one instance and returns its version.
func (s *stage) whole(t *testing.T, instance string) (version string) {
	t.Helper()
	link, err := os.Readlink(filepath.Join(s.Store, "current", instance))
	if err != nil {
		t.Fatal(err)
	}
	rev := filepath.Base(link)
	r := s.Lull("run", instance)
	version, ok := strings.CutPrefix(strings.TrimSpace(r.Stdout), "app ")
	if r.Code != 0 || !ok {
		t.Errorf("%s cannot be launched: %v", instance, r)
	}
	data := filepath.Join(s.Store, "data", instance)
	s.UntilFile("the service of "+instance+" runs", limit, filepath.Join(data, rev, "log"), func(text string) (bool, string) {
		return strings.HasSuffix(text, "started "+version+"\n"), text
	})
	if !strings.HasPrefix(read(filepath.Join(data, rev, "log")), "started 1\n") {
		t.Errorf("the data of %s is not that of version 1:\n%s", instance, read(filepath.Join(data, rev, "log")))
	}
	entries, err := os.ReadDir(data)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range entries {
		if name := d.Name(); name != "common" && name != rev && name != "1" {
			t.Errorf("%s of the data of %s was left; %s is current", name, instance, rev)
		}
	}
	if strings.Contains(read(filepath.Join(data, "1", "log")), "started 2") {
		t.Errorf("the old data of %s was modified: got %q in its log, want it unchanged", instance, "started 2")
	}
	o, _ := s.API.Package(instance)
	if fmt.Sprint(o.Num("Revision")) != rev || o.Str("Version") != version || strings.Contains(fmt.Sprint(o.Props["Revisions"]), "staged") {
		t.Errorf("on the bus: got revision %d, version %s, revisions %v; want %s, %s and none staged", o.Num("Revision"), o.Str("Version"), o.Props["Revisions"], rev, version)
	}
	return version
}

// TestFaults lets something fail at every point that a refresh passes: the agent
// dies, a step has an error, the disk is full; on the way to version 2 and on the way
// back; alone and in an atomic group. Steps treat an error and a full disk alike, so the
// points of a play take turns with its actions. LULL_FAULTS=all has each action at each
// point, and adds the points of the packages below, as durable and store, which takes four
// times as long.
func TestFaults(t *testing.T) {
	require.NotShort(t)
	require.Unified(t)
	require.Program(t, "dbus-daemon", "cc")
	belowSteps := func(p string) bool { return !strings.HasPrefix(p, "refresh.") }
	for _, c := range []struct {
		name    string
		play    play
		actions []string
		least   int
		skip    func(point string) bool
	}{
		{"do", play{}, []string{"enospc", "error"}, 40, nil},
		{"undo", play{unhealthy: true}, []string{"kill", "error"}, 10, beforeUndo()},
		{"delta", play{packed: true}, []string{"kill", "error", "enospc"}, 5, func(p string) bool { return !strings.HasPrefix(p, "resolve.delta.") }},
		{"group", play{atomic: true}, []string{"kill"}, 40, belowSteps},
		{"group-undo", play{atomic: true, unhealthy: true}, []string{"kill"}, 20, belowSteps},
	} {
		t.Run(c.name, func(t *testing.T) {
			if i, n := isolate.Shard(); n > 1 && i == 0 {
				t.Skip("other processes run it")
			}
			points := c.play.points(t)
			if c.skip != nil {
				points = slices.DeleteFunc(points, c.skip)
			}
			if len(points) < c.least {
				t.Fatalf("%d points are passed, want at least %d: %q", len(points), c.least, points)
			}
			all := os.Getenv("LULL_FAULTS") == "all" || c.play.packed
			if !all { // death at the others is in TestKilledAtEveryPoint
				points = slices.DeleteFunc(points, belowSteps)
			}
			for a, action := range c.actions {
				for i, point := range points {
					if !all && i%len(c.actions) != a {
						continue
					}
					if mine(action + " " + point) {
						t.Run(action+" "+point, func(t *testing.T) { c.play.suffer(t, point, action) })
					}
				}
			}
		})
	}
}

// beforeUndo is true until the first point of undoing has been seen.
func beforeUndo() func(string) bool {
	undoing := false
	return func(point string) bool {
		undoing = undoing || strings.Contains(point, ".undo.")
		return !undoing
	}
}
