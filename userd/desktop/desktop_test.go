package desktop

import (
	"context"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	fdo "github.com/esiqveland/notify"
	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/words"
	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/dbus/bustest"
	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/userd/notify"
)

func TestOneNoticeForEachInstance(t *testing.T) {
	address := start(t)
	s := newServer(t, address, allCaps...).own()
	d := newDesk(t, address, Options{})
	d.Do(notify.Show{Notice: notice("firefox", 1)})
	d.Do(notify.Show{Notice: notice("gimp", 2)})
	s.until("both are shown", func() bool { return s.id("firefox is ready") != 0 && s.id("gimp is ready") != 0 })

	n := notice("firefox", 3)
	n.Summary = "firefox 2 is ready"
	d.Do(notify.Show{Notice: n})
	s.until("one is replaced", func() bool { return s.id("firefox 2 is ready") != 0 })
	s.mu.Lock()
	if len(s.shown) != 2 {
		t.Errorf("stacked: got %v, want 2 shown", s.shown)
	}
	s.mu.Unlock()
	d.eventually("the notices are listed", func(p bus.SessionProperties) bool {
		return len(p.Notices) == 2 && p.Notices[0].Instance == "firefox" && p.Notices[0].Refresh == "r-firefox" &&
			p.Notices[0].ID != 0 && p.Notices[0].Text == "firefox 2 is ready. Close it & wait." &&
			p.NotificationServer == "hostile 0.1"
	})

	d.Do(notify.Close{Instance: "gimp"})
	s.until("it is withdrawn", func() bool { return len(s.shown) == 1 })
	none[notify.Closed](d) // we did that ourselves
	if err := d.stop(); err != nil {
		t.Error(err)
	}
	s.until("nothing is left after the end", func() bool { return len(s.shown) == 0 })
}

func TestButtonsAndClosing(t *testing.T) {
	address := start(t)
	s := newServer(t, address, allCaps...).own()
	d := newDesk(t, address, Options{})
	d.Do(notify.Show{Notice: notice("firefox", 1)})
	s.until("it is shown", func() bool { return len(s.shown) == 1 })
	id := s.find("firefox is ready")

	s.emit("ActionInvoked", id, notify.RestartNow)
	if e := wait[notify.Invoked](d); e.Instance != "firefox" || e.Action != notify.RestartNow {
		t.Errorf("got %+v, want instance %q and action %v", e, "firefox", notify.RestartNow)
	}
	s.emit("NotificationClosed", id, uint32(1)) // expired
	if e := wait[notify.Closed](d); e.Instance != "firefox" || e.Serial != 1 {
		t.Errorf("got %+v, want instance %q and serial 1", e, "firefox")
	}
	d.eventually("no notice is listed", func(p bus.SessionProperties) bool { return len(p.Notices) == 0 })
	s.emit("ActionInvoked", id, notify.Later) // in the history
	if e := wait[notify.Invoked](d); e.Action != notify.Later {
		t.Errorf("got %+v, want action %v", e, notify.Later)
	}
	d.Do(notify.Close{Instance: "firefox"})
	s.until("it is taken out of the history", func() bool { return slices.Contains(s.calls, "close firefox is ready") })
	s.emit("ActionInvoked", id, notify.RestartNow)
	none[notify.Invoked](d)

	d.Do(notify.Show{Notice: notice("gimp", 2)})
	s.until("the next is shown", func() bool { return s.id("gimp is ready") != 0 })
	id = s.find("gimp is ready")
	s.emit("NotificationClosed", id, uint32(2)) // dismissed
	wait[notify.Closed](d)
	s.emit("ActionInvoked", id, notify.RestartNow) // some histories have these, too
	wait[notify.Invoked](d)
	d.Do(notify.Show{Notice: notice("gimp", 3)})
	s.until("it is shown again", func() bool { return len(s.calls) > 3 })
	s.emit("ActionInvoked", id, notify.RestartNow) // of the earlier notice
	none[notify.Invoked](d)

	// Answered, taken down, and still true.
	id = s.find("gimp is ready")
	d.Do(notify.Close{Instance: "gimp", Keep: true})
	s.until("it is taken down", func() bool { return len(s.shown) == 0 })
	none[notify.Closed](d)
	s.emit("ActionInvoked", id, notify.RestartNow)
	wait[notify.Invoked](d)
}

