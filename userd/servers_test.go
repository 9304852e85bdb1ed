package userd

import (
	"fmt"
	"strings"
	"testing"
	"time"

	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/dbus/bustest"
	"github.com/lull/lull/e2e/require"
)

func (w *world) must(name string, args ...string) string {
	w.t.Helper()
	out, err := w.command(name, args...).CombinedOutput()
	if err != nil {
		w.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

const xfceClass = "xfce4-notifyd"

// windows are the notices that Xfce's server shows.
func (w *world) windows() []string {
	out, _ := w.command("xdotool", "search", "--onlyvisible", "--class", xfceClass).Output() // it fails where there is none
	return strings.Fields(string(out))
}

func (w *world) untilWindows(n int) []string {
	w.t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if list := w.windows(); len(list) == n {
			return list
		}
		if time.Now().After(end) {
			w.t.Fatalf("%d notices are shown, not %d", len(w.windows()), n)
		}
	}
}

// click presses a button of the only notice with the mouse: they stand side by side.
func (w *world) click(button, of int) {
	w.t.Helper()
	id := w.untilWindows(1)[0]
	var x, y, width, height, screen int
	text := w.must("xdotool", "getwindowgeometry", "--shell", id)
	for line := range strings.Lines(text) {
		for name, to := range map[string]*int{"X": &x, "Y": &y, "WIDTH": &width, "HEIGHT": &height, "SCREEN": &screen} {
			fmt.Sscanf(line, name+"=%d", to)
		}
	}
	if width == 0 {
		w.t.Fatalf("xdotool reports the geometry %q of window %s, want a width above 0", text, id)
	}
	w.must("xdotool", "mousemove", fmt.Sprint(x+width*(2*button+1)/(2*of)), fmt.Sprint(y+height-32), "click", "1")
}

// Xfce's server has other capabilities and habits than dunst.
func TestNoticeOnXfce(t *testing.T) {
	require.Program(t, "xdotool")
	w := newWorld(t)
	w.xfce()
	r := refresh("r1", "firefox", "Firefox", "153")
	r.Urgency, r.Notes = "security", "Opens <b>files</b> of version 3 & closes a hole through which a picture could run programs."
	a := w.startAgent(r)
	w.helper()
	p := w.until("it is shown", one)
	if !strings.HasPrefix(p.NotificationServer, "Xfce Notify Daemon ") {
		t.Errorf("got %+v, want notification server that begins with %q", p, "Xfce Notify Daemon ")
	}
	w.untilWindows(1)
	w.picture("xfce-ready")
	w.click(2, 3) // OK
	a.answered("r1 when-closed")
	w.until("it is gone", no)
	w.untilWindows(0)
	if err := bus.NewSessionProxy(w.conn, bus.SessionPath).Show(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.untilWindows(1)

	// Replaced, not stacked.
	r.ID, r.ToVersion, r.ToRevision = "r2", "154", 3
	a.set(r)
	a.say(bus.HelperPending{Refresh: r})
	w.until("it is replaced", func(p bus.SessionProperties) bool { return one(p) && p.Notices[0].Refresh == "r2" })
	w.untilWindows(1)
	w.click(1, 3) // When I close it
	a.answered("r2 when-closed")
	w.untilWindows(0)

	// Do not disturb.
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	w.must("xfconf-query", "-c", "xfce4-notifyd", "-p", "/do-not-disturb", "-n", "-t", "bool", "-s", "true")
	gimp := refresh("r3", "gimp", "GIMP", "3.0")
	a.set(r, gimp)
	w.helper()
	time.Sleep(200 * time.Millisecond) // what must not come has the time to
	w.until("nothing is shown", no)
	w.must("xfconf-query", "-c", "xfce4-notifyd", "-p", "/do-not-disturb", "-s", "false")
	w.until("it was put off until now", one)
	w.untilWindows(1)
	a.set(r)
	a.say(bus.HelperWithdrawn{ID: "r3", Reason: "exited"})
	w.untilWindows(0)

	// A launch that waits.
	w.launchWaits(a, "xfce-waits", func(n int) { w.untilWindows(n) })
}

// launchWaits shows a launch with its progress, until it is over.
func (w *world) launchWaits(a *agent, picture string, shown func(int)) {
	w.t.Helper()
	step := bus.ExportRefresh(nil, bus.RefreshProperties{ID: "r9", Step: "copy"})
	if err := a.server.Export(bus.PackagePath("notes"), bus.ExportPackage(bus.PackageProperties{Title: "Notes", Refresh: bus.RefreshPath("r9")})); err != nil {
		w.t.Fatal(err)
	}
	if err := a.server.Export(bus.RefreshPath("r9"), step); err != nil {
		w.t.Fatal(err)
	}
	launcher, err := bus.Dial(w.t.Context(), w.session, false)
	if err != nil {
		w.t.Fatal(err)
	}
	defer launcher.Close()
	if err := bus.NewSessionProxy(launcher, bus.SessionPath).LaunchWaits(w.t.Context(), "notes", "refresh-in-progress"); err != nil {
		w.t.Fatal(err)
	}
	w.until("it is shown that it waits", func(p bus.SessionProperties) bool { return one(p) && p.Notices[0].Instance == "notes" })
	shown(1)
	step.Update(func(p *bus.RefreshProperties) { p.Step = "health" })
	if picture != "" {
		w.picture(picture)
	}
	launcher.Close()
	w.until("it is over", no)
	shown(0)
}

func TestDoNotDisturbOnDunst(t *testing.T) {
	w := newWorld(t)
	w.dunst()
	w.ctl("set-paused", "true")
	a := w.startAgent(refresh("r1", "firefox", "Firefox", "153"))
	w.helper()
	time.Sleep(200 * time.Millisecond) // what must not come has the time to
	w.until("nothing is shown", no)
	if n := w.ctl("count", "waiting"); n != "0" {
		t.Errorf("dunst was given %s notices, want 0", n)
	}
	w.ctl("set-paused", "false")
	w.until("it was put off until now", one)
	w.displayed("1")
	a.set()
	a.say(bus.HelperWithdrawn{ID: "r1", Reason: "exited"})
	w.until("it is gone", no)
	w.launchWaits(a, "waits", func(n int) { w.displayed(fmt.Sprint(n)) })

	// A shutdown is announced even in a quiet time.
	w.ctl("set-paused", "true")
	a.say(bus.HelperShuttingDown{Names: []string{"Notes"}, Left: 8_000_000})
	w.until("the warning is given", func(p bus.SessionProperties) bool {
		return one(p) && strings.HasPrefix(p.Notices[0].Text, "Do not switch off yet.")
	})
	a.say(bus.HelperShuttingDown{})
	w.until("and taken back", no)
	w.ctl("set-paused", "false")
}

// Long texts, and other languages, fit.
func TestGermanNotices(t *testing.T) {
	for _, server := range []string{"dunst", "xfce"} {
		t.Run(server, func(t *testing.T) {
			t.Setenv("LANG", "de_DE.UTF-8")
			for _, name := range []string{"LC_ALL", "LC_MESSAGES", "LANGUAGE"} {
				t.Setenv(name, "")
			}
			w := newWorld(t)
			if server == "dunst" {
				w.dunst()
			} else {
				w.xfce()
			}
			r := refresh("r1", "gimp", "GNU-Bildbearbeitungsprogramm mit einem langen Namen", "2.10.36-build4711+ubuntu22.04.1")
			r.Urgency, r.AtDeadline = "security", "terminate"
			r.Notes = "Öffnet Dateien der Version 3 und schließt eine Lücke, durch die ein Bild Programme ausführen konnte. Dank an alle, die uns davon erzählt haben, und an ihre Katzen."
			a := w.startAgent(r)
			w.helper()
			p := w.until("it is shown", one)
			if text := p.Notices[0].Text; !strings.Contains(text, " ist bereit. ") || !strings.Contains(text, "Speichern Sie vorher Ihre Arbeit.") {
				t.Errorf("got %s, want %q in the text and %q in the text", text, " ist bereit. ", "Speichern Sie vorher Ihre Arbeit.")
			}
			w.picture("german-" + server)
			a.say(bus.HelperShuttingDown{Names: []string{"Notizen", "Karten"}, Left: 120_000_000})
			w.until("both are shown", func(p bus.SessionProperties) bool { return len(p.Notices) == 2 })
			w.picture("german-shutdown-" + server)
		})
	}
}

func TestOnBroker(t *testing.T) { bustest.OnBroker(t) }
