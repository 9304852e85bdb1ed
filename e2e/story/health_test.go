package story_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

const hooked = "org.lull.hooked"

// writeHooked writes a package with hooks that report their work, a service
// that ignores its stop signal, and a health hook that fails in version 3 and
// never ends in version 4.
func writeHooked(t *testing.T, dir string, version int) {
	t.Helper()
	rig.WriteTree(t, dir, map[string]string{
		"lull.yaml": fmt.Sprintf(`name: %s
version: "%d"
summary: has hooks
apps: [{name: hooked, command: bin/app}]
services: [{name: svc, command: bin/svc, stop-timeout: 1s}]
hooks: {pre-refresh: bin/hook, post-refresh: bin/hook, health: bin/hook}
`, hooked, version),
		"bin/app": fmt.Sprintf("#!/bin/sh\necho app %d\n", version),
		"bin/svc": "#!/bin/sh\ntrap '' TERM\necho data > \"$LULL_DATA/written\"\nwhile :; do sleep 1; done\n",
		"bin/hook": fmt.Sprintf("#!/bin/sh\necho \"$LULL_HOOK of %[1]d in $LULL_REVISION\" >> \"$LULL_COMMON/log\"\necho it hurts\n"+
			"[ %[1]d.$LULL_HOOK != 4.health ] || exec sleep 1000\n[ %[1]d.$LULL_HOOK != 3.health ]\n", version),
	})
}

// TestUnhealthyRevisionIsUndone: hooks run in their order, a stubborn service is
// killed in its time, and a revision that is not healthy allows no launch.
func TestUnhealthyRevisionIsUndone(t *testing.T) {
	require.Unified(t)
	require.Program(t, "dbus-daemon", "setpriv", "cc")
	w := rig.NewScene(t, rig.SceneOptions{
		Options: rig.Options{Tracker: "subtree"}, Auto: true,
		Policy: "defaults: {hook-time-limit: 10s}\ngc: {after-refresh: true}\n",
	})
	for v := 1; v <= 5; v++ {
		writeHooked(t, w.Path(fmt.Sprint("v", v)), v)
	}
	w.Publish(w.Path("v1"))
	w.Begin()
	w.MustLull("install", hooked)
	w.Publish(w.Path("v2"))
	w.MustLull("refresh", hooked)

	w.Publish(w.Path("v3"))
	w.Until("version 3 was undone", 2*time.Minute, func() (bool, string) {
		o, ok := w.API.Refresh(hooked, "3")
		return ok && o.Str("State") == "undone", o.Str("State") + " " + o.Str("ErrorText")
	})
	if got := backoff(w); got != 8*time.Hour {
		t.Errorf("after the first failure it backs off for %v, want %v", got, 8*time.Hour)
	}
	r := w.Lull("refresh", hooked) // on request, it is retried
	if r.Code != 1 || !strings.Contains(r.Stderr, "cannot refresh "+hooked) || !strings.Contains(r.Stderr, "health hook of 3 failed") || !strings.Contains(r.Stderr, "it hurts") {
		t.Errorf("got %v, want exit status 1, %q in the error output, %q in the error output and %q in the error output", r, "cannot refresh "+hooked, "health hook of 3 failed", "it hurts")
	}
	if got := backoff(w); got != 16*time.Hour {
		t.Errorf("after the second failure it backs off for %v, want %v", got, 16*time.Hour)
	}
	if r := w.User.Lull("run", hooked); r.Stdout != "app 2\n" {
		t.Errorf("got %v, want output %q", r, "app 2\n")
	}
	log, err := os.ReadFile(filepath.Join(w.Store, "data", hooked, "common", "log"))
	want := `health of 1 in 1
pre-refresh of 1 in 1
post-refresh of 2 in 2
health of 2 in 2
pre-refresh of 2 in 2
post-refresh of 3 in 3
health of 3 in 3
pre-refresh of 2 in 2
post-refresh of 3 in 4
health of 3 in 4
`
	if err != nil || string(log) != want {
		t.Errorf("%v, the hooks say:\n%s\nwant:\n%s", err, log, want)
	}
	p, _ := w.API.Package(hooked)
	if got := fmt.Sprint(p.Props["Services"].Value()); !strings.Contains(got, "active") {
		t.Errorf("the old service is not there again: %s", got)
	}
	w.UntilNoMarkers(20 * time.Second)
	folders, _ := filepath.Glob(filepath.Join(w.Store, "data", hooked, "*"))
	for _, f := range folders {
		if n := filepath.Base(f); n != "1" && n != "2" && n != "common" {
			t.Errorf("data of a revision that was undone is left: %s", f)
		}
	}

	// A failed version blocks only itself: a newer one is tried at once, and by itself.
	for _, next := range []struct{ version, end, text string }{
		{"4", "undone", "the health hook of 4 did not end within 10 s"}, {"5", "done", ""},
	} {
		w.Publish(w.Path("v" + next.version))
		w.Until("version "+next.version+" was tried", 2*time.Minute, func() (bool, string) {
			o, ok := w.API.Refresh(hooked, next.version)
			return ok && o.Str("State") == next.end && strings.Contains(o.Str("ErrorText"), next.text), o.Str("State") + " " + o.Str("ErrorText")
		})
	}
	w.MustLull("remove", hooked)
}

// backoff is for how long what has failed is left alone.
func backoff(w *rig.Scene) time.Duration {
	w.Helper()
	var v struct {
		Instances []struct {
			Instance string
			Backoff  struct{ Delay time.Duration }
		}
	}
	if err := json.Unmarshal([]byte(w.MustLull("inspect", "--json").Stdout), &v); err != nil {
		w.Fatalf("%v", err)
	}
	for _, i := range v.Instances {
		if i.Instance == hooked {
			return i.Backoff.Delay
		}
	}
	return 0
}
