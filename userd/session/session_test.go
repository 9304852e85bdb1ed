package session

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"reflect"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"go.uber.org/goleak"

	"github.com/lull/lull/dbus/bustest"
	"github.com/lull/lull/e2e/need"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// mock is a logind of python-dbusmock: the real one cannot be given sessions
// without a whole machine around it.
type mock struct {
	t    *testing.T
	conn *dbus.Conn
	cmd  *exec.Cmd
}

func connect(t *testing.T, address string) *dbus.Conn {
	t.Helper()
	conn, err := dbus.Connect(address, dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func newMock(t *testing.T, address string) *mock {
	t.Helper()
	python := "/usr/bin/python3" // the one that Debian's modules belong to
	if err := exec.Command(python, "-c", "import dbusmock").Run(); err != nil {
		need.Missing(t, "needs python3-dbusmock")
	}
	m := &mock{t: t, conn: connect(t, address)}
	signals := make(chan *dbus.Signal, 16)
	m.conn.Signal(signals)
	if err := m.conn.AddMatchSignal(dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, name)); err != nil {
		t.Fatal(err)
	}
	m.cmd = exec.Command(python, "-m", "dbusmock", "--template", "logind")
	m.cmd.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+address)
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.stop)
	timeout := time.After(30 * time.Second)
	for {
		select {
		case s := <-signals:
			if len(s.Body) == 3 && s.Body[0] == name && s.Body[2] != "" {
				return m
			}
		case <-timeout:
			t.Fatal("python-dbusmock is not ready")
		}
	}
}

func (m *mock) stop() {
	m.cmd.Process.Kill()
	m.cmd.Wait()
}

const mockIf = "org.freedesktop.DBus.Mock"

func (m *mock) call(path dbus.ObjectPath, method string, args ...any) {
	m.t.Helper()
	if err := m.conn.Object(name, path).Call(mockIf+"."+method, 0, args...).Err; err != nil {
		m.t.Fatalf("%s: %v", method, err)
	}
}

func (m *mock) add(id string, uid uint32, active bool, props map[string]any) dbus.ObjectPath {
	m.t.Helper()
	p := path + dbus.ObjectPath("/session/"+id)
	m.call(path, "AddSession", id, "seat0", uid, "somebody", active)
	m.set(p, props)
	m.call(path, "EmitSignal", manager, "SessionNew", "so", []dbus.Variant{dbus.MakeVariant(id), dbus.MakeVariant(p)})
	return p
}

func (m *mock) set(p dbus.ObjectPath, props map[string]any) {
	m.t.Helper()
	v := map[string]dbus.Variant{}
	for k, value := range props {
		v[k] = dbus.MakeVariant(value)
	}
	m.call(p, "UpdateProperties", sessionIf, v)
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
	m := newMock(t, address)
	me := uint32(os.Getuid())
	m.add("c1", me, true, map[string]any{"Class": "greeter"})
	m.add("c2", me+1, true, nil)
	m.add("c3", me, true, map[string]any{"Class": "background"})
	here := m.add("1", me, true, map[string]any{"Type": "wayland"})
	until(t, states, State{Known: true, Seen: true, Sessions: []Session{{ID: "1", Active: true}}})
	m.set(here, map[string]any{"IdleHint": true})
	until(t, states, State{Known: true, Seen: true, Sessions: []Session{{ID: "1", Active: true, Idle: true}}})
	m.set(here, map[string]any{"IdleHint": false, "State": "closing"})
	until(t, states, State{Sessions: []Session{{ID: "1", Active: true, LoggingOut: true}}})
	m.set(here, map[string]any{"State": "active"})
	until(t, states, State{Known: true, Seen: true})

	m.set(here, map[string]any{"LockedHint": true})
	until(t, states, State{Known: true, Locked: true})
	m.set(here, map[string]any{"LockedHint": false, "Active": false})
	until(t, states, State{Known: true})
	if !(State{Known: true}).Away() {
		t.Error("in the background and not away")
	}
	m.set(here, map[string]any{"Active": true})
	until(t, states, State{Known: true, Seen: true})
	tty := m.add("2", me, true, map[string]any{"Type": "tty"}) // a terminal changes nothing
	m.set(tty, map[string]any{"LockedHint": true})
	m.set(here, map[string]any{"LockedHint": true})
	until(t, states, State{Known: true, Locked: true})

	m.call(path, "EmitSignal", manager, "PrepareForSleep", "b", []dbus.Variant{dbus.MakeVariant(true)})
	m.call(path, "EmitSignal", manager, "PrepareForSleep", "b", []dbus.Variant{dbus.MakeVariant(false)})
	until(t, states, State{Known: true, Locked: true, Woke: true})

	// Nobody else can lock or wake.
	liar := connect(t, address)
	liar.Emit(path, manager+".PrepareForSleep", false)
	liar.Emit(here, "org.freedesktop.DBus.Properties.PropertiesChanged", sessionIf,
		map[string]dbus.Variant{"LockedHint": dbus.MakeVariant(false)}, []string{})
	m.stop()
	until(t, states, State{})
}

func TestNoBus(t *testing.T) {
	if s := next(t, watchIt(t, "unix:path=/nonexistent/bus")); !reflect.DeepEqual(s, State{}) {
		t.Errorf("%+v", s)
	}
}
