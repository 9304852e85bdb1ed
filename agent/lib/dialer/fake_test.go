package dialer_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// script is a bus whose test writes the bus's messages, byte by byte. It
// authenticates, and answers Hello and Echo.
type script struct {
	t      *testing.T
	l      *net.UnixListener
	agreed chan bool // for each connection: it can receive descriptors
	conns  chan *net.UnixConn
	calls  chan uint32 // the serials of the calls that the test answers
}

func newScript(t *testing.T) *script {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "bus"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	s := &script{t: t, l: l, agreed: make(chan bool, 16), conns: make(chan *net.UnixConn, 16), calls: make(chan uint32, 64)}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			go s.serve(c)
		}
	}()
	return s
}

func (s *script) address() string { return "unix:path=" + s.l.Addr().String() }

func (s *script) serve(c *net.UnixConn) {
	in := bufio.NewReader(c)
	agreed := false
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		switch line = strings.TrimLeft(line, "\x00"); {
		case strings.HasPrefix(line, "AUTH EXTERNAL"):
			_, err = io.WriteString(c, "OK 0123456789abcdef0123456789abcdef\r\n")
		case strings.HasPrefix(line, "AUTH"):
			_, err = io.WriteString(c, "REJECTED EXTERNAL\r\n")
		case strings.HasPrefix(line, "NEGOTIATE_UNIX_FD"):
			agreed = true
			_, err = io.WriteString(c, "AGREE_UNIX_FD\r\n")
		case strings.HasPrefix(line, "BEGIN"):
			s.agreed <- agreed
			s.messages(c, in)
			return
		}
		if err != nil {
			return
		}
	}
}

// messages answers Hello and every call named Echo, until the connection ends.
func (s *script) messages(c *net.UnixConn, in io.Reader) {
	for {
		msg, err := dbus.DecodeMessage(in)
		if err != nil {
			return
		}
		if msg.Type != dbus.TypeMethodCall {
			continue
		}
		body := []any{":1.7"}
		switch msg.Headers[dbus.FieldMember].Value() {
		case "Echo":
			body = msg.Body
		case "Hello":
			s.conns <- c
		default:
			s.calls <- msg.Serial()
			continue
		}
		if _, err := c.Write(encode(reply(msg.Serial(), body...), 1)); err != nil {
			return
		}
	}
}

func reply(serial uint32, body ...any) *dbus.Message {
	return &dbus.Message{Type: dbus.TypeMethodReply, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldReplySerial: dbus.MakeVariant(serial), dbus.FieldSender: dbus.MakeVariant("org.freedesktop.DBus"),
		dbus.FieldSignature: dbus.MakeVariant(dbus.SignatureOf(body...)),
	}, Body: body}
}

func signal(sig string, body []byte) []byte {
	return raw(4, sig, body, 0, field(1, "o", text("/")), field(2, "s", text("a.B")), field(3, "s", text("C")), field(7, "s", text(":1.9")))
}

func encode(m *dbus.Message, serial uint32) []byte {
	var b bytes.Buffer
	if err := m.EncodeTo(&b, binary.LittleEndian); err != nil {
		panic(err)
	}
	binary.LittleEndian.PutUint32(b.Bytes()[8:], serial)
	return b.Bytes()
}

// raw writes a message as it stands, whether it is one or not.
func raw(kind byte, sig string, body []byte, fds uint32, fields ...[]byte) []byte {
	if sig != "" {
		fields = append(fields, field(8, "g", append([]byte{byte(len(sig))}, append([]byte(sig), 0)...)))
	}
	if fds > 0 {
		fields = append(fields, field(9, "u", u32(fds)))
	}
	var h []byte
	for _, f := range fields {
		for len(h)%8 != 0 {
			h = append(h, 0)
		}
		h = append(h, f...)
	}
	b := append([]byte{'l', kind, 0, 1}, u32(uint32(len(body)))...)
	b = append(append(b, u32(99)...), u32(uint32(len(h)))...)
	b = append(b, h...)
	for len(b)%8 != 0 {
		b = append(b, 0)
	}
	return append(b, body...)
}

// field is a header field whose value begins, aligned to 4, at the fourth byte, for
// signatures of one letter.
func field(code byte, sig string, value []byte) []byte {
	return append(append([]byte{code, byte(len(sig))}, append([]byte(sig), 0)...), value...)
}

func u32(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }

func text(s string) []byte { return append(append(u32(uint32(len(s))), s...), 0) }

// sendWith writes b, with n descriptors to its first byte.
func sendWith(t *testing.T, c *net.UnixConn, b []byte, n int) {
	t.Helper()
	var fds []int
	for range n {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		fds = append(fds, fd)
	}
	var oob []byte
	if n > 0 {
		oob = unix.UnixRights(fds...)
	}
	if _, _, err := c.WriteMsgUnix(b, oob, nil); err != nil {
		t.Fatal(err)
	}
}
