package conditions

import (
	"io"
	"log/slog"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"go.uber.org/goleak"

	"github.com/lull/lull/dbus/bustest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// watched is a Watcher whose changes can be waited for.
type watched struct {
	*Watcher
	t       *testing.T
	changed chan struct{}
}

func watch(t *testing.T, address string, uid int) *watched {
	t.Helper()
	w := &watched{t: t, changed: make(chan struct{}, 1)}
	w.Watcher = Watch(Options{Address: address, UID: uid, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Changed: func() {
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}})
	t.Cleanup(w.Close)
	return w
}

// until waits for a state by the notified changes.
func (w *watched) until(what string, cond func(State) bool) {
	w.t.Helper()
	timeout := time.After(20 * time.Second)
	for !cond(w.State()) {
		select {
		case <-w.changed:
		case <-timeout:
			w.t.Fatalf("waited in vain until %s: %+v", what, w.State())
		}
	}
}

func is(p Power, n Network, u Use) func(State) bool {
	return func(s State) bool { return s.Power == p && s.Network == n && s.Use() == u }
}

func TestPowerAndNetwork(t *testing.T) {
	address := bustest.Start(t)
	w := watch(t, address, -1)
	if s := w.State(); !is(Unknown, Unknown, Unknown)(s) {
		t.Fatalf("no services: got %+v, want all unknown", s)
	}
	power := bustest.StartMock(t, address, "upower", bustest.UPower)
	w.until("UPower is there", is(OnMains, Unknown, Unknown))
	power.OnBattery(true)
	w.until("on battery", is(OnBattery, Unknown, Unknown))
	network := bustest.StartMock(t, address, "networkmanager", bustest.NetworkManager)
	for i, want := range []Network{Unknown, Metered, Unmetered, Metered, Unmetered, Unknown} {
		network.Metered(uint32(i))
		w.until("what it says has come", is(OnBattery, want, Unknown))
	}
	network.Metered(1)
	w.until("metered", is(OnBattery, Metered, Unknown))

	// A new watcher has it at once.
	if s := watch(t, address, -1).State(); !is(OnBattery, Metered, Unknown)(s) {
		t.Errorf("a second watcher: got %+v, want on battery, metered and use unknown", s)
	}

	// No other sender is accepted.
	liar, err := dbus.Connect(address)
	if err != nil {
		t.Fatal(err)
	}
	defer liar.Close()
	if err := liar.Emit(paths[upowerName], properties+".PropertiesChanged", upowerName, map[string]dbus.Variant{"OnBattery": dbus.MakeVariant(false)}, []string{}); err != nil {
		t.Fatal(err)
	}

	// They go, also in the middle of an answer, and come back.
	power.Signal(syscall.SIGSTOP)
	network.Stop()
	w.until("NetworkManager has gone", is(OnBattery, Unknown, Unknown))
	power.Stop()
	w.until("UPower has gone", is(Unknown, Unknown, Unknown))
	bustest.StartMock(t, address, "upower", bustest.UPower).OnBattery(true)
	w.until("UPower is back", is(OnBattery, Unknown, Unknown))
}

func TestSessions(t *testing.T) {
	address := bustest.Start(t)
	logind := bustest.StartMock(t, address, "logind", bustest.Logind)
	w := watch(t, address, -1)
	if s := w.State(); s.Use() != IdleNow {
		t.Fatalf("no sessions: got use %v of %+v, want %v", s.Use(), s, IdleNow)
	}
	only := watch(t, address, 1001)
	greeter := logind.AddSession("c1", 117, "gdm", map[string]any{"Class": "greeter", "Type": "wayland"})
	ann := logind.AddSession("1", 1000, "ann", map[string]any{"Type": "wayland"})
	use := func(want Use) func(State) bool { return func(s State) bool { return s.Use() == want } }
	w.until("ann is at work", use(InUse))
	for _, s := range w.State().Sessions {
		if s.UID != 1000 || s.User != "ann" || s.ID != "1" {
			t.Errorf("got %+v, want uid 1000, user %q and %q", s, "ann", "1")
		}
	}
	for _, c := range []struct {
		props map[string]any
		want  Use
	}{
		{map[string]any{"IdleHint": true}, IdleNow}, {map[string]any{"IdleHint": false}, InUse},
		{map[string]any{"LockedHint": true}, IdleNow}, {map[string]any{"LockedHint": false}, InUse},
		{map[string]any{"Active": false}, IdleNow}, {map[string]any{"Active": true}, InUse},
		{map[string]any{"State": "closing"}, IdleNow}, {map[string]any{"State": "active"}, InUse},
	} {
		logind.SetSession(ann, c.props)
		w.until("it shows", use(c.want))
	}
	logind.SetSession(greeter, map[string]any{"IdleHint": true}) // changes nothing

	// A helper adds state that only its user's desktop has, of the user's own session.
	w.Report(":1.7", 1000, "ann", []Report{{ID: "1", Idle: true}})
	w.until("ann's screen saver runs", use(IdleNow))
	w.Report(":1.7", 1000, "ann", []Report{{ID: "1", Idle: true, DoNotDisturb: true}})
	w.until("ann gives a presentation", use(InUse))
	w.Report(":1.7", 1000, "ann", []Report{{ID: "1", Idle: true}})
	w.until("it is over", use(IdleNow))
	w.Report(":1.8", 1001, "bob", []Report{{ID: "1", Active: true, DoNotDisturb: true}, {ID: "9", Active: true}, {}})
	if s := w.State(); s.Use() != IdleNow || len(s.Sessions) != 1 {
		t.Errorf("a report about the sessions of others: got use %v of %+v, want %v and one session", s.Use(), s, IdleNow)
	}
	w.Forget(":1.7")
	w.until("the helper is gone", use(InUse))

	// On a terminal logind has to be asked.
	logind.SetSession(ann, map[string]any{"Type": "tty", "IdleSinceHint": uint64(time.Now().Add(-4 * time.Minute).UnixMicro())})
	w.until("it is known when to ask", func(s State) bool { return !s.idleAt().IsZero() && s.idleAt().Before(time.Now().Add(2*time.Minute)) })
	logind.Call("/org/freedesktop/login1/session/1", "AddMethod", "org.freedesktop.DBus.Properties", "GetAll", "s", "a{sv}",
		`ret = dict(self.props["org.freedesktop.login1.Session"], IdleHint=True)`)
	if s := w.State(); s.Use() != InUse {
		t.Errorf("before logind was asked: got use %v, want %v", s.Use(), InUse)
	}
	if s := w.Fresh(); s.Use() != IdleNow {
		t.Errorf("after logind was asked: got use %v of %+v, want %v", s.Use(), s, IdleNow)
	}

	if s := only.State(); len(s.Sessions) != 0 || s.Use() != IdleNow {
		t.Errorf("the agent of one user: got use %v of %+v, want %v and no session of others", s.Use(), s, IdleNow)
	}
	logind.RemoveSession("1")
	w.until("ann has logged out", func(s State) bool { return len(s.Sessions) == 0 && s.Use() == IdleNow })
	logind.Stop()
	w.until("the helpers' word stands alone", func(s State) bool { return len(s.Sessions) == 2 && s.Use() == InUse })
	w.Forget(":1.8")
	w.until("nobody can tell any more", use(Unknown))
}

// Without a logind, helpers are the only source.
func TestHelpersAlone(t *testing.T) {
	w := watch(t, "unix:path=/nonexistent/bus", -1)
	w.Report(":1.1", 7, "ann", []Report{{ID: "x", Active: true}})
	if s := w.State(); s.Use() != InUse {
		t.Errorf("at work: got use %v of %+v, want %v", s.Use(), s, InUse)
	}
	w.Report(":1.1", 7, "ann", []Report{{ID: "x", Active: true, Idle: true}})
	if s := w.Fresh(); s.Use() != IdleNow {
		t.Errorf("idle: got use %v of %+v, want %v", s.Use(), s, IdleNow)
	}
	w.Forget(":1.1")
	if s := w.State(); s.Use() != Unknown {
		t.Errorf("no helper: got use %v of %+v, want %v", s.Use(), s, Unknown)
	}
}
