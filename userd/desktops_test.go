package userd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/dbus/bustest"
	"github.com/lull/lull/userd/notify"
)

// TestDesktop shows each kind of notice on a real desktop. It runs inside a session of
// that desktop, with only the agent's part played, and only where LULL_DESKTOP names
// the desktop: gnome, plasma, mako or swaync. With LULL_PICTURES it keeps a picture of
// each situation in that directory, taken by the command LULL_SHOT, whose first
// argument is the file. The command LULL_LIST opens and closes the list of notifications.
//
// On GNOME, whose shell was started with --unsafe-mode, it counts banners and entries
// of the list. Elsewhere the notification server's own account has to do.
func TestDesktop(t *testing.T) {
	name := os.Getenv("LULL_DESKTOP")
	if name == "" {
		t.Skip("this is a session of no desktop that LULL_DESKTOP names")
	}
	d := newDesktopScene(t, name)
	for _, s := range []struct {
		name string
		play func(*desktopScene)
	}{
		{"new", (*desktopScene).new}, {"focused", (*desktopScene).focused}, {"reminder", (*desktopScene).reminder}, {"deadline", (*desktopScene).deadline},
		{"launch", (*desktopScene).launch}, {"quiet", (*desktopScene).quiet}, {"fullscreen", (*desktopScene).fullscreen},
		{"locked", (*desktopScene).locked}, {"restarted", (*desktopScene).restarted},
	} {
		t.Run(s.name, func(t *testing.T) {
			d.t, d.world.t = t, t
			d.world.conn, d.system = d.connection(), bustest.Start(t)
			if err := os.RemoveAll(filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), "lull-userd")); err != nil {
				t.Fatal(err)
			}
			s.play(d)
		})
	}
}

type desktopScene struct {
	*world
	name   string
	before int // banners that GNOME had shown
	moves  int
}

func newDesktopScene(t *testing.T, name string) *desktopScene {
	d := &desktopScene{world: &world{t: t, session: sessionBus("")}, name: name}
	d.world.conn = d.connection()
	d.count()
	if name == "gnome" {
		d.before = len(d.banners())
	}
	return d
}

func (d *desktopScene) connection() *dbus.Conn {
	d.t.Helper()
	conn, err := dbus.Connect(d.session, dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { conn.Close() })
	return conn
}

// eval evaluates JavaScript in GNOME's shell.
func (d *desktopScene) eval(js string) string {
	d.t.Helper()
	var ok bool
	var out string
	err := d.world.conn.Object("org.gnome.Shell", "/org/gnome/Shell").Call("org.gnome.Shell.Eval", 0, js).Store(&ok, &out)
	if err != nil || !ok {
		d.t.Fatalf("cannot evaluate %q in GNOME's shell: success %v, result %q, error %v; want success and no error", js, ok, out, err)
	}
	return strings.Trim(out, `"`)
}

// shellsOwn is a notice that GNOME's shell posts some time after its start where no display
// manager can lock the screen. It is kept out of the queue of banners: when a banner is
// hidden at once, GNOME 48 does not show the next one in the queue before another event.
const shellsOwn = "Screen Lock disabled"

// count has GNOME's shell count its banners from now on.
func (d *desktopScene) count() {
	if d.name == "gnome" {
		d.eval(`Main.overview.hide(); Main.messageTray.getSources().forEach(s => s.destroy());
			const {Clutter} = imports.gi;
			global.lullPointer ??= (Clutter.get_default_backend?.() ?? global.stage.get_context().get_backend()).get_default_seat().create_virtual_device(Clutter.InputDeviceType.POINTER_DEVICE);
			if (!global.lullBanners) { global.lullBanners = []; const tray = Main.messageTray, show = tray._showNotification, request = tray._onNotificationRequestBanner;
			tray._onNotificationRequestBanner = function(source, n) { if (n.title !== "` + shellsOwn + `") request.call(this, source, n); };
			tray._showNotification = function() { global.lullBanners.push(this._notificationQueue[0]?.title); show.call(this); }; } 1`)
	}
}

// move moves the pointer: banners stay as long as there is no sign of a person.
func (d *desktopScene) move() {
	if d.name == "gnome" {
		d.moves++
		d.eval(fmt.Sprintf("global.lullPointer.notify_absolute_motion(imports.gi.Clutter.CURRENT_TIME, 200, %d); 1", 600+d.moves%50))
	}
}

