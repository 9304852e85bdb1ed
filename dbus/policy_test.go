package bus_test

import (
	"os"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/errkind"
	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/dbus/bustest"
	"github.com/lull/lull/e2e/require"
)

func TestBusPolicy(t *testing.T) {
	require.Root(t)
	policy, err := os.ReadFile("org.lull.Agent1.conf")
	if err != nil {
		t.Fatal(err)
	}
	_, inner, _ := strings.Cut(string(policy), "<busconfig>")
	inner, _, _ = strings.Cut(inner, "</busconfig>")
	deny := `<policy context="default"><deny own="*"/><deny send_destination="org.lull.Agent1"/></policy>`
	address := bustest.StartWith(t, "system", deny+inner)
	s, err := bus.Serve(t.Context(), address, true)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.RequestName(bus.AgentName); err != nil {
		t.Fatal(err)
	}
	if err := s.Export(bus.AgentPath, bus.ExportManager(&agent{}, bus.ManagerProperties{})); err != nil {
		t.Fatal(err)
	}
	client, err := bus.DialFDs(t.Context(), address, true)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := bus.NewManagerProxy(client, bus.AgentPath).Doctor(t.Context()); err != nil {
		t.Error(err)
	}
	r, p, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer p.Close()
	err = client.Object(bus.AgentName, bus.AgentPath).Call("org.freedesktop.DBus.Peer.Ping", 0, dbus.UnixFD(r.Fd())).Err
	if !errkind.Is(bus.FromBus(err), errkind.NotPermitted) {
		t.Errorf("a descriptor got through: got %v, want an error of kind %v", err, errkind.NotPermitted)
	}
}
