package bus_test

import (
	"context"
	"encoding/xml"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/errkind"
	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/e2e/require"
)

// shape is an interface of introspection data, without order and comments.
type shape struct {
	XMLName xml.Name
	Attrs   []xml.Attr `xml:",any,attr"`
	Nodes   []shape    `xml:",any"`
}

func interfaces(t *testing.T, data string) map[string]shape {
	t.Helper()
	var root shape
	if err := xml.Unmarshal([]byte(data), &root); err != nil {
		t.Fatalf("%v\n%s", err, data)
	}
	m := map[string]shape{}
	for _, n := range root.Nodes {
		if n.XMLName.Local == "interface" {
			m[n.Attrs[0].Value] = n
		}
	}
	return m
}

func TestIntrospectionIsTheXML(t *testing.T) {
	w := start(t)
	if err := w.server.Export(bus.PackagePath("a"), bus.ExportPackage(bus.PackageProperties{})); err != nil {
		t.Fatal(err)
	}
	if err := w.server.Export(bus.RefreshPath("1"), bus.ExportRefresh(nil, bus.RefreshProperties{})); err != nil {
		t.Fatal(err)
	}
	if err := w.server.Export(bus.JobPath("1"), bus.ExportJob(nil, bus.JobProperties{})); err != nil {
		t.Fatal(err)
	}
	if err := w.server.Export("/org/lull/update_monitor/1_1/t1", bus.ExportUpdateMonitor(nil)); err != nil {
		t.Fatal(err)
	}
	if err := w.server.Export(bus.SessionPath, bus.ExportSession(nil, bus.SessionProperties{})); err != nil {
		t.Fatal(err)
	}
	live := map[string]shape{}
	for path, own := range map[dbus.ObjectPath]int{bus.AgentPath: 5, bus.PackagePath("a"): 1, bus.RefreshPath("1"): 1, bus.JobPath("1"): 1, bus.SessionPath: 1, "/org/lull/update_monitor/1_1/t1": 1} {
		found := 0
		for name, s := range interfaces(t, introspect(t, w.client, path)) {
			if strings.HasPrefix(name, "org.lull.") {
				live[name] = s
				found++
			}
		}
		if found != own {
			t.Errorf("%s has %d interfaces of ours, want %d", path, found, own)
		}
	}
	written := map[string]shape{}
	for _, data := range bus.XML() {
		for name, s := range interfaces(t, string(data)) {
			written[name] = s
		}
	}
	if !reflect.DeepEqual(live, written) {
		t.Errorf("got live\n%+v\nwant as in the XML files\n%+v", live, written)
	}
	// Parent nodes lead there, and a missing node is reported as missing.
	for path, child := range map[dbus.ObjectPath]string{"/": `<node name="org"/>`, "/org/lull": `<node name="Agent1"/>`, "/org/lull/Agent1/package": `<node name="a"/>`} {
		if text := introspect(t, w.client, path); !strings.Contains(text, child) {
			t.Errorf("%s: %s; want %q in the text", path, text, child)
		}
	}
	err := bus.FromBus(w.client.Object(bus.AgentName, "/org/none").Call("org.freedesktop.DBus.Introspectable.Introspect", 0).Err)
	if !errkind.Is(err, errkind.NotFound) {
		t.Errorf("got %v, want an error of kind %s", err, errkind.NotFound)
	}
}

// Every method of the XML is one that a server has to have in order to compile,
// and nothing else is.
func TestServersMustImplementTheXML(t *testing.T) {
	servers := map[string]reflect.Type{
		bus.ManagerInterface: reflect.TypeFor[bus.Manager](), bus.SpaceInterface: reflect.TypeFor[bus.Space](),
		bus.RetainedInterface: reflect.TypeFor[bus.Retained](), bus.RefreshInterface: reflect.TypeFor[bus.Refresh](),
		bus.SessionInterface: reflect.TypeFor[bus.Session](), bus.SystemInterface: reflect.TypeFor[bus.System](),
		bus.UpdateMonitorInterface: reflect.TypeFor[bus.UpdateMonitor](),
		bus.JobInterface:           reflect.TypeFor[bus.Job](),
	}
	for _, data := range bus.XML() {
		for name, i := range interfaces(t, string(data)) {
			var want, got []string
			for _, n := range i.Nodes {
				if n.XMLName.Local == "method" {
					want = append(want, n.Attrs[0].Value)
				}
			}
			if s := servers[name]; s != nil {
				for m := range s.NumMethod() {
					got = append(got, s.Method(m).Name)
				}
			}
			slices.Sort(want)
			if !slices.Equal(want, got) {
				t.Errorf("%s: the XML has %v, the server interface %v; want %v", name, want, got, got)
			}
		}
	}
}

