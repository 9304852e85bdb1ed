package dialer_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/dialer"
	"github.com/lull/lull/dbus/bustest"
)

func TestOnBroker(t *testing.T) { bustest.OnBroker(t) }

// TestStrangersMessagesOnARealBus sends messages that a bus may pass on: dbus-broker does not
// read bodies, and keeps unknown header fields. dbus-daemon ends the
// connection of the sender instead.
func TestStrangersMessagesOnARealBus(t *testing.T) {
	address := bustest.Start(t)
	for name, pass := range modes {
		t.Run(name, func(t *testing.T) {
			conn, err := dialer.Open(address, false, pass)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.Export(echo{}, "/", "org.lull.Echo"); err != nil {
				t.Fatal(err)
			}
			for what, m := range map[string]struct {
				sig   string
				body  []byte
				extra []byte
			}{
				"unknown field":            {"", nil, []byte{100, 1, 'y', 0, 7}},
				"unknown field of a type":  {"", nil, append([]byte{200, 2, 'a', 's', 0, 0, 0, 0}, append(u32(6), text("x")...)...)},
				"body that is cut":         {"s", u32(100), nil},
				"no truth value":           {"b", u32(7), nil},
				"variant with a bad type":  {"v", []byte{1, 'Z', 0, 0}, nil},
				"array longer than itself": {"as", u32(1 << 20), nil},
			} {
				c, in := raws(t, address)
				fields := [][]byte{field(1, "o", text("/")), field(2, "s", text("org.lull.Echo")), field(3, "s", text("Nothing")), field(6, "s", text(conn.Names()[0]))}
				if m.extra != nil {
					fields = append(fields, m.extra)
				}
				if _, err := c.Write(raw(4, m.sig, m.body, 0, fields...)); err != nil {
					t.Fatal(err)
				}
				// The bus answers when it has taken that, or hangs up.
				if _, err := c.Write(raw(1, "", nil, 0, field(1, "o", text("/")), field(2, "s", text("org.freedesktop.DBus")),
					field(3, "s", text("GetId")), field(6, "s", text("org.freedesktop.DBus")))); err == nil {
					for {
						msg, err := dbus.DecodeMessage(in)
						if err != nil || msg.Type == dbus.TypeMethodReply && len(msg.Body) == 1 {
							break
						}
					}
				}
				c.Close()
				s := stranger(t, address)
				var back string
				if err := s.Object(conn.Names()[0], "/").CallWithContext(t.Context(), "org.lull.Echo.Echo", 0, what).Store(&back); err != nil || back != what {
					t.Fatalf("%s: the connection does not work any more: %q, %v", what, back, err)
				}
			}
		})
	}
}

// raws connects without a library. Hello is answered.
func raws(t *testing.T, address string) (*net.UnixConn, *bufio.Reader) {
	t.Helper()
	path, _, _ := strings.Cut(strings.TrimPrefix(address, "unix:path="), ",")
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(c)
	if _, err := fmt.Fprintf(c, "\x00AUTH EXTERNAL %x\r\n", fmt.Sprint(os.Getuid())); err != nil {
		t.Fatal(err)
	}
	if line, err := in.ReadString('\n'); err != nil || !strings.HasPrefix(line, "OK ") {
		t.Fatal(line, err)
	}
	hello := raw(1, "", nil, 0, field(1, "o", text("/org/freedesktop/DBus")), field(2, "s", text("org.freedesktop.DBus")), field(3, "s", text("Hello")), field(6, "s", text("org.freedesktop.DBus")))
	if _, err := io.WriteString(c, "BEGIN\r\n"+string(hello)); err != nil {
		t.Fatal(err)
	}
	if msg, err := dbus.DecodeMessage(in); err != nil || msg.Type != dbus.TypeMethodReply {
		t.Fatal(msg, err)
	}
	return c, in
}
