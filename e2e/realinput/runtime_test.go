package realinput_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/lull/lull/e2e/image"
	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/rig/suite"
)

// inside is a GTK program for the libraries of Debian 13. It writes a file in the home with what
// it finds: its GTK, a file of its runtime, the time zone, its user, the sound's socket and its
// name on the session bus.
const inside = `#!/usr/bin/gjs
imports.gi.versions.Gtk = '3.0';
const {Gtk, Gio, GLib} = imports.gi;
const text = path => { try { return imports.byteArray.toString(GLib.file_get_contents(path)[1]).trim() } catch (e) { return 'nothing' } };
const app = new Gtk.Application({application_id: 'org.lull_test.Inside'});
app.connect('activate', () => {
	const window = new Gtk.ApplicationWindow({application: app, title: 'Inside ' + text('/etc/runtime')});
	window.add(new Gtk.Label({label: 'Inside'}));
	window.show_all();
	const sound = new Gio.SocketClient().connect(new Gio.UnixSocketAddress({path: GLib.getenv('XDG_RUNTIME_DIR') + '/pulse/native'}), null);
	GLib.file_set_contents(GLib.get_home_dir() + '/found', [
		Gtk.get_major_version() + '.' + Gtk.get_minor_version() + '.' + Gtk.get_micro_version(), text('/etc/runtime'),
		GLib.TimeZone.new_local().get_identifier(), GLib.get_user_name(), sound.is_connected(), app.get_dbus_connection().get_unique_name() != null,
	].join('\n') + '\n');
});
app.run([]);
`

// files lists what the program needs of a Debian with GNOME, without what is for people.
const files = `cd "$1" && { chroot . ldd /usr/bin/gjs /usr/lib/x86_64-linux-gnu/libgtk-3.so.0 | awk '$3 ~ "^/" {print $3}' | while read -r lib; do
	for path in "$lib" "$(chroot . readlink -f "$lib")"; do case $path in /usr/*) echo ".$path" ;; *) echo "./usr$path" ;; esac; done
done
ls -d ./bin ./sbin ./lib ./lib64 ./usr/bin/gjs ./usr/bin/gjs-console ./usr/lib64 ./usr/lib/*-linux-gnu/ld-linux* ./usr/lib/*-linux-gnu/libgtk-3.so* ./usr/lib/*-linux-gnu/girepository-1.0 \
	./usr/lib/*-linux-gnu/gjs ./usr/lib/*-linux-gnu/gdk-pixbuf-2.0 ./usr/lib/locale ./usr/share/glib-2.0/schemas ./usr/share/fontconfig ./usr/share/fonts ./usr/share/icons/hicolor/index.theme \
	./usr/share/mime/mime.cache ./etc/fonts
} | sort -u`