// Only the notification server can press a button, no other client of the session bus.
func TestForgedAndMalformedSignals(t *testing.T) {
	address := start(t)
	s := newServer(t, address, allCaps...).own()
	d := newDesk(t, address, Options{})
	d.Do(notify.Show{Notice: notice("firefox", 1)})
	s.until("it is shown", func() bool { return len(s.shown) == 1 })
	d.eventually("it is listed", func(p bus.SessionProperties) bool { return len(p.Notices) == 1 })
	id := s.find("firefox is ready")
	helper := d.conn.Names()[0]

	liar := connect(t, address)
	send := func(conn *dbus.Conn, path dbus.ObjectPath, name string, body ...any) {
		dot := strings.LastIndexByte(name, '.')
		m := &dbus.Message{Type: dbus.TypeSignal, Body: body, Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldDestination: dbus.MakeVariant(helper), dbus.FieldPath: dbus.MakeVariant(path),
			dbus.FieldInterface: dbus.MakeVariant(name[:dot]), dbus.FieldMember: dbus.MakeVariant(name[dot+1:]),
		}}
		if len(body) > 0 {
			m.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(body...))
		}
		conn.Send(m, make(chan *dbus.Call, 1))
	}
	invoked, closed := serverName+".ActionInvoked", serverName+".NotificationClosed"
	for _, conn := range []*dbus.Conn{liar, s.conn} {
		for _, body := range [][]any{
			nil, {id}, {"x", "y"}, {id, id}, {uint64(id), notify.RestartNow}, {id, notify.RestartNow, "more"},
			{[]uint32{id}, notify.RestartNow}, {dbus.MakeVariant(id), dbus.MakeVariant("x")}, {id, dbus.MakeVariant(notify.RestartNow)},
			{id, "no-such-button"}, {uint32(0), notify.RestartNow}, {id + 1, notify.RestartNow},
		} {
			send(conn, serverPath, invoked, body...)
		}
		for _, body := range [][]any{nil, {id}, {id, "1"}, {id, int32(1)}, {uint32(0), uint32(1)}, {id + 1, uint32(1)}, {id, uint32(1), uint32(1)}} {
			send(conn, serverPath, closed, body...)
		}
		send(conn, "/elsewhere", invoked, id, notify.RestartNow)
		send(conn, serverPath, properties+".PropertiesChanged", serverName, map[string]dbus.Variant{"Inhibited": dbus.MakeVariant("yes")}, []string{})
		send(conn, serverPath, properties+".PropertiesChanged", "x", map[string]dbus.Variant{"Inhibited": dbus.MakeVariant(true)}, []string{})
		send(conn, serverPath, properties+".PropertiesChanged", uint32(1))
	}
	send(liar, serverPath, invoked, id, notify.RestartNow)
	send(liar, serverPath, closed, id, uint32(1))
	send(liar, serverPath, properties+".PropertiesChanged", serverName, map[string]dbus.Variant{"Inhibited": dbus.MakeVariant(true)}, []string{})
	send(liar, "/org/freedesktop/DBus", busDaemon+".NameOwnerChanged", serverName, s.conn.Names()[0], liar.Names()[0])
	liar.Emit(serverPath, invoked, id, notify.RestartNow)

	time.Sleep(20 * time.Millisecond)
	for len(d.events) > 0 {
		switch e := (<-d.events).(type) {
		case notify.Disturb:
			if e.No && e != (notify.Disturb{No: true}) {
				t.Errorf("a forged signal was believed: got %#v, want of its kind %#v at most", e, notify.Disturb{No: true})
			}
		default:
			t.Errorf("a forged signal was believed: got %#v, want no such event", e)
		}
	}
	send(s.conn, serverPath, invoked, id, notify.RestartNow) // the real one, unicast as dunst does
	if e := wait[notify.Invoked](d); e.Action != notify.RestartNow {
		t.Errorf("got %+v, want action %v", e, notify.RestartNow)
	}
}

