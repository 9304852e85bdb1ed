package shutdown_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lull/lull/agent/lib/printable"
	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

func TestMain(m *testing.M) { rig.Main(m.Run) }

const (
	name  = "org.lull.slow"
	limit = 90 * time.Second
)

// publish makes a version of the package. Its hook, if it has one, writes that it runs
// to the pipe and waits for an answer there.
func publish(t *testing.T, w *rig.World, v int, hook string) {
	t.Helper()
	hooks := ""
	if hook != "" {
		hooks = "hooks: {" + hook + ": bin/hook}\n"
	}
	w.MustLull("publish", "--repo", w.Repo, w.Tree(fmt.Sprint("v", v), map[string]string{
		"lull.yaml": fmt.Sprintf("name: %s\nversion: \"%d\"\nsummary: has a slow hook\napps: [{name: app, command: bin/app}]\ndata: {versioned: true}\n%s", name, v, hooks),
		"bin/app":   "#!/bin/sh\nexec sleep 100000\n",
		"bin/hook":  fmt.Sprintf("#!/bin/sh\necho %d >%s\nread answer <%[2]s\n", v, w.Path("gate")),
	}))
}

// scene is a machine with a logind whose InhibitDelayMaxSec is its default, 5 s.
type scene struct {
	*rig.Scene
	gate string
}

func newScene(t *testing.T) *scene {
	t.Helper()
	require.Root(t)
	require.Program(t, "dbus-daemon", "setpriv", "systemd-inhibit")
	require.Cgroups(t)
	s := &scene{Scene: rig.NewScene(t, rig.SceneOptions{Options: rig.Options{Tracker: "poll", Logind: true}, Auto: true})}
	s.gate = s.Path("gate")
	if err := syscall.Mkfifo(s.gate, 0o600); err != nil {
		t.Fatal(err)
	}
	publish(t, s.World, 1, "")
	s.Begin()
	s.MustLull("install", name)
	return s
}

// section waits for the hook of the critical section that leads to a version, checks the
// section's locks, lets it end, and returns what it was estimated to take.
func (s *scene) section(v int) time.Duration {
	s.Helper()
	if b, err := os.ReadFile(s.gate); err != nil || len(b) == 0 { // until the hook runs
		s.Fatalf("reading the gate of the hook: got %q, %v, want a line and no error", b, err)
	}
	var estimate time.Duration
	s.Until("the estimate is shown", limit, func() (bool, string) {
		o, _ := s.API.Refresh(name, fmt.Sprint(v))
		estimate = time.Duration(o.Num("Estimate")) * time.Microsecond
		return estimate != 0 && o.Str("State") == "critical", fmt.Sprint(o.Props)
	})
	var modes []string
	list := s.Inhibitors()
	for line := range strings.Lines(list) {
		before, mode, ok := strings.Cut(line, fmt.Sprintf("Refreshing %s %d, about %s ", name, v, printable.Duration(estimate)))
		if ok && strings.Contains(before, "shutdown:sleep") {
			modes = append(modes, strings.TrimSuffix(strings.TrimSpace(mode), "-weak"))
		}
	}
	want := []string{"delay"}
	if estimate > 5*time.Second {
		want = append(want, "block")
	}
	if slices.Sort(modes); !slices.Equal(modes, slices.Sorted(slices.Values(want))) {
		s.Errorf("version %d, about %v: locks %q, want %q:\n%s", v, estimate, modes, want, list)
	}
	if err := os.WriteFile(s.gate, []byte("go on\n"), 0); err != nil {
		s.Fatalf("%v", err)
	}
	s.Until("it is done", limit, func() (bool, string) {
		p, _ := s.API.Package(name)
		return p.Str("Version") == fmt.Sprint(v) && fmt.Sprint(p.Props["Refresh"].Value()) == "/", fmt.Sprint(p)
	})
	return estimate
}

// refresh begins a refresh to a version, and returns when the call has ended.
func (s *scene) refresh(v int) time.Duration {
	s.Helper()
	done := s.API.Go("Manager.Refresh", []string{name}, map[string]any{})
	estimate := s.section(v)
	<-done
	return estimate
}

// TestLocksByEstimate: a hook that has never run counts with its time limit, which is more
// than logind's InhibitDelayMaxSec (5 s by default), so that the section gets a lock that
// blocks; the next section counts with the hook's last duration, and only delays a shutdown.
// Each reports how long, in the lock and as a property.
func TestLocksByEstimate(t *testing.T) {
	for _, hook := range []string{"pre-refresh", "post-refresh", "health"} {
		t.Run(hook, func(t *testing.T) {
			s := newScene(t)
			v := 2
			if hook == "pre-refresh" { // it is the old revision's
				publish(t, s.World, v, hook)
				s.MustLull("refresh", name)
				v++
			}
			publish(t, s.World, v, hook)
			first := s.refresh(v)
			publish(t, s.World, v+1, hook)
			second := s.refresh(v + 1)
			if first < 61*time.Second || second >= first || second < time.Second {
				t.Errorf("the estimates are %v, then %v, want at least 61s, then less, but at least 1s", first, second)
			}
		})
	}
}

// TestLocksByData: the data that an application has written since it was copied ahead is
// copied while it cannot be started. It counts in the estimate, which status shows while the
// refresh waits, and decides the kind of the lock; data that has been copied ahead already
// does not, nor does what an earlier section had to copy.
func TestLocksByData(t *testing.T) {
	s := newScene(t)
	publish(t, s.World, 2, "health")
	s.refresh(2) // what the hook takes is known now
	write := func(rev, from, to int) {
		t.Helper()
		for i := from; i < to; i++ {
			if err := os.WriteFile(filepath.Join(s.Store, "data", name, fmt.Sprint(rev), fmt.Sprint(i)), []byte("0123456789"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	// waits begins a refresh while an application runs.
	waits := func(v int) *rig.Proc {
		t.Helper()
		app := s.User.StartLull(nil, "run", name)
		s.Until("it runs", limit, func() (bool, string) {
			p, _ := s.API.Package(name)
			return p.Props["Running"].Value() == true, fmt.Sprint(p.Props)
		})
		publish(t, s.World, v, "health")
		s.MustLull("refresh", "--no-wait", name)
		s.Until("it waits", limit, func() (bool, string) {
			o, _ := s.API.Refresh(name, fmt.Sprint(v))
			return o.Str("State") == "waiting" && o.Num("Estimate") != 0, fmt.Sprint(o.Props)
		})
		return app
	}
	app := waits(3)
	if out := s.MustLull("status", name).Stdout; !strings.Contains(out, "It takes:") {
		t.Errorf("no estimate in\n%s", out)
	}
	// A file counts a millisecond where too little was copied ahead to know better.
	write(2, 0, 6000)
	app.Stop()
	many := s.section(3)
	if many < 7*time.Second || many > 15*time.Second {
		t.Errorf("6,000 files are estimated to take %v, want 7s to 15s", many)
	}
	app = waits(4)
	write(3, 6000, 6010)
	app.Stop()
	if few := s.section(4); few > 5*time.Second {
		t.Errorf("10 files of 6,010 are estimated to take %v, want at most 5s", few)
	}
}
