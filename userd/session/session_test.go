package session

import (
	"context"
	"io"
	"log/slog"
	"os"
	"reflect"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"go.uber.org/goleak"

	"github.com/lull/lull/dbus/bustest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func connect(t *testing.T, address string) *dbus.Conn {
	t.Helper()
	conn, err := dbus.Connect(address, dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func watchIt(t *testing.T, address string) <-chan State {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	states, done := make(chan State, 64), make(chan error, 1)
	go func() {
		done <- Run(ctx, address, slog.New(slog.NewTextHandler(io.Discard, nil)), func(s State) { states <- s })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return states
}

func next(t *testing.T, states <-chan State) State {
	t.Helper()
	select {
	case s := <-states:
		return s
	case <-time.After(10 * time.Second):
		t.Fatal("nothing is told")
		return State{}
	}
}

// until skips what is in between.
func until(t *testing.T, states <-chan State, want State) {
	t.Helper()
	var got State
	for range 10 {
		got = next(t, states)
		if want.Sessions == nil {
			got.Sessions = nil // not asked for
		}
		if reflect.DeepEqual(got, want) {
			return
		}
	}
	t.Fatalf("never %+v; last %+v", want, got)
}

func TestSessions(t *testing.T) {
	address := bustest.Start(t)
	states := watchIt(t, address)
	if s := next(t, states); !reflect.DeepEqual(s, State{}) || s.Away() {
		t.Errorf("without logind: %+v", s)
	}
	// The real one cannot be given sessions without a whole machine around it.
	m := bustest.StartMock(t, address, "logind", name)
	me := uint32(os.Getuid())
	m.AddSession("c1", me, "somebody", map[string]any{"Class": "greeter"})
	m.AddSession("c2", me+1, "somebody", nil)
	m.AddSession("c3", me, "somebody", map[string]any{"Class": "background"})
	here := m.AddSession("1", me, "somebody", map[string]any{"Type": "wayland"})
	until(t, states, State{Known: true, Seen: true, Sessions: []Session{{ID: "1", Active: true}}})
	m.SetSession(here, map[string]any{"IdleHint": true})
	until(t, states, State{Known: true, Seen: true, Sessions: []Session{{ID: "1", Active: true, Idle: true}}})
	m.SetSession(here, map[string]any{"IdleHint": false, "State": "closing"})
	until(t, states, State{Sessions: []Session{{ID: "1", Active: true, LoggingOut: true}}})
	m.SetSession(here, map[string]any{"State": "active"})
	until(t, states, State{Known: true, Seen: true})

	m.SetSession(here, map[string]any{"LockedHint": true})
	until(t, states, State{Known: true, Locked: true})
	m.SetSession(here, map[string]any{"LockedHint": false, "Active": false})
	until(t, states, State{Known: true})
	if !(State{Known: true}).Away() {
		t.Error("in the background and not away")
	}
	m.SetSession(here, map[string]any{"Active": true})
	until(t, states, State{Known: true, Seen: true})
	tty := m.AddSession("2", me, "somebody", map[string]any{"Type": "tty"}) // a terminal changes nothing
	m.SetSession(tty, map[string]any{"LockedHint": true})
	m.SetSession(here, map[string]any{"LockedHint": true})
	until(t, states, State{Known: true, Locked: true})

	m.Call(path, "EmitSignal", manager, "PrepareForSleep", "b", []dbus.Variant{dbus.MakeVariant(true)})
	m.Call(path, "EmitSignal", manager, "PrepareForSleep", "b", []dbus.Variant{dbus.MakeVariant(false)})
	until(t, states, State{Known: true, Locked: true, Woke: true})

	// No other client can lock or wake.
	liar := connect(t, address)
	liar.Emit(path, manager+".PrepareForSleep", false)
	liar.Emit(here, "org.freedesktop.DBus.Properties.PropertiesChanged", sessionIf,
		map[string]dbus.Variant{"LockedHint": dbus.MakeVariant(false)}, []string{})
	m.Stop()
	until(t, states, State{})
}

// Classes of systemd 258: a person may sit at some of them, and a session whose home is
// not there yet becomes one of a person by a change of its property.
func TestClasses(t *testing.T) {
	address := bustest.Start(t)
	m := bustest.StartMock(t, address, "logind", name)
	states := watchIt(t, address)
	me := uint32(os.Getuid())
	s := m.AddSession("1", me, "somebody", map[string]any{"Type": "wayland", "Class": "user-incomplete"})
	next(t, states)
	for class, want := range map[string]State{
		"user-early":       {Known: true, Seen: true, Sessions: []Session{{ID: "1", Active: true}}},
		"user-light":       {Known: true, Seen: true, Sessions: []Session{{ID: "1", Active: true}}},
		"user-early-light": {Known: true, Seen: true, Sessions: []Session{{ID: "1", Active: true}}},
		"user":             {Known: true, Seen: true, Sessions: []Session{{ID: "1", Active: true}}},
	} {
		m.SetSession(s, map[string]any{"Class": class})
		until(t, states, want)
		m.SetSession(s, map[string]any{"Class": "user-incomplete"})
		var got State
		for got = next(t, states); got.Known; got = next(t, states) {
		}
		if len(got.Sessions) > 0 {
			t.Errorf("after the session was of the class user-incomplete: got %+v, want no session", got)
		}
	}
}

func TestNoBus(t *testing.T) {
	if s := next(t, watchIt(t, "unix:path=/nonexistent/bus")); !reflect.DeepEqual(s, State{}) {
		t.Errorf("got %+v, want state %v", s, State{})
	}
}
