package stress_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

func TestMain(m *testing.M) { rig.MainWithReleaseAgent(m.Run) }

const (
	app       = "org.lull.probe"
	launchers = 8
	violation = 3 // exit status of the probe
)

// probe is the application: while it runs, what is current must be what it was
// started as.
const probe = `#!/bin/sh
look() { readlink "$PROBE_CURRENT"; }
a=$(look)
if [ "${a##*/}" != "$LULL_REVISION" ]; then
	echo "revision $LULL_REVISION runs while $a is current"
	exit 3
fi
sleep 0.02
b=$(look)
if [ "$a" != "$b" ]; then
	echo "$a became $b while it ran"
	exit 3
fi
`

// counts are what has happened.
type counts struct{ launches, refused, killed, published, agents, violations atomic.Int64 }

// TestStress lasts five seconds, or LULL_STRESS seconds.
func TestStress(t *testing.T) {
	require.ReleaseAgent(t)
	require.NotShort(t)
	require.Program(t, "dbus-daemon", "setpriv", "cc")
	require.Lock(t, "freezer")
	seconds := 5
	if s := os.Getenv("LULL_STRESS"); s != "" {
		var err error
		if seconds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	w := rig.New(t, rig.Options{Tracker: "freezer"})
	w.Configure("policy.yaml", "defaults: {keep-revisions: 1}\nschedule: {check: 31d}\ngc: {watermark: 0, reserve: 0}\n")
	publish(t, w, 1)
	w.MustLull("repo", "init", w.Repo)
	w.MustLull("publish", "--repo", w.Repo, w.Path("src"))
	w.StartAgent()
	w.MustLull("repo", "add", "local", w.Repo)
	w.MustLull("install", app)

	var n counts
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(seconds)*time.Second)
	defer cancel()
	var all sync.WaitGroup
	for range launchers {
		all.Go(func() { launch(ctx, t, w, &n) })
	}
	all.Go(func() {
		for v := 2; ctx.Err() == nil; v++ {
			publish(t, w, v)
			if r := w.Lull("publish", "--repo", w.Repo, w.Path("src")); r.Code != 0 {
				t.Errorf("got %v, want exit status 0", r)
				return
			}
			n.published.Add(1)
			pause(ctx, 100*time.Millisecond)
		}
	})
	for ctx.Err() == nil { // only the test's goroutine may start the agent
		pause(ctx, 500*time.Millisecond+rand.N(1500*time.Millisecond))
		w.Agent().Crash()
		n.agents.Add(1)
		w.StartAgent()
	}
	all.Wait()

	w.Until("the last refresh comes through", time.Minute, func() (bool, string) {
		r := w.Lull("refresh", app) // busy, while the one that the agent began by itself is in its section
		if r.Code != 0 && r.Code != 75 {
			t.Fatalf("the last refresh does not come through: %v", r)
		}
		return r.Code == 0, r.Text()
	})
	if r := w.Lull("verify"); r.Code != 0 {
		t.Errorf("got %v, want exit status 0", r)
	}
	if left := w.Markers(); len(left) > 0 {
		t.Errorf("markers are left: %v", left)
	}
	link, err := os.Readlink(filepath.Join(w.Store, "current", app))
	if err != nil {
		t.Fatal(err)
	}
	revision, err := strconv.Atoi(filepath.Base(link))
	if err != nil || revision < 2 {
		t.Errorf("there was no refresh: %s %v", link, err)
	}
	fmt.Printf("stress: %d s, %d launches, %d killed, %d refused without agent, %d versions, revision %d at the end, %d agents killed, %d violations\n",
		seconds, n.launches.Load(), n.killed.Load(), n.refused.Load(), n.published.Load(), revision, n.agents.Load(), n.violations.Load())
}

// pause waits a while between two things that a person or a server would do, too.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// launch starts the probe repeatedly; every fifth one is killed on the way.
func launch(ctx context.Context, t *testing.T, w *rig.World, n *counts) {
	for ctx.Err() == nil {
		cmd := w.User.Command("lull", "run", app)
		cmd.Env = append(cmd.Env, "PROBE_CURRENT="+filepath.Join(w.Store, "current", app))
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Error(err)
			return
		}
		doomed := rand.N(5) == 0
		if doomed {
			time.AfterFunc(rand.N(40*time.Millisecond), func() { cmd.Process.Kill() })
		}
		err := cmd.Wait()
		n.launches.Add(1)
		var exit *exec.ExitError
		switch {
		case err == nil:
		case errors.As(err, &exit) && exit.ExitCode() == violation:
			n.violations.Add(1)
			t.Errorf("a violation: %s", out.String())
		case doomed:
			n.killed.Add(1)
		case errors.As(err, &exit) && exit.ExitCode() == 69:
			n.refused.Add(1) // this tracker needs the agent, which is down
		default:
			t.Errorf("a launch failed: %v: %s", err, out.String())
		}
		pause(ctx, rand.N(150*time.Millisecond))
	}
}

// publish writes the source of a version.
func publish(t *testing.T, w *rig.World, version int) {
	w.Tree("src", map[string]string{
		"lull.yaml": fmt.Sprintf("name: %s\nversion: \"%d\"\nsummary: looks what is current\napps: [{name: probe, command: [bin/probe]}]\n", app, version),
		"bin/probe": probe,
		"version":   strconv.Itoa(version),
	})
}
