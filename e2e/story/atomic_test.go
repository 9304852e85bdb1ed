package story_test

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

// TestAllOrNothing: an atomic group waits until the last of its applications is
// closed, reports that, and is given up as a whole.
func TestAllOrNothing(t *testing.T) {
	require.Unified(t)
	require.Program(t, "dbus-daemon", "setpriv")
	const second = moded + "_two"
	w := rig.NewScene(t, rig.SceneOptions{Options: rig.Options{Tracker: "subtree"}})
	for _, v := range []string{"1", "2"} {
		writeModed(t, w.Path(v), v)
	}
	w.Publish(w.Path("1"))
	w.Begin()
	w.MustLull("install", moded)
	w.MustLull("install", "--key", "two", moded)
	w.Publish(w.Path("2"))
	shows := func(want1, want2 string) {
		t.Helper()
		for instance, want := range map[string]string{moded: want1, second: want2} {
			if r := w.User.Lull("run", instance, "--show"); r.Stdout != want+"\n" {
				t.Errorf("%v, want version %s", r, want)
			}
		}
	}
	app := w.User.StartLull(nil, "run", second)
	common := filepath.Join(w.User.Home, ".local/share/lull", second, "common")
	w.UntilFile("it runs", 20*time.Second, filepath.Join(common, "ready"), func(text string) (bool, string) { return text != "", app.Log() })

	for _, c := range []struct {
		args []string
		code int
		says []string
	}{
		{[]string{"refresh", "--atomic"}, 64, []string{"cannot refresh all or nothing: no application is named"}},
		{[]string{"refresh", "--atomic", moded, "org.lull.nothing"}, 1, []string{"org.lull.nothing", "not installed"}},
		{[]string{"refresh", "--atomic", moded, second}, 75, []string{
			"cannot refresh " + moded + ": it goes together with " + second + ", which cannot go yet",
			"cannot refresh " + second + ":", "running", "user " + w.User.Name}},
	} {
		r := w.Lull(c.args...)
		t.Log(r)
		if r.Code != c.code {
			t.Errorf("%v, want exit status %d", r, c.code)
		}
		for _, s := range c.says {
			if !strings.Contains(r.Stderr, s) {
				t.Errorf("it does not say %q: %v", s, r)
			}
		}
	}
	shows("1", "1")
	t.Log(w.Lull("pending"))
	t.Log(w.Lull("status"))

	// An older agent's members find each other.
	w.StopAgent()
	w.StartAgent()
	shows("1", "1")

	// Giving up one gives up all.
	w.MustLull("refresh", "--cancel", moded)
	w.Until("nothing waits", 20*time.Second, func() (bool, string) {
		r := w.Lull("pending")
		return !strings.Contains(r.Stdout, moded), r.Stdout
	})
	shows("1", "1")

	if r := w.Lull("refresh", "--atomic", moded, second); r.Code != 75 {
		t.Errorf("got %v, want exit status 75", r)
	}
	app.Signal(syscall.SIGTERM)
	// Both may be in their critical sections already, and are not replaced then.
	if r := w.Lull("refresh", "--wait", "--atomic", moded, second); r.Code != 0 && !strings.Contains(r.Stderr, "is in its critical section") {
		t.Errorf("got %v, want exit status 0, or that a critical section has begun", r)
	}
	w.UntilIdle()
	shows("2", "2")
	w.UntilNoMarkers(20 * time.Second)
}
