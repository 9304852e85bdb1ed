package userd

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bus "github.com/lull/lull/dbus"
)

func one(p bus.SessionProperties) bool { return len(p.Notices) == 1 }
func no(p bus.SessionProperties) bool  { return len(p.Notices) == 0 }

func TestNoticeOnARealServer(t *testing.T) {
	w := newWorld(t)
	w.dunst()
	a := w.startAgent(refresh("r1", "firefox", "Firefox", "153"))
	w.helper()
	p := w.until("it is shown", one)
	if p.Notices[0].Text != "Firefox 153 is ready. It will be installed when you close it. Save your work before you restart it." ||
		!strings.HasPrefix(p.NotificationServer, "dunst ") || !p.AgentPresent {
		t.Errorf("got the properties %+v, want the whole text of the notice of Firefox 153, a server that begins with \"dunst \", and an agent", p)
	}
	w.displayed("1")
	w.picture("ready")

	w.press("When I close it")
	a.answered("r1 when-closed")
	w.until("it is gone", no)
	w.displayed("0")

	// Re-shown on request, and a click on the notice itself.
	if err := bus.NewSessionProxy(w.conn, bus.SessionPath).Show(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.displayed("1")
	w.ctl("action", "0")
	a.answered("r1 when-closed")
	w.displayed("0")

	a.set()
	a.say(bus.HelperWithdrawn{ID: "r1", Reason: "exited"})
	a.say(bus.HelperUpdated{Refresh: bus.UpdatedRefresh{ID: "r1", Instance: "firefox", Name: "Firefox", ToVersion: "153"}})
	p = w.until("the news is shown", one)
	if p.Notices[0].Text != "Firefox was updated. It is now version 153." {
		t.Errorf("got %+v, want text %q", p.Notices, "Firefox was updated. It is now version 153.")
	}
	w.displayed("1")
	w.picture("updated")
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	w.displayed("0")
}

func TestWithdrawnAndReplacedOnARealServer(t *testing.T) {
	w := newWorld(t)
	w.dunst()
	first, second := refresh("r1", "firefox", "Firefox", "153"), refresh("r2", "gimp", "GNU Image Manipulation Program", "2.10.36-build4711+ubuntu22.04.1")
	second.Urgency = "security"
	second.Notes = "Opens <b>files</b> of version 3 & closes a hole through which a picture could run programs. Thanks to all who have told us of it, and to their cats."
	a := w.startAgent(first, second)
	w.helper()
	w.until("both are shown", func(p bus.SessionProperties) bool { return len(p.Notices) == 2 })
	w.displayed("2")
	w.picture("two")

	first.ID, first.ToVersion, first.ToRevision = "r3", "154", 3
	a.set(first, second)
	a.say(bus.HelperPending{Refresh: first})
	w.until("one is replaced", func(p bus.SessionProperties) bool { return p.Notices[0].Refresh == "r3" })
	w.displayed("2")

	a.set(second)
	a.say(bus.HelperWithdrawn{ID: "r3", Reason: "exited"})
	w.until("one is gone", one)
	w.displayed("1")

	// Another server, another life.
	d := w.command("dunstctl", "close-all") // as the person may
	if err := d.Run(); err != nil {
		t.Fatal(err)
	}
	w.until("closed by hand", no)
	time.Sleep(50 * time.Millisecond)
	w.displayed("0") // and it stays so
}

func TestServerRestarts(t *testing.T) {
	w := newWorld(t)
	w.startAgent(refresh("r1", "firefox", "Firefox", "153"))
	w.helper() // before there is a server
	first := w.dunst()
	w.until("it is shown", one)
	w.displayed("1")
	end(first)
	w.until("the server is missed", func(p bus.SessionProperties) bool { return p.NotificationServer == "" && no(p) })
	w.dunst()
	w.until("it is shown again", one)
	w.displayed("1")

	// A server that is paused keeps what it gets; so does the helper.
	w.ctl("set-paused", "true")
	w.displayed("0")
	w.ctl("set-paused", "false")
	w.displayed("1")

	w.agent.server.Close()
	w.until("the agent is missed", func(p bus.SessionProperties) bool { return !p.AgentPresent })
	w.startAgent(refresh("r1", "firefox", "Firefox", "153"))
	w.until("it is back", func(p bus.SessionProperties) bool { return p.AgentPresent && one(p) })
	w.displayed("1")
}

func TestRestartNowStartsTheApplicationAgain(t *testing.T) {
	w := newWorld(t)
	w.dunst()
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	launcher := filepath.Join(dir, "launcher")
	script := "#!/bin/sh\necho $1 $LULL_ROOT $LULL_RUN_DIR > " + out + ".new && mv " + out + ".new " + out + "\nexit 3\n"
	if err := os.WriteFile(launcher, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("LULL_LAUNCHER", launcher)
	a := w.startAgent(refresh("r1", "firefox", "Firefox", "153")) // its process has just ended
	w.helper()
	w.until("it is shown", one)
	w.press("Restart now")
	a.answered("r1 restart-now")
	w.until("it is gone", no)
	a.set()
	a.say(bus.HelperWithdrawn{ID: "r1", Reason: "exited"})
	a.say(bus.HelperUpdated{Refresh: bus.UpdatedRefresh{ID: "r1", Instance: "firefox", Name: "Firefox", ToVersion: "153"}})
	w.until("it says so", func(p bus.SessionProperties) bool {
		return one(p) && p.Notices[0].Text == "Firefox was updated. It is now version 153. It is starting again."
	})
	var b []byte
	for stop := time.Now().Add(10 * time.Second); time.Now().Before(stop) && b == nil; time.Sleep(5 * time.Millisecond) {
		b, _ = os.ReadFile(out)
	}
	if string(b) != "firefox /its/root /its/run\n" {
		t.Errorf("the launcher was called with %q; want content %q", b, "firefox /its/root /its/run\n")
	}
}

// TestTwoAgents: one helper serves the system's agent and the user's own. Both have an
// instance of one name, and each answer, restart and withdrawal goes to the right one, also
// after the user has logged out and in.
func TestTwoAgents(t *testing.T) {
	w := newWorld(t)
	w.dunst()
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	launcher := filepath.Join(dir, "launcher")
	script := "#!/bin/sh\necho $1 $LULL_ROOT $LULL_RUN_DIR $LULL_BUS > " + out + ".new && mv " + out + ".new " + out + "\n"
	if err := os.WriteFile(launcher, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("LULL_LAUNCHER", launcher)
	both := func(p bus.SessionProperties) bool { return len(p.Notices) == 2 }
	system := w.startAgent(refresh("r1", "firefox", "Firefox", "153"))
	own := w.startAgentOn(w.session, "/own", refresh("r1", "firefox", "Firefox", "154"))
	w.helper()
	p := w.until("both are shown", both)
	w.displayed("2")
	if a, b := p.Notices[0], p.Notices[1]; a.Instance != "firefox" || b.Instance != "firefox" || a.ID == b.ID {
		t.Errorf("got the notices %+v, want two of firefox with different IDs", p.Notices)
	}
	if err := w.stop(); err != nil { // log-out
		t.Fatal(err)
	}
	w.displayed("0")
	w.helper()
	w.until("both are shown again", both)

	system.set()
	system.say(bus.HelperWithdrawn{ID: "r1", Reason: "exited"})
	w.until("the system's is gone", one)
	w.press("Restart now")
	own.answered("r1 restart-now")
	own.set()
	own.say(bus.HelperWithdrawn{ID: "r1", Reason: "exited"})
	own.say(bus.HelperUpdated{Refresh: bus.UpdatedRefresh{ID: "r1", Instance: "firefox", Name: "Firefox", ToVersion: "154"}})
	w.until("it says so", func(p bus.SessionProperties) bool {
		return one(p) && p.Notices[0].Text == "Firefox was updated. It is now version 154. It is starting again."
	})
	var b []byte
	for stop := time.Now().Add(10 * time.Second); time.Now().Before(stop) && b == nil; time.Sleep(5 * time.Millisecond) {
		b, _ = os.ReadFile(out)
	}
	if want := "firefox /own/root /own/run " + w.session + "\n"; string(b) != want {
		t.Errorf("the launcher was called with %q, want %q", b, want)
	}

	// Either may go.
	system.server.Close()
	w.startAgent(refresh("r2", "gimp", "GIMP", "3"))
	w.until("the next one is heard", func(p bus.SessionProperties) bool { return p.AgentPresent && both(p) })
	own.server.Close()
	w.until("one agent is left", func(p bus.SessionProperties) bool { return p.AgentPresent })
	if len(system.answers) > 0 {
		t.Errorf("the system's agent got the answer %q, want none", <-system.answers)
	}
}

func TestHelperRestarts(t *testing.T) {
	w := newWorld(t)
	w.dunst()
	a := w.startAgent(refresh("r1", "firefox", "Firefox", "153"))
	w.helper()
	w.until("it is shown", one)
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	w.displayed("0")
	w.helper()
	w.until("it is shown again", one)
	w.press("When I close it")
	a.answered("r1 when-closed")
	w.until("it is gone", no)
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	w.helper()
	time.Sleep(200 * time.Millisecond)
	w.until("nobody is told twice", no)
	w.displayed("0")
}

func TestMainRefuses(t *testing.T) {
	cases := []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--nonsense"}, 64, "flag provided but not defined"},
		{[]string{"now"}, 64, `lull-userd: cannot use "now": there are no arguments`},
		{[]string{"--log-level=loud"}, 64, `lull-userd: cannot use "loud" as a log level`},
		{[]string{"--ready-fd=999"}, 64, "lull-userd: cannot use descriptor 999"},
		{[]string{"--session-bus=unix:path=/nonexistent"}, 1, "lull-userd: cannot reach the bus at unix:path=/nonexistent"},
		{[]string{"--help"}, 0, "usage: lull-userd"},
		{[]string{"--version"}, 0, "lull-userd "},
	}
	for _, c := range cases {
		var out, errOut bytes.Buffer
		code := Main(t.Context(), c.args, &out, &errOut)
		if code != c.code || !strings.Contains(out.String()+errOut.String(), c.want) {
			t.Errorf("Main(%q): got status %d, want %d and %q: %s%s", c.args, code, c.code, c.want, out.String(), errOut.String())
		}
	}
}

func TestAddresses(t *testing.T) {
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "")
	t.Setenv("XDG_RUNTIME_DIR", "/run/user/7")
	cases := [][6]string{ // agent, session, logind as given; as used
		{"", "", "", "", "", ""},
		{"system", "session", "system", "", "", ""},
		{"unix:a", "unix:b", "", "unix:a", "unix:b", "unix:a"},
		{"unix:a", "unix:b", "system", "unix:a", "unix:b", ""},
		{"session", "unix:b", "", "unix:b", "unix:b", ""},
		{"session", "", "unix:c", "unix:path=/run/user/7/bus", "", "unix:c"},
	}
	for _, c := range cases {
		a, s, l := addresses(c[0], c[1], c[2])
		if a != c[3] || s != c[4] || l != c[5] {
			t.Errorf("addresses(%q): got %q, %q, %q, want %q", c[:3], a, s, l, c[3:])
		}
	}
}
