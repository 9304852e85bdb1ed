package dialer_test

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/dialer"
	"github.com/lull/lull/dbus/bustest"
)

// stranger is a connection without a gate, that may send what it likes.
func stranger(t *testing.T, address string) *dbus.Conn {
	t.Helper()
	c, err := dbus.Connect(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func send(t *testing.T, c *dbus.Conn, msg *dbus.Message) {
	t.Helper()
	msg.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(msg.Body...))
	if call := c.Send(msg, nil); call != nil && call.Err != nil {
		t.Fatal(call.Err)
	}
}

// openFDs counts the descriptors of this process.
func openFDs(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

type echo struct{}

// Open has the name and the signature of a method whose reply carries descriptors.
func (e echo) Open(string) (dbus.UnixFD, dbus.UnixFD, string, *dbus.Error) {
	a, err := e.File()
	if err != nil {
		return 0, 0, "", err
	}
	b, err := e.File()
	return a, b, "hash", err
}

func (echo) Echo(s string) (string, *dbus.Error) { return s, nil }

func (echo) File() (dbus.UnixFD, *dbus.Error) {
	fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, dbus.MakeFailedError(err)
	}
	return dbus.UnixFD(fd), nil
}

// TestDescriptorsFromStrangersDoNoHarm sends what makes the library panic: if the
// gate let it through, this test's process would end.
func TestDescriptorsFromStrangersDoNoHarm(t *testing.T) {
	address := bustest.Start(t)
	for name, pass := range map[string]dialer.Passing{"none": dialer.None, "answers": dialer.Answers, "replies": dialer.Replies} {
		t.Run(name, func(t *testing.T) {
			conn, err := dialer.Open(address, false, pass)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.Export(echo{}, "/", "org.lull.Echo"); err != nil {
				t.Fatal(err)
			}
			s := stranger(t, address)
			null, err := os.Open("/dev/null")
			if err != nil {
				t.Fatal(err)
			}
			defer null.Close()
			fd := dbus.UnixFD(null.Fd())
			before := openFDs(t)
			for range 50 {
				for _, body := range [][]any{{[]dbus.UnixFD{fd, fd}}, {dbus.MakeVariant([]dbus.UnixFD{fd})}, {fd}, {"x", map[string]dbus.Variant{"k": dbus.MakeVariant(fd)}}} {
					for _, kind := range []dbus.Type{dbus.TypeSignal, dbus.TypeMethodCall} {
						send(t, s, &dbus.Message{Type: kind, Flags: dbus.FlagNoReplyExpected, Headers: map[dbus.HeaderField]dbus.Variant{
							dbus.FieldDestination: dbus.MakeVariant(conn.Names()[0]), dbus.FieldPath: dbus.MakeVariant(dbus.ObjectPath("/")),
							dbus.FieldInterface: dbus.MakeVariant("org.lull.Echo"), dbus.FieldMember: dbus.MakeVariant("Echo"),
						}, Body: body})
					}
				}
			}
			// Messages of one sender keep their order: an answer proves that
			// all the others have passed.
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			var answer string
			long := strings.Repeat("lull", 1<<13)
			if err := s.Object(conn.Names()[0], "/").CallWithContext(ctx, "org.lull.Echo.Echo", 0, long).Store(&answer); err != nil || answer != long {
				t.Fatalf("%d bytes came back: %v; want no error and answer %v", len(answer), err, long)
			}
			if after := openFDs(t); after > before {
				t.Errorf("%d descriptors are open, want at most the %d from before", after, before)
			}
		})
	}
}

// TestLongCallsAreRefused: a call that the gate leaves out has an answer, in the order
// of its peer, and the connection goes on.
func TestLongCallsAreRefused(t *testing.T) {
	address := bustest.Start(t)
	for name, pass := range map[string]dialer.Passing{"answers": dialer.Answers, "replies": dialer.Replies} {
		t.Run(name, func(t *testing.T) {
			conn, err := dialer.Open(address, false, pass)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.Export(echo{}, "/", "org.lull.Echo"); err != nil {
				t.Fatal(err)
			}
			s := stranger(t, address)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			object := s.Object(conn.Names()[0], "/")
			for range 3 {
				err := object.CallWithContext(ctx, "org.lull.Echo.Echo", 0, strings.Repeat("x", 1<<20)).Err
				var e dbus.Error
				if !errors.As(err, &e) || e.Name != "org.lull.Error.LimitsExceeded" || e.Error() != "cannot take the call: it is longer than 64 KiB" {
					t.Fatalf("a long call: got %v, want org.lull.Error.LimitsExceeded with its text about 64 KiB", err)
				}
				var answer string
				if err := object.CallWithContext(ctx, "org.lull.Echo.Echo", 0, "x").Store(&answer); err != nil || answer != "x" {
					t.Fatalf("%q, want x: %v", answer, err)
				}
			}
			// One that expects no reply gets none.
			send(t, s, &dbus.Message{Type: dbus.TypeMethodCall, Flags: dbus.FlagNoReplyExpected, Headers: map[dbus.HeaderField]dbus.Variant{
				dbus.FieldDestination: dbus.MakeVariant(conn.Names()[0]), dbus.FieldPath: dbus.MakeVariant(dbus.ObjectPath("/")),
				dbus.FieldInterface: dbus.MakeVariant("org.lull.Echo"), dbus.FieldMember: dbus.MakeVariant("Echo"),
			}, Body: []any{strings.Repeat("x", 1<<20)}})
			if err := object.CallWithContext(ctx, "org.lull.Echo.Echo", 0, "x").Err; err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestDescriptorsInAnswersPass(t *testing.T) {
	address := bustest.Start(t)
	server, err := dialer.Open(address, false, dialer.Answers)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if err := server.Export(echo{}, "/", "org.lull.Agent1.Manager"); err != nil {
		t.Fatal(err)
	}
	client, err := dialer.Open(address, false, dialer.Replies)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	before := openNulls(t)
	object := client.Object(server.Names()[0], "/")
	for range 20 {
		var fds [2]dbus.UnixFD
		var hash string
		if err := object.CallWithContext(t.Context(), "org.lull.Agent1.Manager.Open", 0, "x").Store(&fds[0], &fds[1], &hash); err != nil {
			t.Fatal(err)
		}
		for _, fd := range fds {
			if target, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(fd))); err != nil || target != "/dev/null" {
				t.Fatal(target, err)
			}
			unix.Close(int(fd))
		}
		// A method that is not known to answer with descriptors does so without them.
		call := object.CallWithContext(t.Context(), "org.lull.Agent1.Manager.File", 0)
		if call.Err != nil {
			t.Fatal(call.Err)
		}
		if _, isFD := call.Body[0].(dbus.UnixFD); isFD {
			t.Fatalf("Manager.File: got %#v, want an answer without a descriptor", call.Body)
		}
	}
	// Those that the server has opened stay open here: 3 a turn.
	// The gate closes its copies right after it has sent them.
	after := openNulls(t)
	for end := time.Now().Add(30 * time.Second); after != before+3*20 && time.Now().Before(end); after = openNulls(t) {
		runtime.Gosched()
	}
	if after != before+3*20 {
		t.Errorf("%d descriptors of /dev/null were open, now %d, want %v", before, after, before+3*20)
	}
}
