package realinput_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

// trial is a program with a window that is installed from files, in two versions.
type trial struct {
	name     string // of the package
	label    string // of the program in its menu entry
	install  [2][]string
	versions [2]string
	titles   [2]string       // of the windows
	args     []string        // of lull run
	menu     string          // the file name of its menu entry
	keys     string          // that close the window
	check    func(*rig.Proc) // of the open program; nil checks nothing more
}

// trialWorld starts a session with a window manager and a server of notifications, and an
// agent with its helper.
func trialWorld(t *testing.T) (*rig.World, *rig.Desktop) {
	t.Helper()
	require.Root(t)
	require.Unified(t)
	require.NotShort(t)
	require.Program(t, "dbus-daemon", "Xvfb", "dunst", "openbox", "xdotool", "setpriv", "apt-get", "dpkg-deb", "import")
	w := rig.New(t, rig.Options{Tracker: "subtree"})
	w.Configure("policy.yaml", policy)
	d := w.StartDesktop()
	w.User.Env = append(w.User.Env, "GSETTINGS_BACKEND=memory", "NO_AT_BRIDGE=1")
	w.User.Start("openbox", "--sm-disable")
	return w, d
}

// play installs the older version, opens it, installs the newer one while it is open, and
// closes it. Then it goes back, removes the program, and collects what it has left.
func (c trial) play(t *testing.T, w *rig.World, d *rig.Desktop) {
	t.Helper()
	api := w.Bus.Watch()
	w.StartAgent()
	w.StartHelper()
	stop := w.Tick(200 * time.Millisecond) // a window has no bus signal for its appearance
	defer stop()
	open := func(which int) (p *rig.Proc, window string) {
		t.Helper()
		p = w.User.StartLull(nil, append([]string{"run", c.name}, c.args...)...)
		w.Until("the window says "+c.titles[which], limit, func() (bool, string) {
			if p.Ended() {
				t.Fatalf("%s has ended, want it to run:\n%s", c.name, p.Log())
			}
			window, _, _ = strings.Cut(w.User.Run("xdotool", "search", "--onlyvisible", "--name", regexp.QuoteMeta(c.titles[which])).Stdout, "\n")
			return window != "", p.Log()
		})
		if c.check != nil {
			c.check(p)
		}
		return p, window
	}
	shut := func(p *rig.Proc, window string) {
		t.Helper()
		w.Until("it has ended", limit, func() (bool, string) {
			w.User.Run("xdotool", "windowactivate", window, "key", c.keys) // one is lost until the window is ready
			return p.Ended(), p.Log()
		})
		if _, err := p.Wait(t.Context(), limit); err != nil {
			t.Fatal(err)
		}
		w.Until("its last process has ended", limit, func() (bool, string) { // a browser's handler of crashes ends later
			o, _ := api.Package(c.name)
			running, _ := o.Props["Running"].Value().(bool)
			return !running, p.Log()
		})
	}
	notice := func(words string) {
		t.Helper()
		w.Until("one notice says "+words, limit, func() (bool, string) {
			live := d.Live()
			return len(live) == 1 && strings.Contains(live[0].Summary+live[0].Body, words), d.String()
		})
	}
	current := func(which int) {
		t.Helper()
		w.Until("its version is "+c.versions[which], limit, func() (bool, string) {
			o, _ := api.Package(c.name)
			return o.Str("Version") == c.versions[which], o.Str("Version")
		})
	}

	w.MustLull(append([]string{"install"}, c.install[0]...)...)
	current(0)
	menu := filepath.Join(w.Store, "exports/share/applications", c.menu)
	if b, err := os.ReadFile(menu); err != nil || !strings.Contains(string(b), "\nName="+c.label+"\n") {
		t.Errorf("the menu entry %s: got %q, %v, want the one of %s", menu, b, err, c.label)
	}
	p, window := open(0)
	if r := w.Lull(append([]string{"install"}, c.install[1]...)...); r.Code != 75 {
		t.Errorf("a refresh while it runs: got %v, want exit status 75", r)
	}
	notice(c.label)
	if dir := os.Getenv("LULL_PICTURES"); dir != "" {
		d.Screenshot(filepath.Join(dir, c.name+".png"))
	}
	if p.Ended() {
		t.Fatalf("%s has ended by itself:\n%s", c.name, p.Log())
	}
	shut(p, window)
	current(1)
	notice("was updated")
	shut(open(1))
	w.MustLull("revert", c.name)
	current(0)
	shut(open(0))
	w.MustLull("remove", c.name)
	w.MustLull("gc")
	if _, err := os.Stat(menu); err == nil {
		t.Errorf("after the removal: got %s, want no menu entry", menu)
	}
	if left, err := os.ReadDir(filepath.Join(w.Store, "packages")); err != nil || len(left) > 0 {
		t.Errorf("after gc: got %d packages in the store, %v; want none and no error", len(left), err)
	}
}
