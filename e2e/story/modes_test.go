package story_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lull/lull/e2e/need"
	"github.com/lull/lull/e2e/rig"
)

const moded = "org.lull.moded"

// writeModed writes a package whose application runs until it is told to end, and
// copies a file of its package to $LULL_USER_COMMON/seen when it gets SIGUSR1.
func writeModed(t *testing.T, dir, version string) {
	t.Helper()
	for name, text := range map[string]string{
		"lull.yaml": fmt.Sprintf("name: %s\nversion: %q\nsummary: runs\napps: [{name: moded, command: bin/app}]\n", moded, version),
		"bin/app": `#!/bin/sh
trap 'cat "$LULL_PACKAGE_DIR/version" > "$LULL_USER_COMMON/seen"' USR1
[ "$1" = --show ] && exec cat "$LULL_PACKAGE_DIR/version"
echo > "$LULL_USER_COMMON/ready"
while :; do sleep 0.1; done
`,
		"version": version + "\n",
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestModes: what happens to an application that runs when a new version comes is
// what policy says, and nothing else.
func TestModes(t *testing.T) {
	need.Unified(t)
	need.Program(t, "dbus-daemon", "setpriv")
	need.Lock(t, "subtree")
	for _, c := range []struct {
		name, policy string
		waits        bool // until the application is closed
		ends         bool // the application, because it is told to
	}{
		{name: "wait", policy: "{}", waits: true},
		{name: "side-by-side", policy: "{mode: side-by-side}"},
		{name: "endure", policy: "{mode: endure}"},
		{name: "ignore-running", policy: "{mode: ignore-running}"},
		{name: "unaware", policy: "{refresh-awareness: false}"},
		{name: "deadline, keep-waiting", policy: "{max-postponement: 0s}", waits: true},
		{name: "deadline, side-by-side", policy: "{max-postponement: 0s, at-deadline: side-by-side}"},
		{name: "deadline, terminate", policy: "{max-postponement: 0s, at-deadline: terminate}", ends: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := rig.New(t, rig.Options{Tracker: "subtree"})
			w.Configure("policy.yaml", "defaults: {keep-revisions: 1}\npackages:\n  "+moded+": "+c.policy+"\nschedule: {check: 0}\ngc: {after-refresh: false, watermark: 0, reserve: 0}\n")
			for _, v := range []string{"1", "2"} {
				writeModed(t, w.Path(v), v)
			}
			w.MustLull("repo", "init", w.Repo)
			w.MustLull("publish", "--repo", w.Repo, w.Path("1"))
			w.StartAgent()
			w.MustLull("repo", "add", "local", w.Repo)
			w.MustLull("install", moded)
			common := filepath.Join(w.User.Home, ".local/share/lull", moded, "common")
			app := w.User.StartLull(nil, "run", moded)
			w.UntilFile("it runs", 20*time.Second, filepath.Join(common, "ready"), func(text string) (bool, string) { return text != "", app.Log() })

			w.MustLull("publish", "--repo", w.Repo, w.Path("2"))
			r := w.Lull("refresh", moded)
			switch {
			case c.waits && (r.Code != 75 || !strings.Contains(r.Stderr, "running")):
				t.Errorf("it does not wait: %v", r)
			case c.ends:
				if _, err := app.Wait(t.Context(), 20*time.Second); err != nil {
					t.Fatal(err)
				}
				if r := w.Lull("refresh", "--wait", moded); r.Code != 0 {
					t.Errorf("%v", r)
				}
			case !c.waits && r.Code != 0:
				t.Errorf("it waits: %v", r)
			}
			if !c.ends {
				// The one that runs has all of its files, whatever the collector thinks.
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
				t.Errorf("at the end there is %v", r)
			}
			w.Until("only version 2 is left", 20*time.Second, func() (bool, string) {
				w.MustLull("gc") // while a child of the application lives, version 1 stays
				packages, err := os.ReadDir(filepath.Join(w.Store, "packages"))
				return len(packages) == 1, fmt.Sprint(packages, err)
			})
			w.Until("no marker is left", 20*time.Second, func() (bool, string) {
				left := w.Markers()
				return len(left) == 0, strings.Join(left, " ")
			})
		})
	}
}
