package logout

import (
	"fmt"
	"testing"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/dbus/bustest"
)

func connect(t *testing.T, address string) *dbus.Conn {
	t.Helper()
	conn, err := dbus.Connect(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// TestAsk: the desktop is asked in the way that has it ask its user.
func TestAsk(t *testing.T) {
	for _, m := range managers {
		if m.activatable {
			continue // Plasma alone has it
		}
		t.Run(m.name, func(t *testing.T) {
			address := bustest.Start(t)
			conn, desk := connect(t, address), connect(t, address)
			if Offered(t.Context(), conn) {
				t.Error("offered without a desktop")
			}
			if err := Ask(t.Context(), conn); !errkind.Is(err, errkind.Unavailable) {
				t.Errorf("without a desktop: %v", err)
			}
			asked := make(chan string, 1)
			member := m.method[len(m.method)-len("Logout"):]
			iface := m.method[:len(m.method)-len(".Logout")]
			methods := map[string]any{member: func(a uint32) *dbus.Error { asked <- fmt.Sprint(a); return nil }}
			if len(m.args) == 2 {
				methods[member] = func(a, b bool) *dbus.Error { asked <- fmt.Sprint(a, b); return nil }
			}
			if err := desk.ExportMethodTable(methods, m.path, iface); err != nil {
				t.Fatal(err)
			}
			if _, err := desk.RequestName(m.name, 0); err != nil {
				t.Fatal(err)
			}
			if !Offered(t.Context(), conn) {
				t.Error("not offered")
			}
			if err := Ask(t.Context(), conn); err != nil {
				t.Fatal(err)
			}
			if got, want := <-asked, map[int]string{1: "0", 2: "true true"}[len(m.args)]; got != want {
				t.Errorf("asked with %s, want %s: without it, it does not ask", got, want)
			}
		})
	}
}
