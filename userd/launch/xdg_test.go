package launch

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sh runs a line in the environment of the application.
func (w *world) sh(line string) string {
	w.Helper()
	r := w.run(app, "nest", "sh", "-ec", line)
	if r.code != 0 {
		w.Fatalf("%s: status %d, want 0: %s", line, r.code, r.stderr)
	}
	return strings.TrimSuffix(r.out, "\n")
}

func (w *world) write(path, text string) {
	w.Helper()
	w.no(os.MkdirAll(filepath.Dir(path), 0o700))
	w.no(os.WriteFile(path, []byte(text), 0o600))
}

func (w *world) read(path string) string {
	w.Helper()
	b, err := os.ReadFile(path)
	w.no(err)
	return string(b)
}

// TestBaseDirectories: a package with XDG data has a profile for each revision. The first
// launch copies the existing one, a refresh copies that of the revision before, and a revert
// brings the old one back. The host's profile stays as it is.
func TestBaseDirectories(t *testing.T) {
	w := newWorld(t)
	w.untracked()
	w.install(1, 0, true)
	config := filepath.Join(w.home, ".config")
	w.write(config+"/thing/rc", "host")
	w.write(config+"/mimeapps.list", "default")
	if got := w.sh(`echo "$XDG_CONFIG_HOME"; cat "$HOME/.config/thing/rc"`); got != "\nhost" {
		t.Errorf("without XDG data: %q, want %q", got, "\nhost")
	}
	w.xdg, w.imports = true, []string{"config/thing", "data/thing"}
	w.install(2, 1, true)
	two := w.data("2/xdg")
	want := "host default\n" + two + "/config " + two + "/data " + two + "/state " + w.data("common/cache")
	if got := w.sh(`echo $(cat $XDG_CONFIG_HOME/thing/rc $XDG_CONFIG_HOME/mimeapps.list | sed 's/hostd/host d/'); echo $XDG_CONFIG_HOME $XDG_DATA_HOME $XDG_STATE_HOME $XDG_CACHE_HOME`); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	w.sh(`echo two >$XDG_CONFIG_HOME/thing/rc; echo cached >$XDG_CACHE_HOME/x; echo first >$XDG_STATE_HOME/x`)
	w.write(config+"/thing/rc", "host, later")
	w.install(3, 2, true)
	if got := w.sh(`cat $XDG_CONFIG_HOME/thing/rc $XDG_CACHE_HOME/x $XDG_STATE_HOME/x; echo three >$XDG_CONFIG_HOME/thing/rc; rm $XDG_STATE_HOME/x`); got != "two\ncached\nfirst" {
		t.Errorf("after a refresh: %q, want %q", got, "two\ncached\nfirst")
	}
	w.swap(2)
	if got := w.sh(`cat $XDG_CONFIG_HOME/thing/rc $XDG_STATE_HOME/x`); got != "two\nfirst" {
		t.Errorf("after a revert: %q, want %q", got, "two\nfirst")
	}
	if got := w.read(config + "/thing/rc"); got != "host, later" {
		t.Errorf("the host's profile: %q, want host, later", got)
	}
	// A program with the host's home of its own finds it.
	w.env = []string{"XDG_CONFIG_HOME=" + w.home + "/other"}
	w.write(w.home+"/other/mimeapps.list", "of the other")
	if got := w.sh(`cat $XDG_CONFIG_HOME/mimeapps.list; echo " $LULL_HOST_XDG_CONFIG_HOME"`); got != "of the other "+w.home+"/other" {
		t.Errorf("with another home of settings: %q, want %v", got, "of the other "+w.home+"/other")
	}
	// A service of the system has no user's data.
	if r := w.run("--service", "env", app); r.code != 0 || !strings.Contains(r.out, "XDG_CONFIG_HOME="+w.home+"/other\n") || strings.Contains(r.out, "XDG_STATE_HOME") {
		t.Errorf("a service: got status %d and the environment below, want status 0, XDG_CONFIG_HOME=%s and no XDG_STATE_HOME:\n%s%s", r.code, w.home+"/other", r.out, r.stderr)
	}
}

// TestBaseDirectoriesNested: an application of another package, and the same one, find the
// host's directories, also without the variables that record them.
func TestBaseDirectoriesNested(t *testing.T) {
	w := newWorld(t)
	w.untracked()
	w.xdg, w.imports = true, []string{"config/thing"}
	w.install(1, 0, false)
	w.write(w.home+"/.config/thing/rc", "host")
	w.write(w.home+"/.config/kdeglobals", "colours")
	self, err := os.Executable()
	w.no(err)
	for _, unset := range []string{"", "unset LULL_ENVIRONMENT; "} {
		got := w.sh(unset + "LULL_TEST_RUN=1 exec " + self + " --run-dir " + w.ctl.RunDir() + " " + app + ` nest sh -c 'cat $XDG_CONFIG_HOME/thing/rc $XDG_CONFIG_HOME/kdeglobals; readlink $XDG_CONFIG_HOME/kdeglobals'`)
		if want := "hostcolours" + w.home + "/.config/kdeglobals"; got != want {
			t.Errorf("%q: got %q, want %q", unset, got, want)
		}
	}
	// Data that cannot be written is used as it is.
	if os.Geteuid() != 0 {
		w.no(os.Remove(w.home + "/.config/kdeglobals"))
		w.no(os.Chmod(w.data("."), 0o500))
		defer os.Chmod(w.data("."), 0o700)
	}
	if got := w.sh("cat $XDG_CONFIG_HOME/thing/rc"); got != "host" {
		t.Errorf("got %q, want host", got)
	}
}