// banners are the titles of the banners that GNOME has shown since the last call of seen.
func (d *desktopScene) banners() []string {
	list := strings.Split(d.eval(`global.lullBanners.join("|")`), "|")
	return slices.DeleteFunc(list[min(d.before, len(list)):], func(s string) bool { return s == "" })
}

// entries are the titles in GNOME's list of notifications.
func (d *desktopScene) entries() []string {
	list := strings.Split(d.eval(`Main.messageTray.getSources().flatMap(s => s.notifications.map(n => n.title)).join("|")`), "|")
	return slices.DeleteFunc(list, func(s string) bool { return s == "" || s == shellsOwn })
}

// seen waits until GNOME has shown these banners since the last call, and no others,
// and has these entries in its list. Elsewhere the helper's account has to do.
func (d *desktopScene) seen(banners, entries []string) {
	d.t.Helper()
	if d.name != "gnome" {
		d.until("what is up is up", func(p bus.SessionProperties) bool { return len(p.Notices) == len(entries) })
		return
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		d.move()
		b, e := d.banners(), d.entries()
		if slices.Equal(b, banners) && slices.Equal(e, entries) {
			break
		}
		if time.Now().After(end) {
			d.t.Fatalf("banners %q, entries %q; want %q, %q", b, e, banners, entries)
		}
	}
	d.before += len(banners)
}

// shot takes a screenshot after the animations have had time to end.
func (d *desktopScene) shot(name string) {
	d.t.Helper()
	dir := os.Getenv("LULL_PICTURES")
	if dir == "" {
		return
	}
	time.Sleep(1500 * time.Millisecond)
	d.run(os.Getenv("LULL_SHOT"), filepath.Join(dir, d.name+"-"+name+".png"))
}

func (d *desktopScene) run(name string, args ...string) string {
	d.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		d.t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// list keeps a picture of the desktop's list of notifications.
func (d *desktopScene) list(name string) {
	d.t.Helper()
	if os.Getenv("LULL_PICTURES") == "" {
		return
	}
	if open := os.Getenv("LULL_LIST"); open != "" {
		for range 14 { // the banner goes first
			d.move()
			time.Sleep(500 * time.Millisecond)
		}
		d.run(open, "open")
		d.shot(name)
		d.run(open, "close")
	}
}

// start runs the helper, with the real logind.
func (d *desktopScene) start() {
	d.t.Helper()
	r, wr, err := os.Pipe()
	if err != nil {
		d.t.Fatal(err)
	}
	defer r.Close()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, Options{Bus: d.system, Display: display(), Ready: wr, Version: "test", Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	}()
	d.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	d.t.Cleanup(func() { d.stop() })
	if line, err := bufio.NewReader(r).ReadString('\n'); line != "READY\n" {
		d.t.Fatalf("got %q %v, want line %q", line, err, "READY\n")
	}
}

// remembered has the helper find that it showed the revision that long ago.
func (d *desktopScene) remembered(ago time.Duration, revision uint32) {
	newMemory("", d.session, slog.Default()).write(map[string]notify.Memory{"firefox": {Revision: revision, Shown: time.Now().Add(-ago)}})
}

// waiting is a refresh that has waited so long and will wait so much longer.
func waiting(since, left time.Duration) bus.PendingRefresh {
	r := refresh("r1", "firefox", "Firefox", "153")
	now := time.Now()
	r.Since, r.Deadline = uint64(now.Add(-since).UnixMicro()), uint64(now.Add(left).UnixMicro())
	r.Notes = "Opens tabs faster & reads aloud."
	r.DesktopEntry = os.Getenv("LULL_DESKTOP_ENTRY")
	return r
}

var ready = []string{"Firefox 153 is ready"}

// new: the first notice, a security update in its place, then the news that it is done.
func (d *desktopScene) new() {
	r := waiting(0, 14*24*time.Hour)
	a := d.startAgent(r)
	d.start()
	d.seen(ready, ready)
	if d.name == "gnome" { // as the pointer would; the banner stays for its picture
		d.eval(`Main.messageTray._expandBanner(true); Main.messageTray._updateNotificationTimeout(60000); 1`)
	}
	d.shot("new")
	if d.name == "gnome" {
		d.eval(`Main.messageTray._updateNotificationTimeout(1000); 1`)
	}
	d.list("list")
	r.ID, r.ToVersion, r.ToRevision = "r2", "154", 3
	a.set(r)
	a.say(bus.HelperPending{Refresh: r})
	d.until("the text is kept true", func(p bus.SessionProperties) bool { return one(p) && p.Notices[0].Refresh == "r2" })
	r.Urgency = "security"
	a.set(r)
	a.say(bus.HelperPending{Refresh: r})
	d.until("it is said that it fixes something", func(p bus.SessionProperties) bool { return one(p) && strings.Contains(p.Notices[0].Text, "security") })
	if d.name == "gnome" {
		// A replacement that a person need not see may show a banner or not.
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			d.move()
			if b := d.banners(); len(b) > 0 && len(d.entries()) == 1 && d.eval(`Main.messageTray._notification?.body ?? ""`) != "" {
				d.before += len(b)
				break
			}
			if time.Now().After(end) {
				d.t.Fatalf("no banner of a security update: %q %q", d.banners(), d.entries())
			}
		}
	}
	d.shot("security")
	a.set()
	a.say(bus.HelperWithdrawn{ID: "r2", Reason: "exited"})
	d.until("it is gone", no)
	a.say(bus.HelperUpdated{Refresh: bus.UpdatedRefresh{ID: "r2", Instance: "firefox", Name: "Firefox", ToVersion: "154"}})
	d.until("the news is told", one)
	if d.name == "gnome" {
		d.seen([]string{"Firefox was updated"}, []string{"Firefox was updated"})
	}
	d.shot("updated")
	if d.name == "gnome" { // others may send no signal when a news notice leaves the screen
		d.until("it does not stay", no)
	}
	if err := d.stop(); err != nil {
		d.t.Error(err)
	}
	if d.name == "gnome" {
		d.seen(nil, nil)
	}
}

