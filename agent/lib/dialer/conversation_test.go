package dialer_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/dialer"
)

var modes = map[string]dialer.Passing{"none": dialer.None, "answers": dialer.Answers, "replies": dialer.Replies}

// inEachMode opens a connection to a scripted bus in each mode.
func inEachMode(t *testing.T, f func(t *testing.T, conn *dbus.Conn, bus *net.UnixConn)) {
	for name, pass := range modes {
		t.Run(name, func(t *testing.T) {
			s := newScript(t)
			conn, err := dialer.Open(s.address(), false, pass, dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if !<-s.agreed {
				t.Error("the connection cannot receive descriptors: dbus-broker ends such a one when it gets some")
			}
			f(t, conn, <-s.conns)
		})
	}
}

// echoes fails unless the connection works.
func echoes(t *testing.T, conn *dbus.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var back string
	if err := conn.Object("a.b", "/").CallWithContext(ctx, "a.b.Echo", 0, "lull").Store(&back); err != nil || back != "lull" {
		t.Fatalf("the connection does not work any more: %q, %v", back, err)
	}
}

// TestMessagesThatAreNotUnderstoodAreLeftOut sends messages that godbus cannot
// decode or that it misreads: they are dropped, and the connection lives.
func TestMessagesThatAreNotUnderstoodAreLeftOut(t *testing.T) {
	deep := ""
	for range 80 {
		deep += "\x01v\x00"
	}
	bad := map[string][]byte{
		"string that is cut":         signal("s", u32(100)),
		"string without end":         signal("s", append(u32(1), 'x', 'y')),
		"string that is no UTF-8":    signal("s", text("\xff")),
		"no truth value":             signal("b", u32(2)),
		"body without signature":     signal("", u32(2)),
		"more body than signature":   signal("u", append(u32(2), 0)),
		"less body than signature":   signal("uu", u32(2)),
		"signature that is none":     signal("a", u32(0)),
		"open struct":                signal("(s", text("")),
		"key that is a variant":      signal("a{vs}", u32(0)),
		"variant of two types":       signal("v", append([]byte{2, 'y', 'y', 0}, 1, 1)),
		"variant of no type":         signal("v", []byte{0, 0}),
		"variant of a bad type":      signal("v", []byte{1, 'Z', 0, 0}),
		"signature with a bad type":  signal("g", []byte{1, 'Z', 0}),
		"variants without end":       signal("v", []byte(deep)),
		"array longer than the body": signal("as", u32(100)),
		"array that ends in a value": signal("ab", append(append(u32(5), u32(1)...), u32(1)...)),
		"path that is none":          signal("o", text("x")),
		"unknown type":               raw(9, "", nil, 0, field(1, "o", text("/"))),
		"field 0":                    raw(4, "", nil, 0, field(0, "s", text("x"))),
		"sender that is a number":    raw(4, "", nil, 0, field(7, "u", u32(1))),
		"field that is cut":          raw(4, "", nil, 0, field(7, "s", u32(1000))),
		"field without type":         raw(4, "", nil, 0, []byte{100, 0, 0}),
		"long signal":                signal("ay", append(u32(9<<20), make([]byte, 9<<20)...)),
	}
	inEachMode(t, func(t *testing.T, conn *dbus.Conn, bus *net.UnixConn) {
		signals := make(chan *dbus.Signal, 2*len(bad))
		conn.Signal(signals)
		for name, b := range bad {
			if _, err := bus.Write(b); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			echoes(t, conn)
			select {
			case sig := <-signals:
				t.Errorf("%s: came through as %v", name, sig)
			default:
			}
		}
	})
}

// TestUnknownHeaderFieldsAreSkipped: "Header Fields" of the specification.
func TestUnknownHeaderFieldsAreSkipped(t *testing.T) {
	unknown := map[string][]byte{
		"byte":    {100, 1, 'y', 0, 7},
		"string":  field(101, "s", text("some text")),
		"double":  append([]byte{102, 1, 'd', 0, 0, 0, 0, 0}, make([]byte, 8)...),
		"array":   append([]byte{103, 2, 'a', 's', 0, 0, 0, 0}, append(u32(6), text("x")...)...),
		"variant": {104, 1, 'v', 0, 1, 'y', 0, 5},
		"struct":  {255, 4, '(', 'y', 'y', ')', 0, 0, 1, 2},
	}
	inEachMode(t, func(t *testing.T, conn *dbus.Conn, bus *net.UnixConn) {
		signals := make(chan *dbus.Signal, 1)
		conn.Signal(signals)
		for name, f := range unknown {
			for where := range 5 {
				fields := [][]byte{field(1, "o", text("/")), field(2, "s", text("a.B")), field(3, "s", text("C")), field(7, "s", text(":1.9"))}
				fields = append(fields[:where:where], append([][]byte{f}, fields[where:]...)...)
				b := raw(4, "s", text("arrives"), 0, fields...)
				b[2] |= 0x40 // an unknown flag, to be ignored as well
				if _, err := bus.Write(b); err != nil {
					t.Fatal(err)
				}
				select {
				case sig := <-signals:
					if sig.Name != "a.B.C" || sig.Path != "/" || sig.Sender != ":1.9" || fmt.Sprint(sig.Body) != "[arrives]" {
						t.Errorf("%s at %d: got %+v, want signal a.B.C of / from :1.9 with body [arrives]", name, where, sig)
					}
				case <-conn.Context().Done():
					t.Fatalf("%s at %d ended the connection", name, where)
				case <-time.After(30 * time.Second):
					t.Fatalf("%s at %d: the message was dropped", name, where)
				}
			}
		}
	})
}

// openNulls counts the descriptors that the test sends.
func openNulls(t *testing.T) (n int) {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && target == "/dev/null" {
			n++
		}
	}
	return n
}

