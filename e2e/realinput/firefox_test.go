package realinput_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

func TestMain(m *testing.M) { rig.MainWithReleaseAgent(m.Run) }

const (
	firefox = "org.mozilla.firefox"
	limit   = time.Minute
	policy  = "schedule: {check: 6h}\ngc: {after-refresh: false, watermark: 0, reserve: 0}\n"
)

// firefoxScript starts Firefox from wherever the package lies, on a profile in
// the user's versioned data.
const firefoxScript = `#!/bin/sh
mkdir -p "$LULL_USER_DATA/profile"
cp "$LULL_PACKAGE_DIR/share/user.js" "$LULL_USER_DATA/profile/user.js"
exec "$LULL_PACKAGE_DIR/usr/lib/firefox-esr/firefox-esr" --no-remote --profile "$LULL_USER_DATA/profile" "$@"
`

// firefoxPrefs keeps Firefox from asking things when it starts and when it is
// closed.
const firefoxPrefs = `user_pref("browser.warnOnQuit", false);
user_pref("browser.tabs.warnOnClose", false);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("browser.aboutwelcome.enabled", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
`

// page is what the window shows; it remembers by itself how often it was shown.
const page = `<!doctype html><meta charset="utf-8"><title>lull</title>
<body style="font: 28px sans-serif; margin: 2em"><h1>A page</h1><p id="p"></p>
<script>
const n = 1 + Number(localStorage.getItem("n") || 0);
localStorage.setItem("n", n);
document.title = "Shown " + n + " times";
p.textContent = "This profile has seen the page " + n + " times; " + navigator.userAgent;
</script>
`