// focused: the notice is seen while its application has the focus.
func (d *desktopScene) focused() {
	if d.name != "gnome" {
		d.t.Skip("only GNOME treats the notices of the application in front in another way")
	}
	d.window(false)
	r := waiting(0, 14*24*time.Hour)
	r.DesktopEntry = d.eval(`Shell.WindowTracker.get_default().focus_app?.get_id() ?? ""`)
	d.startAgent(r)
	d.start()
	d.seen(ready, ready)
	d.shot("focused")
}

// windowScript is a program of GNOME with a window, which has nothing of a desktop but what
// the shell depends on; windowEntry is its menu entry.
const (
	windowScript = `imports.gi.versions.Gtk = "4.0";
const {Gtk, Gio} = imports.gi;
const app = new Gtk.Application({application_id: "org.lull.window", flags: Gio.ApplicationFlags.NON_UNIQUE});
app.connect("activate", () => new Gtk.ApplicationWindow({application: app, title: "Window", default_width: 600, default_height: 400}).present());
app.run([]);`
	windowEntry = "[Desktop Entry]\nType=Application\nName=Window\nExec=gjs\n"
)

// window opens a window of GNOME's and waits for it to be in front.
func (d *desktopScene) window(full bool) {
	d.t.Helper()
	home, err := os.UserHomeDir()
	if err != nil {
		d.t.Fatal(err)
	}
	entry := filepath.Join(home, ".local/share/applications/org.lull.window.desktop")
	if err := errors.Join(os.MkdirAll(filepath.Dir(entry), 0o755), os.WriteFile(entry, []byte(windowEntry), 0o644)); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { os.Remove(entry) })
	for end := time.Now().Add(30 * time.Second); d.eval(`!!Shell.AppSystem.get_default().lookup_app("org.lull.window.desktop")`) != "true"; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			d.t.Fatal("GNOME does not find the menu entry of the window")
		}
	}
	cmd := exec.Command("gjs", "-c", windowScript)
	start(d.t, cmd)
	for end := time.Now().Add(30 * time.Second); d.eval(`global.display.focus_window?.get_pid() ?? 0`) != fmt.Sprint(cmd.Process.Pid); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			d.t.Fatal("no window comes to the front")
		}
		d.eval(`Main.overview.hide(); global.get_window_actors().map(a => a.meta_window).find(w => w.get_pid() == ` + fmt.Sprint(cmd.Process.Pid) + `)?.activate(global.get_current_time()); 1`)
	}
	if full {
		d.eval(`global.display.focus_window.make_fullscreen(); 1`)
		for end := time.Now().Add(30 * time.Second); d.eval(`Main.layoutManager.primaryMonitor.inFullscreen`) != "true"; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				d.t.Fatal("it does not fill the screen")
			}
		}
	}
}