// TestDescriptorsPassOnlyWhereTheyAreExpected lets the bus send descriptors
// everywhere. The credentials have one, as of 1.15.8.
func TestDescriptorsPassOnlyWhereTheyAreExpected(t *testing.T) {
	for name, pass := range modes {
		t.Run(name, func(t *testing.T) {
			s := newScript(t)
			conn, err := dialer.Open(s.address(), false, pass)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			bus := <-s.conns
			// ask makes a call and sends what the bus answers.
			ask := func(method, sig string, body []byte, fds int) *dbus.Call {
				t.Helper()
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				call := conn.BusObject().GoWithContext(ctx, method, 0, make(chan *dbus.Call, 1), ":1.9")
				sendWith(t, bus, raw(2, sig, body, uint32(fds), field(5, "u", u32(<-s.calls)), field(7, "s", text("org.freedesktop.DBus"))), fds)
				return <-call.Done
			}
			dict := func(kind string, value []byte) []byte {
				entry := append(append(text("ProcessFD"), byte(len(kind))), append([]byte(kind), 0)...)
				for len(entry)%4 != 0 {
					entry = append(entry, 0)
				}
				return append(append(u32(uint32(len(entry)+len(value))), 0, 0, 0, 0), append(entry, value...)...)
			}
			const credentials = "org.freedesktop.DBus.GetConnectionCredentials"
			before := openNulls(t)
			for range 10 {
				call := ask(credentials, "a{sv}", dict("h", u32(0)), 1)
				var m map[string]dbus.Variant
				if err := call.Store(&m); err != nil {
					t.Fatal("the credentials are lost:", err)
				}
				fd, isFD := m["ProcessFD"].Value().(dbus.UnixFD)
				if isFD != (pass != dialer.None) {
					t.Errorf("ProcessFD is %#v", m["ProcessFD"].Value())
				}
				if isFD {
					if target, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err != nil || target != "/dev/null" {
						t.Error(target, err)
					}
					unix.Close(int(fd))
				}
				for what, c := range map[string]*dbus.Call{
					"three":            ask(credentials, "a{sv}", dict("h", u32(0)), 3),
					"no such index":    ask(credentials, "a{sv}", dict("h", u32(5)), 1),
					"in an array":      ask(credentials, "a{sv}", dict("ah", append(u32(4), u32(0)...)), 1),
					"another type":     ask(credentials, "h", u32(0), 1),
					"another method":   ask("org.freedesktop.DBus.GetId", "a{sv}", dict("h", u32(0)), 1),
					"announced, none":  ask(credentials, "a{sv}", dict("h", u32(0)), 0),
					"an array of them": ask(credentials, "ah", append(u32(4), u32(0)...), 1),
				} {
					if c.Err != nil {
						t.Errorf("%s: the reply is lost: %v", what, c.Err)
					}
				}
			}
			echoes(t, conn)
			if after := openNulls(t); after != before {
				t.Errorf("%d descriptors of /dev/null were open, now %d; want %v", before, after, before)
			}
		})
	}
}