func TestDoNotDisturb(t *testing.T) {
	address := start(t)
	s := newServer(t, address, allCaps...)
	yes := true
	s.quiet = &yes
	s.own()
	d := newDesk(t, address, Options{})
	for i, want := range []bool{true, true} { // not asked yet, and its answer
		if e := wait[notify.Disturb](d); e.No != want {
			t.Errorf("%d: %+v; want %v", i, e, want)
		}
	}
	set := func(yes bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.quiet = &yes
	}
	set(false)
	s.conn.Emit(serverPath, properties+".PropertiesChanged", serverName, map[string]dbus.Variant{"Inhibited": dbus.MakeVariant(false)}, []string{})
	if e := wait[notify.Disturb](d); e.No {
		t.Error("it is over and not noticed")
	}
	set(true)
	s.conn.Emit(serverPath, properties+".PropertiesChanged", serverName, map[string]dbus.Variant{}, []string{"Inhibited"})
	if e := wait[notify.Disturb](d); !e.No {
		t.Error("an invalidated property is not read again")
	}
}

func TestShowAndProperties(t *testing.T) {
	address := start(t)
	d := newDesk(t, address, Options{Version: "1.2.3"})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := bus.NewSessionProxy(d.props, bus.SessionPath).Show(ctx); err != nil {
		t.Fatal(err)
	}
	wait[notify.ShowAll](d)
	d.Do(AgentPresent{true})
	d.Do(SessionLocked{true})
	d.eventually("both are there", func(p bus.SessionProperties) bool { return p.AgentPresent && p.Locked && p.Version == "1.2.3" })

	if other, err := Connect(ctx, Options{Address: address}, nil); err == nil {
		other.server.Close()
		t.Error("two helpers in one session")
	} else if !strings.HasPrefix(err.Error(), "cannot take the name org.lull.Session1") {
		t.Error(err)
	}
	d.Desktop.conn.Close()
	if err := d.stop(); err != ErrLost {
		t.Errorf("the end of the session: %v, want %v", err, ErrLost)
	}
}

func TestRender(t *testing.T) {
	n := notice("firefox", 1)
	n.Body = `<b>"Firefox" & 'more'</b>`
	n.DesktopEntry = "org.mozilla.firefox"
	cases := []struct {
		name string
		caps []string
		want func(fdo.Notification) bool
	}{
		{"markup is escaped", allCaps, func(f fdo.Notification) bool {
			return f.Body == `&lt;b&gt;"Firefox" &amp; 'more'&lt;/b&gt;` && len(f.Actions) == 3
		}},
		{"plain text is not", []string{"body", "actions"}, func(f fdo.Notification) bool { return f.Body == n.Body }},
		{"no buttons", []string{"body"}, func(f fdo.Notification) bool { return f.Actions == nil }},
		{"nothing", nil, func(f fdo.Notification) bool {
			return f.Body == "" && f.Summary == "firefox is ready. "+n.Body && f.Actions == nil
		}},
		{"unknown", []string{"x-smell", "body"}, func(f fdo.Notification) bool { return f.Body == n.Body }},
	}
	for _, c := range cases {
		got := render(n, newCapabilities("any", c.caps))
		if !c.want(got) {
			t.Errorf("a server with the capabilities %q (%s) is sent %+v, want the summary, body and actions of this case", c.caps, c.name, got)
		}
		if got.Hints["urgency"].Value() != byte(1) || got.Hints["desktop-entry"].Value() != "org.mozilla.firefox" ||
			got.Hints["category"].Value() != category || got.AppIcon != defaultIcon {
			t.Errorf("%s: got %+v, want urgency 1, the desktop entry org.mozilla.firefox, the category %q and the icon %q", c.name, got, category, defaultIcon)
		}
	}
	for in, want := range map[string]string{"": defaultIcon, "firefox": "firefox", "/usr/f.png": "file:///usr/f.png", "a\nb": defaultIcon} {
		if got := icon(in); got != want {
			t.Errorf("icon(%q) = %q, want %q", in, got, want)
		}
	}
}