// writeFirefox makes a package of a Debian package.
func writeFirefox(t *testing.T, dir, deb, version string) {
	t.Helper()
	unpack(t, deb, dir)
	for name, f := range map[string]struct {
		text string
		mode os.FileMode
	}{
		"lull.yaml": {fmt.Sprintf(`name: %s
version: %q
title: Firefox
summary: A web browser
icon: usr/share/firefox-esr/browser/chrome/icons/default/default128.png
apps:
  - name: firefox
    command: [bin/firefox]
    desktop: usr/share/applications/firefox-esr.desktop
data: {versioned: true}
`, firefox, version), 0o644},
		"bin/firefox":   {firefoxScript, 0o755},
		"share/user.js": {firefoxPrefs, 0o644},
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(f.text), f.mode); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFirefox refreshes a running Firefox from the older to the newer version
// that Debian has, when its window is closed.
func TestFirefox(t *testing.T) {
	require.Root(t)
	require.NotShort(t)
	require.Program(t, "dbus-daemon", "Xvfb", "dunst", "import", "xdotool", "systemd-logind", "unshare", "setpriv", "cc")
	require.Lock(t, "freezer")
	versions, files := debs(t, "firefox-esr")

	w := rig.New(t, rig.Options{Logind: true})
	w.Configure("policy.yaml", policy)
	d := w.StartDesktop()
	api := w.Bus.Watch()
	w.StartAgent()
	w.StartHelper()
	began := time.Now()
	say := func(format string, args ...any) {
		t.Helper()
		t.Logf("%6.2fs "+format, append([]any{time.Since(began).Seconds()}, args...)...)
	}

	for i, v := range versions {
		writeFirefox(t, w.Path("src", v), files[i], v)
	}
	w.MustLull("repo", "init", w.Repo)
	say("publish: %v", w.MustLull("publish", "--repo", w.Repo, w.Path("src", versions[0])))
	w.MustLull("repo", "add", "local", w.Repo)
	say("install: %v", w.MustLull("install", firefox))

	if err := os.WriteFile(w.Path("page.html"), []byte(page), 0o644); err != nil {
		t.Fatal(err)
	}
	showPage := "file://" + w.Path("page.html")
	window := func(p *rig.Proc, title string) string {
		t.Helper()
		id := ""
		w.Until("the window says "+title, limit, func() (bool, string) {
			if p.Ended() {
				t.Fatalf("Firefox has ended, want it to run:\n%s", p.Log())
			}
			id = w.User.Run("xdotool", "search", "--onlyvisible", "--name", title).Stdout
			id, _, _ = strings.Cut(id, "\n")
			return id != "", p.Log()
		})
		return id
	}
	tick := w.Tick(200 * time.Millisecond) // a window has no bus signal for its appearance
	p := w.User.StartLull(nil, "run", firefox, showPage)
	id := window(p, "Shown 1 times")
	say("%s runs", versions[0])

	profile := func(revision int, name string) string {
		b, _ := os.ReadFile(filepath.Join(w.User.Home, ".local/share/lull", firefox, fmt.Sprint(revision), "profile", name))
		return string(b)
	}
	created := profile(1, "times.json")

	say("publish: %v", w.MustLull("publish", "--repo", w.Repo, "--urgency", "security", "--deltas-from", "0", w.Path("src", versions[1])))
	w.Until("the refresh waits", 3*limit, func() (bool, string) {
		o, _ := api.Refresh(firefox, versions[1])
		return o.Str("State") == "waiting", o.Str("State") + " " + o.Str("Step") + " " + o.Str("ErrorText")
	})
	w.Until("the notice is shown", limit, func() (bool, string) { return len(d.Live()) == 1, d.String() })
	say("the user is told: %s", d)
	w.Until("several processes are named", limit, func() (bool, string) {
		o, _ := api.Package(firefox)
		n := len(rig.Processes(o.Props["Processes"]))
		return n >= 3, fmt.Sprint(n, " processes")
	})
	picture := filepath.Join(t.ArtifactDir(), "firefox.png")
	d.Screenshot(picture)
	if p.Ended() {
		t.Fatal("Firefox has ended by itself")
	}

	quit(w, id)
	if _, err := p.Wait(t.Context(), limit); err != nil {
		t.Fatal(err)
	}
	exited := time.Now()
	w.Until("the refresh is done", limit, func() (bool, string) {
		o, _ := api.Refresh(firefox, versions[1])
		return o.Str("State") == "done", o.Str("State") + " " + o.Str("Step") + " " + o.Str("ErrorText")
	})
	say("the window was closed; refreshed %v later", time.Since(exited).Round(time.Millisecond))
	w.Until("the notice says so", limit, func() (bool, string) {
		live := d.Live()
		return len(live) == 1 && strings.Contains(live[0].Summary+live[0].Body, "was updated"), d.String()
	})

	p = w.User.StartLull(nil, "run", firefox, showPage)
	id = window(p, "Shown 2 times") // the profile's data has come along
	say("%s runs on the same profile", versions[1])
	for revision, v := range versions {
		major, _, _ := strings.Cut(v, ".")
		if ini := profile(revision+1, "compatibility.ini"); !strings.Contains(ini, "LastVersion="+major+".") {
			t.Errorf("the profile of revision %d was not used by %s:\n%s", revision+1, v, ini)
		}
	}
	if now := profile(2, "times.json"); now != created || created == "" {
		t.Errorf("it is another profile: %s, was %s; want %v and some created", now, created, created)
	}
	quit(w, id)
	if _, err := p.Wait(t.Context(), limit); err != nil {
		t.Fatal(err)
	}
	tick()

	say("verify: %v", w.MustLull("verify"))
	w.Configure("policy.d/keep.yaml", "defaults: {keep-revisions: 1}\n")
	if err := api.Call("Manager.Reload").Err; err != nil {
		t.Fatal(err)
	}
	say("gc: %v", w.MustLull("gc"))
	if packages, _ := os.ReadDir(filepath.Join(w.Store, "packages")); len(packages) != 1 {
		t.Errorf("there are %d packages after gc, want the current one", len(packages))
	}
}

// quit closes Firefox as its user would, by Ctrl-Q in its window.
func quit(w *rig.World, window string) {
	w.Helper()
	w.User.Must("xdotool", "windowfocus", "--sync", window)
	w.User.Must("xdotool", "key", "ctrl+q")
}