// runtimeImage writes the image of a runtime in a version.
func runtimeImage(t *testing.T, layer []byte, file, version string) {
	t.Helper()
	i := image.Image{Reference: "example.org/org.lull-test.Runtime:" + version, Plain: true, Config: v1.Config{Cmd: []string{"gjs"}},
		Layers: [][]byte{layer, image.Layer(image.Program("etc/runtime", "runtime "+version+"\n"))}}
	if err := os.WriteFile(file, image.Pack(image.Layout(i)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestRuntime: a program runs with the GTK of another Debian, which comes as a container image
// and is a subpackage. It shows a window, has the home, the bus, the sound, the user and the time
// zone of the machine; it is refreshed with its runtime when its window is closed, and reverted with it.
func TestRuntime(t *testing.T) {
	require.Root(t)
	require.Unified(t)
	require.NotShort(t)
	require.Program(t, "dbus-daemon", "Xvfb", "dunst", "openbox", "xdotool", "setpriv", "debootstrap")
	const app, runtime = "org.lull-test.Inside", "org.lull-test.Runtime"
	root, err := suite.Root(t.Context(), t.Logf, suite.Trixie, suite.GNOME)
	if err != nil {
		t.Fatal(err)
	}
	list := exec.Command("sh", "-ec", files, "sh", root)
	names, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	pack := exec.Command("tar", "-C", root, "--numeric-owner", "-cf", "-", "-T", "-")
	pack.Stdin = strings.NewReader(string(names))
	layer, err := pack.Output()
	if err != nil {
		t.Fatal(err)
	}
	w := rig.New(t, rig.Options{Tracker: "subtree"})
	w.Configure("policy.yaml", policy)
	w.StartDesktop()
	w.User.Start("openbox", "--sm-disable")
	w.User.Env = append(w.User.Env, "NO_AT_BRIDGE=1", "GSETTINGS_BACKEND=memory")
	api := w.Bus.Watch()
	w.StartAgent()
	stop := w.Tick(200 * time.Millisecond) // a window has no bus signal for its appearance
	defer stop()
	w.User.Must("mkdir", "-p", filepath.Join(w.User.Runtime(), "pulse"))
	sound, err := net.Listen("unix", filepath.Join(w.User.Runtime(), "pulse/native"))
	if err != nil {
		t.Fatal(err)
	}
	defer sound.Close()
	w.User.Own(sound.Addr().String())

	w.MustLull("repo", "init", w.Repo)
	source := w.Tree("inside", map[string]string{"bin/inside": inside})
	publish := func(version string) {
		t.Helper()
		archive := w.Path("runtime.tar")
		runtimeImage(t, layer, archive, version)
		w.MustLull("publish", "--deltas-from", "0", "--repo", w.Repo, archive)
		rig.WriteTree(t, source, map[string]string{"lull.yaml": fmt.Sprintf("name: %s\nversion: %s\nroot: runtime\nsubpackages: {runtime: %s}\napps:\n- name: inside\n  command: bin/inside\n", app, version, runtime)})
		w.MustLull("publish", "--deltas-from", "0", "--repo", w.Repo, source)
	}
	publish("1")
	w.MustLull("repo", "add", "test", w.Repo)
	w.MustLull("install", app)
	w.MustLull("install", runtime)
	w.MustLull("remove", runtime) // it stays in the package that contains it
	w.MustLull("gc")
	current := func(of string) string {
		target, err := filepath.EvalSymlinks(filepath.Join(w.Store, "current", app, of))
		if err != nil {
			t.Fatal(err)
		}
		return target
	}
	zone, err := filepath.EvalSymlinks("/etc/localtime")
	if _, name, found := strings.Cut(zone, "/zoneinfo/"); err == nil && found {
		zone = name
	} else {
		zone = "UTC"
	}
	found := filepath.Join(w.User.Home, "found")

	// open starts the program and returns when its window of that version is there.
	open := func(version string) (p *rig.Proc, window string) {
		t.Helper()
		os.Remove(found)
		p = w.User.StartLull(nil, "run", app)
		w.Until("its window is there", limit, func() (bool, string) {
			if p.Ended() {
				t.Fatalf("it has ended:\n%s", p.Log())
			}
			window, _, _ = strings.Cut(w.User.Run("xdotool", "search", "--onlyvisible", "--name", "^Inside runtime "+version+"$").Stdout, "\n")
			b, _ := os.ReadFile(found)
			return window != "" && strings.Count(string(b), "\n") == 6, p.Log()
		})
		b, _ := os.ReadFile(found)
		if want := strings.Join([]string{"runtime " + version, zone, w.User.Name, "true", "true"}, "\n") + "\n"; !strings.HasPrefix(string(b), "3.24.") || !strings.HasSuffix(string(b), "\n"+want) {
			t.Errorf("it has found %q, want GTK 3.24 and %q", b, want)
		}
		return p, window
	}
	shut := func(p *rig.Proc, window string) {
		t.Helper()
		w.Until("it has ended", limit, func() (bool, string) {
			w.User.Run("xdotool", "windowactivate", window, "key", "alt+F4") // one is lost until the window is ready
			return p.Ended(), p.Log()
		})
	}

	p, window := open("1")
	store := current(".lull/sub/runtime")
	maps := w.Admin.Run("cat", "/proc/"+strconv.Itoa(p.PID)+"/maps").Stdout
	for line := range strings.Lines(maps) {
		if strings.Contains(line, "/libgtk-3.so") && !strings.Contains(line, "/usr/lib/") {
			t.Errorf("it has mapped %s", line)
		}
	}
	host, err := filepath.EvalSymlinks("/usr/lib/x86_64-linux-gnu/libgtk-3.so.0")
	if err == nil && strings.Contains(maps, filepath.Base(host)) {
		t.Errorf("it has mapped the host's GTK, %s", host)
	}
	if r := w.MustLull("why", filepath.Base(store)); !strings.Contains(r.Stdout, app) || !strings.Contains(r.Stdout, strconv.Itoa(p.PID)) {
		t.Errorf("why its runtime is kept: got %v, want %s and process %d", r, app, p.PID)
	}
	publish("2")
	if r := w.Lull("refresh", "--no-wait", app); r.Code != 0 && r.Code != 75 {
		t.Errorf("a refresh while it runs: got %v, want exit status 0 or 75", r)
	}
	w.Until("a refresh waits", limit, func() (bool, string) {
		for _, o := range api.Objects("Refresh") {
			if o.Str("State") == "waiting" {
				return true, ""
			}
		}
		return false, fmt.Sprint(api.Objects("Refresh"))
	})
	shut(p, window)
	w.Until("it is refreshed", limit, func() (bool, string) {
		o, _ := api.Package(app)
		return o.Str("Version") == "2", o.Str("Version")
	})
	shut(open("2"))
	w.MustLull("revert", app)
	shut(open("1"))
	w.MustLull("remove", app)
	w.MustLull("gc")
	if _, err := os.Lstat(store); !os.IsNotExist(err) {
		t.Errorf("the runtime is still there after the removal of the only package with it: %v", err)
	}
}