func (d *desktopScene) reminder() {
	d.remembered(2*24*time.Hour, 2)
	d.startAgent(waiting(25*time.Hour+2*24*time.Hour, 11*24*time.Hour))
	d.start()
	d.seen(ready, ready)
	d.shot("reminder")
}

func (d *desktopScene) deadline() {
	d.remembered(2*24*time.Hour, 2)
	r := waiting(12*24*time.Hour+time.Hour, 47*time.Hour)
	r.AtDeadline = "terminate"
	d.startAgent(r)
	d.start()
	d.seen(ready, ready)
	d.shot("deadline")
}

// launch: a click that has to wait, with progress.
func (d *desktopScene) launch() {
	a := d.startAgent()
	d.start()
	d.launchWaits(a, "", func(n int) {
		if n == 1 {
			d.shot("launch")
		}
	})
	if d.name == "gnome" {
		if b := d.banners(); !slices.Contains(b, "Notes is about to start") {
			d.t.Errorf("the banners are %q, want one of them to be %q", b, "Notes is about to start")
		}
		d.before += len(d.banners())
	}
	d.seen(nil, nil)
}

// quiet: nothing comes while the person does not want to be disturbed.
func (d *desktopScene) quiet() {
	set := map[string][]string{
		"gnome": {"gsettings", "set", "org.gnome.desktop.notifications", "show-banners", "false", "true"},
		"mako":  {"makoctl", "mode", "-t", "do-not-disturb"},
	}[d.name]
	if d.name != "gnome" {
		d.t.Skipf("%s has no property for it that a test can set (%q)", d.name, set)
	}
	d.run(set[0], append(set[1:4:4], set[4])...)
	d.startAgent(waiting(0, 14*24*time.Hour))
	d.start()
	d.seen(nil, nil)
	d.run(set[0], append(set[1:4:4], set[5])...)
	d.seen(ready, ready)
}

// fullscreen: the desktop itself holds the banner back.
func (d *desktopScene) fullscreen() {
	if d.name != "gnome" {
		d.t.Skip("no way to make a window fill the screen from here")
	}
	d.window(true)
	d.startAgent(waiting(0, 14*24*time.Hour))
	d.start()
	d.seen(nil, ready)
	d.eval(`global.display.focus_window.unmake_fullscreen(); 1`)
	d.seen(ready, ready)
}

func (d *desktopScene) locked() {
	lock := func(yes bool) {
		d.t.Helper()
		for _, id := range strings.Fields(d.run("loginctl", "show-user", fmt.Sprint(os.Getuid()), "-p", "Sessions", "--value")) {
			var path dbus.ObjectPath
			conn, err := dbus.ConnectSystemBus()
			if err != nil {
				d.t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.Object("org.freedesktop.login1", "/org/freedesktop/login1").Call("org.freedesktop.login1.Manager.GetSession", 0, id).Store(&path); err != nil {
				continue // it has ended
			}
			call := conn.Object("org.freedesktop.login1", path).Call("org.freedesktop.login1.Session.SetLockedHint", 0, yes)
			if call.Err != nil {
				d.t.Logf("session %s: %v", id, call.Err) // one of another class
			}
		}
	}
	lock(true)
	defer lock(false)
	d.startAgent(waiting(0, 14*24*time.Hour))
	d.start()
	d.until("it is known", func(p bus.SessionProperties) bool { return p.Locked })
	d.seen(nil, nil)
	lock(false)
	d.seen(ready, ready)
}

// restarted: the desktop's shell is restarted, as at a log-in, beside the
// helper.
func (d *desktopScene) restarted() {
	unit := os.Getenv("LULL_SHELL_UNIT")
	if unit == "" {
		d.t.Skip("LULL_SHELL_UNIT names no unit of the shell that can be restarted")
	}
	d.startAgent(waiting(0, 14*24*time.Hour))
	d.start()
	d.seen(ready, ready)
	d.run("systemctl", "--user", "stop", unit)
	d.until("the server is missed", func(p bus.SessionProperties) bool { return p.NotificationServer == "" && no(p) })
	d.run("systemctl", "--user", "start", unit)
	d.until("it is up again", func(p bus.SessionProperties) bool { return p.NotificationServer != "" && one(p) })
	if d.name == "gnome" {
		if e := d.entries(); !slices.Equal(e, ready) {
			d.t.Errorf("got %q, want %v", e, ready)
		}
	}
	d.shot("restarted")
}