// TestLostDescriptorsDesynchroniseNothing has the kernel drop descriptors because
// this process may open no more. Later messages are read as they were sent.
func TestLostDescriptorsDesynchroniseNothing(t *testing.T) {
	inEachMode(t, func(t *testing.T, conn *dbus.Conn, bus *net.UnixConn) {
		signals := make(chan *dbus.Signal, 64)
		conn.Signal(signals)
		var limit unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
		fields := [][]byte{field(1, "o", text("/")), field(2, "s", text("a.B")), field(3, "s", text("C")), field(7, "s", text(":1.9"))}
		for _, more := range []int{0, 1, 3} { // how many of seven fit
			runtime.GC() // closes what earlier tests have left, not in between
			var filler []int
			full := limit
			full.Cur = uint64(openFDs(t) + 24)
			if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &full); err != nil {
				t.Fatal(err)
			}
			fds := make([]int, 7)
			for i := range fds {
				fds[i], _ = unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			}
			for {
				fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
				if err != nil {
					break
				}
				filler = append(filler, fd)
			}
			for range more {
				unix.Close(filler[len(filler)-1])
				filler = filler[:len(filler)-1]
			}
			// In one stream: with descriptors, without, with, without.
			for i := range 4 {
				var oob []byte
				n := 0
				if i%2 == 0 {
					n, oob = 7, unix.UnixRights(fds...)
				}
				if _, _, err := bus.WriteMsgUnix(raw(4, "u", u32(uint32(i)), uint32(n), fields...), oob, nil); err != nil {
					t.Error(err)
				}
			}
			for i := range 4 {
				select {
				case sig := <-signals:
					if fmt.Sprint(sig.Body) != fmt.Sprintf("[%d]", i) {
						t.Errorf("signal %d: got body %v, want [%d]", i, sig.Body, i)
					}
				case <-conn.Context().Done():
					t.Error("the connection has ended")
				case <-time.After(30 * time.Second):
					t.Errorf("signal %d does not come", i)
				}
				if t.Failed() {
					break
				}
			}
			for _, fd := range append(filler, fds...) {
				unix.Close(fd)
			}
			if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
				t.Fatal(err)
			}
			if t.Failed() {
				return
			}
		}
		echoes(t, conn)
	})
}

// FuzzConversation feeds whole conversations: messages, cut into pieces, with and
// without descriptors, whose bytes are the fuzzer's. Nothing panics, nothing leaks, and
// what godbus gets it can decode: the connection ends only where the stream has no
// message boundaries any more, which the fuzzer cannot reach, as lengths are true.
func FuzzConversation(f *testing.F) {
	f.Add([]byte("s\x00"), []byte(text("lull")), uint8(0), uint8(4), false)
	f.Add([]byte("ah\x00"), append(u32(4), u32(0)...), uint8(1), uint8(4), true)
	f.Add([]byte("a{sv}"), append(u32(8), 0, 0, 0, 0, 1, 0, 0, 0, 'k', 0, 1, 'h'), uint8(2), uint8(2), false)
	f.Add([]byte("v"), []byte("\x01v\x00\x01v\x00\x01y\x00\x05"), uint8(0), uint8(1), true)
	f.Add([]byte("(sa{sa(ih)})"), append(text("x"), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), uint8(3), uint8(2), false)
	f.Fuzz(func(t *testing.T, sig, body []byte, fds, kind uint8, none bool) {
		if len(sig) > 255 || len(body) > 1<<16 {
			return
		}
		for _, c := range sig {
			if c == 0 {
				return
			}
		}
		pass := dialer.Replies
		if none {
			pass = dialer.None
		}
		s := newScript(t)
		conn, err := dialer.Open(s.address(), false, pass)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		bus := <-s.conns
		conn.Object("org.lull.Agent1", "/").Go("org.lull.Agent1.Manager.Open", 0, make(chan *dbus.Call, 1), "x")
		serial := <-s.calls
		fields := [][]byte{field(1, "o", text("/")), field(2, "s", text("a.B")), field(3, "s", text("C")), field(4, "s", text("a.E")), field(5, "u", u32(serial)), field(7, "s", text(":1.9"))}
		b := raw(kind, string(sig), body, uint32(fds%4), fields...)
		sendWith(t, bus, b[:len(b)/2], int(fds%4))
		sendWith(t, bus, b[len(b)/2:], 0)
		echoes(t, conn)
		// The header's bytes are the fuzzer's as well.
		if n := min(len(body), len(b)-16); n > 0 {
			head := append(append([]byte{'l', kind, body[0], 1}, u32(0)...), u32(7)...)
			head = append(append(head, u32(uint32(n))...), body[:n]...)
			for len(head)%8 != 0 {
				head = append(head, 0)
			}
			sendWith(t, bus, head, int(fds%3))
			echoes(t, conn)
		}
	})
}
