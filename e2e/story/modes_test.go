package story_test

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
)

const moded = "org.lull.moded"

// writeModed writes a package whose application runs until it is asked to end, and
// copies a file of its package to $LULL_USER_COMMON/seen when it gets SIGUSR1.
func writeModed(t *testing.T, dir, version string) {
	t.Helper()
	rig.WriteTree(t, dir, map[string]string{
		"lull.yaml": fmt.Sprintf("name: %s\nversion: %q\nsummary: runs\napps: [{name: moded, command: bin/app}]\n", moded, version),
		"bin/app": `#!/bin/sh
trap 'cat "$LULL_PACKAGE_DIR/version" > "$LULL_USER_COMMON/seen"' USR1
[ "$1" = --show ] && exec cat "$LULL_PACKAGE_DIR/version"
echo > "$LULL_USER_COMMON/ready"
while :; do sleep 0.1; done
`,
		"version": version + "\n",
	})
}

// TestModes: a running application is treated by the policy when a new version
// comes, and in no other way.
func TestModes(t *testing.T) {
	require.Unified(t)
	require.Program(t, "dbus-daemon", "setpriv")
	for _, c := range []struct {
		name, policy string
		waits        bool // until the application is closed
		ends         bool // the application, on request
		once         bool // it waits until it is asked to switch while the application runs
	}{
		{name: "wait", policy: "{}", waits: true},
		{name: "asked for side-by-side once", policy: "{}", once: true},
		{name: "side-by-side", policy: "{mode: side-by-side}"},
		{name: "endure", policy: "{mode: endure}"},
		{name: "ignore-running", policy: "{mode: ignore-running}"},
		{name: "unaware", policy: "{refresh-awareness: false}"},
		{name: "deadline, keep-waiting", policy: "{max-postponement: 0s}", waits: true},
		{name: "deadline, side-by-side", policy: "{max-postponement: 0s, at-deadline: side-by-side}"},
		{name: "deadline, terminate", policy: "{max-postponement: 0s, at-deadline: terminate}", ends: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := rig.NewScene(t, rig.SceneOptions{
				Options: rig.Options{Tracker: "subtree"}, Auto: true,
				Policy: "defaults: {keep-revisions: 1}\npackages:\n  " + moded + ": " + c.policy + "\n",
			})
			for _, v := range []string{"1", "2"} {
				writeModed(t, w.Path(v), v)
			}
			w.Publish(w.Path("1"))
			w.Begin()
			w.MustLull("install", moded)
			common := filepath.Join(w.User.Home, ".local/share/lull", moded, "common")
			app := w.User.StartLull(nil, "run", moded)
			w.UntilFile("it runs", 20*time.Second, filepath.Join(common, "ready"), func(text string) (bool, string) { return text != "", app.Log() })

			w.Publish(w.Path("2"))
			r := w.Lull("refresh", moded)
			if c.once {
				if r.Code != 75 {
					t.Errorf("it does not wait: %v", r)
				}
				if r := w.User.Lull("refresh", "--side-by-side", moded); r.Code != 77 {
					t.Errorf("a user who is not asked for a password may: %v", r)
				}
				r = w.Lull("refresh", "--side-by-side", moded)
			}
			switch {
			case c.waits && (r.Code != 75 || !strings.Contains(r.Stderr, "running")):
				t.Errorf("it does not wait: %v", r)
			case c.ends:
				if _, err := app.Wait(t.Context(), 20*time.Second); err != nil {
					t.Fatal(err)
				}
				if r := w.Lull("refresh", "--wait", moded); r.Code != 0 {
					t.Errorf("got %v, want exit status 0", r)
				}
			case !c.waits && r.Code != 0:
				t.Errorf("it waits: %v", r)
			}
			if !c.ends {
				// The running one has all of its files, regardless of the collector.
				w.MustLull("gc")
				app.Signal(syscall.SIGUSR1)
				w.UntilFile("it sees its files", 20*time.Second, filepath.Join(common, "seen"), func(text string) (bool, string) { return text == "1\n", text + app.Log() })
			}
			want := map[bool]string{true: "1\n", false: "2\n"}[c.waits]
			if r := w.User.Lull("run", moded, "--show"); r.Stdout != want {
				t.Errorf("the next launch is %v, want %q", r, want)
			}
			if !c.ends {
				app.Signal(syscall.SIGTERM)
				if _, err := app.Wait(t.Context(), 20*time.Second); err != nil {
					t.Fatal(err)
				}
			}
			w.MustLull("refresh", "--wait", moded)
			if r := w.User.Lull("run", moded, "--show"); r.Stdout != "2\n" {
				t.Errorf("at the end there is %v; want output %q", r, "2\n")
			}
			w.Until("only version 2 is left", 20*time.Second, func() (bool, string) {
				w.MustLull("gc") // while a child of the application lives, version 1 stays
				packages, err := os.ReadDir(filepath.Join(w.Store, "packages"))
				return len(packages) == 1, fmt.Sprint(packages, err)
			})
			w.UntilNoMarkers(20 * time.Second)
		})
	}
}
