package bustest

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/e2e/require"
)

// Mock is a service of python-dbusmock, for services whose real program needs
// a whole machine around it.
type Mock struct {
	t    testing.TB
	conn *dbus.Conn
	cmd  *exec.Cmd
	name string
	said strings.Builder
}

const mockInterface = "org.freedesktop.DBus.Mock"

// StartMock runs one of its templates (upower, networkmanager, logind) on the bus at
// an address, and returns when it has its name. It ends with the test.
func StartMock(t testing.TB, address, template, name string) *Mock {
	t.Helper()
	python := "/usr/bin/python3" // the one that Debian's modules belong to
	if err := exec.Command(python, "-c", "import dbusmock").Run(); err != nil {
		require.Missing(t, "needs python3-dbusmock (make deps installs it)")
	}
	conn, err := dbus.Connect(address, dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	signals := make(chan *dbus.Signal, 16)
	conn.Signal(signals)
	defer conn.RemoveSignal(signals)
	if err := conn.AddMatchSignal(dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, name)); err != nil {
		t.Fatal(err)
	}
	m := &Mock{t: t, conn: conn, name: name}
	m.cmd = exec.Command(python, "-m", "dbusmock", "--template", template)
	m.cmd.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+address)
	m.cmd.Stderr = &m.said
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Stop)
	timeout := time.After(30 * time.Second)
	for {
		select {
		case s := <-signals:
			if len(s.Body) == 3 && s.Body[0] == name && s.Body[2] != "" {
				return m
			}
		case <-timeout:
			m.Stop()
			t.Fatalf("python-dbusmock has not taken the name %s:\n%s", name, &m.said)
		}
	}
}

// Stop ends the service as a crash would, and waits for it.
func (m *Mock) Stop() {
	_ = m.cmd.Process.Kill()
	_ = m.cmd.Wait()
}

// Signal sends a signal to the service's process: SIGSTOP makes it hang.
func (m *Mock) Signal(s syscall.Signal) { _ = m.cmd.Process.Signal(s) }

// Call calls a method of the mock itself on one of its objects.
func (m *Mock) Call(path dbus.ObjectPath, method string, args ...any) {
	m.t.Helper()
	if err := m.conn.Object(m.name, path).Call(mockInterface+"."+method, 0, args...).Err; err != nil {
		m.t.Fatalf("%s: %v", method, err)
	}
}

// Set changes properties of an object and sends the signal.
func (m *Mock) Set(path dbus.ObjectPath, iface string, props map[string]any) {
	m.t.Helper()
	v := map[string]dbus.Variant{}
	for k, value := range props {
		v[k] = dbus.MakeVariant(value)
	}
	m.Call(path, "UpdateProperties", iface, v)
}

// The objects that tests set.
const (
	UPower         = "org.freedesktop.UPower"
	NetworkManager = "org.freedesktop.NetworkManager"
	Logind         = "org.freedesktop.login1"

	upowerPath  = dbus.ObjectPath("/org/freedesktop/UPower")
	networkPath = dbus.ObjectPath("/org/freedesktop/NetworkManager")
	logindPath  = dbus.ObjectPath("/org/freedesktop/login1")
)

// OnBattery changes UPower's property.
func (m *Mock) OnBattery(yes bool) {
	m.t.Helper()
	m.Set(upowerPath, UPower, map[string]any{"OnBattery": yes})
}

// Metered gives NetworkManager its property, which the template lacks, or
// changes it: NMMetered of NetworkManager's D-Bus types.
func (m *Mock) Metered(v uint32) {
	m.t.Helper()
	if m.conn.Object(m.name, networkPath).Call("org.freedesktop.DBus.Properties.Get", 0, NetworkManager, "Metered").Err != nil {
		m.Call(networkPath, "AddProperty", NetworkManager, "Metered", dbus.MakeVariant(v))
	}
	m.Set(networkPath, NetworkManager, map[string]any{"Metered": v})
}

// AddSession gives logind a session in the foreground, changes some of its properties
// and sends the signal. It returns its path.
func (m *Mock) AddSession(id string, uid uint32, user string, props map[string]any) dbus.ObjectPath {
	m.t.Helper()
	p := logindPath + "/session/" + dbus.ObjectPath(id)
	m.Call(logindPath, "AddSession", id, "seat0", uid, user, true)
	m.SetSession(p, props)
	m.Call(logindPath, "EmitSignal", Logind+".Manager", "SessionNew", "so", []dbus.Variant{dbus.MakeVariant(id), dbus.MakeVariant(p)})
	return p
}

// SetSession changes properties of a session and sends the signal.
func (m *Mock) SetSession(path dbus.ObjectPath, props map[string]any) {
	m.t.Helper()
	m.Set(path, Logind+".Session", props)
}

// RemoveSession ends a session.
func (m *Mock) RemoveSession(id string) {
	m.t.Helper()
	p := logindPath + "/session/" + dbus.ObjectPath(id)
	m.Call(p, "RemoveObject", p)
	m.Call(logindPath, "EmitSignal", Logind+".Manager", "SessionRemoved", "so", []dbus.Variant{dbus.MakeVariant(id), dbus.MakeVariant(p)})
}