// A notice that needs attention is posted as a new notice after the old one was closed, since some
// servers show a replaced one in their list only; anything else takes its place.
func TestAlertIsANewNotice(t *testing.T) {
	address := start(t)
	s := newServer(t, address, allCaps...).own()
	d := newDesk(t, address, Options{})
	show := func(serial uint64, alert bool, summary string) (id, replaced uint32) {
		n := notice("firefox", serial)
		n.Summary, n.Alert = summary, alert
		d.Do(notify.Show{Notice: n})
		s.until("it is shown", func() bool { return s.id(summary) != 0 })
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.shown) != 1 {
			t.Errorf("stacked: got %v, want 1 shown", s.shown)
		}
		id = s.id(summary)
		return id, s.shown[id].ReplacesID
	}
	first, _ := show(1, true, "one")
	if id, replaced := show(2, false, "two"); id != first || replaced != first {
		t.Errorf("%d is not in the place of %d", id, first)
	}
	id, replaced := show(3, true, "three")
	if id == first || replaced != 0 {
		t.Errorf("%d, in the place of %d, is not new", id, replaced)
	}
	s.mu.Lock()
	if want := []string{"show one", "show two", "close two", "show three"}; !slices.Equal(s.calls, want) {
		t.Errorf("got %q, want calls %v", s.calls, want)
	}
	s.mu.Unlock()
	none[notify.Closed](d) // the person has closed none
	d.eventually("the new one is listed", func(p bus.SessionProperties) bool { return len(p.Notices) == 1 && p.Notices[0].ID == id })
	s.emit("ActionInvoked", first, notify.RestartNow)
	none[notify.Invoked](d)
	s.emit("ActionInvoked", id, notify.RestartNow)
	wait[notify.Invoked](d)
}

// Hints by kind and server: news is not kept in a list, and Plasma keeps the buttons
// of what is, which must not be asked of GNOME.
func TestHints(t *testing.T) {
	for _, c := range []struct {
		kind                notify.Kind
		server              string
		transient, resident bool
	}{
		{notify.Ready, "gnome-shell", false, false}, {notify.After, "gnome-shell", true, false},
		{notify.Ready, "Plasma", false, true}, {notify.Wait, "Plasma", false, true}, {notify.After, "Plasma", true, false},
	} {
		for _, urgency := range []byte{notify.Low, notify.Normal} {
			n := notice("firefox", 1)
			n.Kind, n.Urgency = c.kind, urgency
			got := render(n, newCapabilities(c.server, allCaps))
			_, transient := got.Hints["transient"]
			_, resident := got.Hints["resident"]
			if transient != c.transient || resident != c.resident || got.Hints["urgency"].Value() != byte(1) {
				t.Errorf("a notice of kind %v and urgency %d on %s has the hints %+v, want transient %v, resident %v and urgency 1", c.kind, urgency, c.server, got.Hints, c.transient, c.resident)
			}
		}
	}
	n := notice("", 1)
	n.Expire = -1
	if got := render(n, newCapabilities("any", allCaps)); got.ExpireTimeout != 0 {
		t.Errorf("%v, want 0", got.ExpireTimeout)
	}
	n.Percent = 55
	if got := render(n, newCapabilities("Plasma", allCaps)); got.Hints["value"].Value() != nil || !strings.HasSuffix(got.Body, " (55\u00a0%)") {
		t.Errorf("Plasma is sent %+v, want no hint value and a body that ends with %q", got, " (55\u00a0%)")
	}
}