func introspect(t *testing.T, conn *dbus.Conn, path dbus.ObjectPath) (s string) {
	t.Helper()
	if err := conn.Object(bus.AgentName, path).Call("org.freedesktop.DBus.Introspectable.Introspect", 0).Store(&s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestBusctlReadsIt(t *testing.T) {
	require.Program(t, "busctl")
	w := start(t)
	if err := w.server.Export(bus.PackagePath("org.x.App"), bus.ExportPackage(bus.PackageProperties{Version: "1.2"})); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		"/org/lull/Agent1/package/org_2ex_2eApp": {"tree", bus.AgentName},
		`.Version`:                               {"introspect", bus.AgentName, string(bus.PackagePath("org.x.App"))},
		".JoinRun":                               {"introspect", bus.AgentName, string(bus.AgentPath)},
		`"b"`:                                    {"call", bus.AgentName, string(bus.AgentPath), bus.ManagerInterface, "Doctor"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		out, err := exec.CommandContext(ctx, "busctl", append([]string{"--address=" + w.address}, args...)...).CombinedOutput()
		cancel()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("busctl %v: got %v and\n%s\nwant no error and %q", args, err, out, want)
		}
	}
}

// The same call by two libraries: GLib's, which GNOME's programs use, and one that reads
// and writes the protocol itself. Each prints the error's name and text.
const (
	byGio = `
import sys
from gi.repository import Gio, GLib
address, name, path, interface = sys.argv[1:]
flags = Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION
bus = Gio.DBusConnection.new_for_address_sync(address, flags, None, None)
try:
    bus.call_sync(name, path, interface, "Install", GLib.Variant("(sa{sv})", ("x", {})), None, 0, 30000, None)
except GLib.Error as e:
    error = Gio.DBusError.get_remote_error(e)
    Gio.DBusError.strip_remote_error(e)
    print(error + ": " + e.message)
`
	byDBusNext = `
import asyncio, sys
from dbus_next import Message
from dbus_next.aio import MessageBus
address, name, path, interface = sys.argv[1:]
async def main():
    bus = await MessageBus(bus_address=address).connect()
    r = await bus.call(Message(name, path, interface, "Install", signature="sa{sv}", body=["x", {}]))
    print(r.error_name + ": " + r.body[0], r.signature)
asyncio.run(main())
`
)

// TestEveryClientShowsErrors: name, text and hint reach those who use the usual
// programs and libraries, which show one string.
func TestEveryClientShowsErrors(t *testing.T) {
	w := start(t)
	w.agent.mu.Lock()
	w.agent.install = func(bus.Caller, string, bus.InstallOptions) (dbus.ObjectPath, error) {
		return "", errkind.New(errkind.Held, "cannot install x: it is held").WithHint("lull unhold x")
	}
	w.agent.mu.Unlock()
	const python = "/usr/bin/python3"
	for _, library := range []string{"gi", "dbus_next"} {
		require.File(t, "/usr/lib/python3/dist-packages/"+library)
	}
	path, method := string(bus.AgentPath), bus.ManagerInterface+".Install"
	for want, argv := range map[string][]string{
		"Call failed: cannot install x: it is held\nhint: lull unhold x":             {"busctl", "--address=" + w.address, "call", bus.AgentName, path, bus.ManagerInterface, "Install", "sa{sv}", "x", "0"},
		"org.lull.Error.Held: cannot install x: it is held\nhint: lull unhold x":     {"gdbus", "call", "--address=" + w.address, "--dest=" + bus.AgentName, "--object-path=" + path, "--method=" + method, "x", "{}"},
		"org.lull.Error.Held: cannot install x: it is held\nhint: lull unhold x\n":   {python, "-c", byGio, w.address, bus.AgentName, path, bus.ManagerInterface},
		"org.lull.Error.Held: cannot install x: it is held\nhint: lull unhold x s\n": {python, "-c", byDBusNext, w.address, bus.AgentName, path, bus.ManagerInterface},
	} {
		require.Program(t, argv[0])
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
		cancel()
		if (err == nil) != (argv[0] == python) || !strings.Contains(string(out), want) {
			t.Errorf("%s: got %v and\n%s\nwant an error only from a program other than %s, and %q", argv[0], err, out, python, want)
		}
	}
}
