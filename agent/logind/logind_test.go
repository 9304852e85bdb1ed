package logind

import (
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"go.uber.org/goleak"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/dbus/bustest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, address string, options ...Option) *Logind {
	t.Helper()
	l, err := Connect(address, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func next(t *testing.T, l *Logind) bool {
	t.Helper()
	select {
	case v := <-l.PrepareForShutdown():
		return v
	case <-time.After(10 * time.Second):
		t.Fatal("nothing was said about a shutdown")
		return false
	}
}

// eventually waits for a change by another process that makes no event.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func TestLocksOfTheRealLogind(t *testing.T) {
	m := newMachine(t)
	m.start()
	l := open(t, m.address)
	if !l.Available() {
		t.Fatal("logind is there and not seen")
	}
	if got := l.MaxDelay(); got != 5*time.Second {
		t.Errorf("MaxDelay = %v, want %v, logind's default is 5s", got, 5*time.Second)
	}

	delay, mode, err := l.Take("shutdown:sleep", "lull", "Firefox 153 is installed when it is closed", false)
	if err != nil {
		t.Fatal(err)
	}
	if mode != Delay {
		t.Errorf("mode %s, want %v", mode, Delay)
	}
	list := m.inhibitors()
	for _, want := range []string{"lull", "shutdown:sleep", "Firefox 153 is installed", "delay"} {
		if !strings.Contains(list, want) {
			t.Errorf("systemd-inhibit --list: got\n%s\nwant %q in it", list, want)
		}
	}

	block, mode, err := l.Take("shutdown:sleep", "lull", "copies data, 20 s", true)
	if err != nil {
		t.Fatal(err)
	}
	if mode != Block && mode != BlockWeak {
		t.Errorf("Take: got mode %s, want %s or %s", mode, Block, BlockWeak)
	}
	if list := m.inhibitors(); !strings.Contains(list, "copies data, 20 s") || !strings.Contains(list, mode) {
		t.Errorf("systemd-inhibit --list: got\n%s\nwant \"copies data, 20 s\" and mode %s in it", list, mode)
	}

	delay.Close()
	block.Close()
	block.Close()
	eventually(t, "both locks are gone", func() bool { return strings.Contains(m.inhibitors(), "No inhibitors") })
}

func TestLogindComesGoesAndComes(t *testing.T) {
	m := newMachine(t)
	l := open(t, m.address)
	if l.Available() || l.MaxDelay() != 0 {
		t.Fatal("a logind is seen that is not there")
	}
	if _, _, err := l.Take("shutdown", "lull", "why", false); !errkind.Is(err, errkind.Unavailable) {
		t.Fatalf("Take without logind: got %v, want an error of kind %s", err, errkind.Unavailable)
	}

	m.start()
	eventually(t, "logind is seen", l.Available)
	kept, _, err := l.Take("shutdown", "lull", "kept over the restart", true)
	if err != nil {
		t.Fatal(err)
	}
	gone, _, err := l.Take("shutdown", "lull", "given up meanwhile", false)
	if err != nil {
		t.Fatal(err)
	}

	m.stop()
	eventually(t, "logind is missed", func() bool { return !l.Available() })
	gone.Close()
	m.start()
	eventually(t, "logind is seen again", l.Available)
	eventually(t, "just one lock is there", func() bool {
		list := m.inhibitors()
		return strings.Count(list, "kept over the restart") == 1 && !strings.Contains(list, "given up meanwhile")
	})
	kept.Close()
	eventually(t, "no lock is there", func() bool { return strings.Contains(m.inhibitors(), "No inhibitors") })
}

func TestCloseEndsLocks(t *testing.T) {
	m := newMachine(t)
	m.start()
	l := open(t, m.address)
	if _, _, err := l.Take("shutdown", "lull", "why", false); err != nil {
		t.Fatal(err)
	}
	l.Close()
	eventually(t, "no lock is there", func() bool { return strings.Contains(m.inhibitors(), "No inhibitors") })
	if _, _, err := l.Take("shutdown", "lull", "why", false); !errkind.Is(err, errkind.Unavailable) {
		t.Errorf("Take after Close: got %v, want an error of kind %v", err, errkind.Unavailable)
	}
}

// A logind that hangs must not leave a lock without an owner behind when it
// answers at last.
func TestHungLogind(t *testing.T) {
	m := newMachine(t)
	m.start()
	l := open(t, m.address, WithTimeout(300*time.Millisecond))
	m.logind.Process.Signal(syscall.SIGSTOP)
	_, _, err := l.Take("shutdown", "lull", "answered too late", false)
	if !errkind.Is(err, errkind.Unavailable) {
		t.Errorf("Take of a hung logind: got %v, want an error of kind %v", err, errkind.Unavailable)
	}
	m.logind.Process.Signal(syscall.SIGCONT)
	eventually(t, "no lock is there", func() bool { return strings.Contains(m.inhibitors(), "No inhibitors") })
	k, _, err := l.Take("shutdown", "lull", "in time", false)
	if err != nil {
		t.Fatal(err)
	}
	k.Close()
}

// fakeLogind is the part of logind that must send wrong messages in a test,
// which the real one does not.
type fakeLogind struct {
	conn *dbus.Conn
	down bool
}

func (f *fakeLogind) Get(iface, property string) (dbus.Variant, *dbus.Error) {
	switch property {
	case "InhibitDelayMaxUSec":
		return dbus.MakeVariant(uint64(1<<64 - 1)), nil
	case "PreparingForShutdown":
		return dbus.MakeVariant(f.down), nil
	}
	return dbus.Variant{}, dbus.MakeFailedError(dbus.ErrClosed)
}

func newFake(t *testing.T, address string, down bool) *fakeLogind {
	t.Helper()
	f := &fakeLogind{conn: connect(t, address), down: down}
	if err := f.conn.Export(f, path, "org.freedesktop.DBus.Properties"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.conn.RequestName(name, dbus.NameFlagReplaceExisting|dbus.NameFlagAllowReplacement); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestLatestState: a state that was not read is replaced by the next one.
func TestLatestState(t *testing.T) {
	l := &Logind{shutdown: make(chan bool, 1)}
	for _, down := range []bool{true, false, true} {
		l.announce(down)
	}
	if !next(t, l) {
		t.Error("got false, want the last state")
	}
	select {
	case v := <-l.PrepareForShutdown():
		t.Errorf("got %v as well, want the last state alone", v)
	default:
	}
}

func TestPrepareForShutdown(t *testing.T) {
	address := bustest.Start(t)
	f := newFake(t, address, true)
	l := open(t, address)
	if got := l.MaxDelay(); got <= 0 {
		t.Errorf("MaxDelay: got %v, want more than 0 (no overflow)", got)
	}
	if !next(t, l) {
		t.Error("a shutdown that was under way is not told")
	}
	f.conn.Emit(path, prepareSignal, false)
	if next(t, l) {
		t.Error("the end of it is not told")
	}

	// None of these may be believed, and none may hurt.
	liar := connect(t, address)
	liar.Emit(path, prepareSignal, true)
	liar.Emit("/org/freedesktop/DBus", nameOwnerChanged, name, f.conn.Names()[0], liar.Names()[0])
	unicast(t, liar, l)
	f.conn.Emit(path, prepareSignal)
	f.conn.Emit(path, prepareSignal, "true")
	f.conn.Emit(path, prepareSignal, true, true)
	f.conn.Emit("/elsewhere", prepareSignal, true)
	f.conn.Emit(path, prepareSignal, false) // no change
	f.conn.Emit(path, prepareSignal, true)
	if !next(t, l) {
		t.Error("got false after signals that do not count, want the true of logind")
	}

	// Another logind takes over, which is not shutting down.
	newFake(t, address, false)
	if next(t, l) {
		t.Error("the new logind's state is not told")
	}
	f.conn.Emit(path, prepareSignal, true)
	select {
	case v := <-l.PrepareForShutdown():
		t.Errorf("the old logind is believed: %v", v)
	case <-time.After(50 * time.Millisecond):
	}
}

// unicast sends the forged signal straight to every connection of the bus: no match
// rule keeps that away.
func unicast(t *testing.T, liar *dbus.Conn, l *Logind) {
	t.Helper()
	sendAll(t, liar, "PrepareForShutdown", []any{true})
	select {
	case v := <-l.PrepareForShutdown():
		t.Errorf("a forged signal is believed: %v", v)
	case <-time.After(50 * time.Millisecond):
	}
}

func sendAll(t *testing.T, liar *dbus.Conn, member string, body []any, but ...string) {
	t.Helper()
	var names []string
	if err := liar.BusObject().Call(busName+".ListNames", 0).Store(&names); err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if !strings.HasPrefix(n, ":") || n == liar.Names()[0] || slices.Contains(but, n) {
			continue
		}
		liar.Send(&dbus.Message{Type: dbus.TypeSignal, Body: body, Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldDestination: dbus.MakeVariant(n), dbus.FieldPath: dbus.MakeVariant(path),
			dbus.FieldInterface: dbus.MakeVariant(manager), dbus.FieldMember: dbus.MakeVariant(member),
			dbus.FieldSignature: dbus.MakeVariant(dbus.SignatureOf(body...)),
		}}, make(chan *dbus.Call, 1))
	}
}

func TestRefusesDescriptors(t *testing.T) {
	address := bustest.Start(t)
	fake := newFake(t, address, false)
	l := open(t, address)
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	liar := connect(t, address)
	before := count()
	for _, body := range [][]any{
		{dbus.UnixFD(0)}, {map[string]dbus.Variant{"a": dbus.MakeVariant(dbus.UnixFD(0))}}, {struct {
			A string
			B dbus.UnixFD
		}{"a", 0}},
	} {
		sendAll(t, liar, "Nonsense", body, fake.conn.Names()[0])
	}
	eventually(t, "all descriptors are closed", func() bool { return count() <= before })
	if !l.Available() {
		t.Error("logind is lost")
	}
}

func TestNoBus(t *testing.T) {
	l := open(t, "unix:path=/nonexistent/bus")
	if l.Available() {
		t.Error("a logind on no bus")
	}
	if _, _, err := l.Take("shutdown", "lull", "why", false); !errkind.Is(err, errkind.Unavailable) {
		t.Errorf("Take without a bus: got %v, want an error of kind %s", err, errkind.Unavailable)
	}
	if _, err := Connect("nonsense"); !errkind.Is(err, errkind.Invalid) {
		t.Errorf("Connect to nonsense: got %v, want an error of kind %v", err, errkind.Invalid)
	}
}