// A waiting launch is shown until the launcher leaves the bus, for any reason.
func TestLaunchesThatWait(t *testing.T) {
	address := start(t)
	d := newDesk(t, address, Options{})
	waits := func(conn *dbus.Conn, instance string) error {
		return bus.NewSessionProxy(conn, bus.SessionPath).LaunchWaits(t.Context(), instance, words.RefreshInProgress)
	}
	one, two := connect(t, address), connect(t, address)
	if err := waits(one, "firefox"); err != nil {
		t.Fatal(err)
	}
	if e := wait[notify.LaunchWaits](d); e != (notify.LaunchWaits{Launch: one.Names()[0], Instance: "firefox", Why: words.RefreshInProgress}) {
		t.Errorf("got %+v, want %v", e, (notify.LaunchWaits{Launch: one.Names()[0], Instance: "firefox", Why: words.RefreshInProgress}))
	}
	if err := waits(two, "../../etc"); err == nil {
		t.Error("that is no instance")
	}
	if err := waits(two, "gimp"); err != nil {
		t.Fatal(err)
	}
	wait[notify.LaunchWaits](d)
	one.Close()
	if e := wait[notify.LaunchOver](d); e.Launch != one.Names()[0] {
		t.Errorf("got %+v, want launch %v", e, one.Names()[0])
	}
	hasty := connect(t, address)
	if err := waits(hasty, "firefox"); err != nil {
		t.Fatal(err)
	}
	hasty.Close() // perhaps before it is watched
	wait[notify.LaunchOver](d)
	two.Close()
	wait[notify.LaunchOver](d)
	for range maxLaunches + 5 {
		if err := waits(connect(t, address), "firefox"); err != nil {
			t.Fatal(err)
		}
	}
	for range maxLaunches {
		wait[notify.LaunchWaits](d)
	}
	none[notify.LaunchWaits](d)
}

func TestProgressAndApplication(t *testing.T) {
	address := start(t)
	s := newServer(t, address, allCaps...)
	s.name = "mako"
	s.own()
	d := newDesk(t, address, Options{})
	n := notice("firefox", 1)
	n.App, n.Percent = "Firefox", 55
	d.Do(notify.Show{Notice: n})
	s.until("it is shown", func() bool { return len(s.shown) == 1 })
	s.mu.Lock()
	got := s.shown[s.id("firefox is ready")]
	s.mu.Unlock()
	if got.AppName != "Firefox" || got.Hints["value"].Value() != int32(55) {
		t.Errorf("the notice of Firefox is %+v, want the application Firefox and the hint value 55", got)
	}
	n = notice("", 2)
	n.App, n.Percent = "", -1
	d.Do(notify.Show{Notice: n})
	s.until("both are shown", func() bool { return len(s.shown) == 2 })
	s.mu.Lock()
	got = s.shown[s.id(" is ready")]
	s.mu.Unlock()
	if _, has := got.Hints["value"]; has || got.AppName != "lull" {
		t.Errorf("the notice of no application is %+v, want the application lull and no hint value", got)
	}
	n.Percent = 55
	if got := render(n, newCapabilities("another", allCaps)); got.Hints["value"].Value() != nil || !strings.HasSuffix(got.Body, " (55\u00a0%)") {
		t.Errorf("another server is sent %+v, want no hint value and a body that ends with %q", got, " (55\u00a0%)")
	}
}

// GNOME's setting is read by gsettings, when dconf reports a change.
func TestDoNotDisturbOfGNOME(t *testing.T) {
	require.Program(t, "gsettings")
	require.File(t, "/usr/share/glib-2.0/schemas/org.gnome.desktop.notifications.gschema.xml")
	require.File(t, "/usr/libexec/dconf-service")
	address := start(t)
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", address)
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	t.Setenv("GSETTINGS_BACKEND", "dconf")
	dconf := exec.Command("/usr/libexec/dconf-service")
	dconf.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := dconf.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dconf.Process.Kill(); dconf.Wait() })
	s := newServer(t, address, allCaps...)
	s.name = "gnome-shell"
	s.own()
	d := newDesk(t, address, Options{})
	for i, want := range []bool{true, false} { // not asked yet, and the default
		if e := wait[notify.Disturb](d); e.No != want {
			t.Errorf("%d: %+v; want %v", i, e, want)
		}
	}
	for _, banners := range []string{"false", "true"} {
		if out, err := exec.Command("gsettings", "set", "org.gnome.desktop.notifications", "show-banners", banners).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if e := wait[notify.Disturb](d); e.No != (banners == "false") {
			t.Errorf("show-banners %s: %+v; want %v", banners, e, (banners == "false"))
		}
	}
}

func TestOnBroker(t *testing.T) { bustest.OnBroker(t) }
