package dialer_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/dialer"
	"github.com/lull/lull/dbus/bustest"
)

// slow serves calls that last until the test ends them.
type slow struct {
	echo
	begun atomic.Int32
	more  chan struct{} // has a value when another one has begun
	end   chan struct{}
}

func (s *slow) Wait(string) *dbus.Error {
	s.begun.Add(1)
	select {
	case s.more <- struct{}{}:
	default:
	}
	<-s.end
	return nil
}

// served is a server on a bus of its own, with connections of two users that are
// neither root nor the user of this process, and one that belongs to no user.
type served struct {
	*slow
	name     string
	mallory  []*dbus.Conn
	vic      *dbus.Conn
	stranger *dbus.Conn
}

func serve(t *testing.T) *served {
	t.Helper()
	address := bustest.Start(t)
	s := &served{slow: &slow{more: make(chan struct{}, 1), end: make(chan struct{})}}
	users := map[string]uint32{}
	for range 10 {
		c := stranger(t, address)
		s.mallory = append(s.mallory, c)
		users[c.Names()[0]] = 1001
	}
	s.vic, s.stranger = stranger(t, address), stranger(t, address)
	users[s.vic.Names()[0]] = 1002
	conn, err := dialer.Serve(address, false, func(sender string) (uint32, error) {
		if uid, ok := users[sender]; ok {
			return uid, nil
		}
		return 0, errors.New("the connection has gone")
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.Export(s.slow, "/", "a.B"); err != nil {
		t.Fatal(err)
	}
	s.name = conn.Names()[0]
	return s
}

// begins waits until n calls have begun.
func (s *served) begins(t *testing.T, n int32) {
	t.Helper()
	timeout := time.After(time.Minute)
	for s.begun.Load() < n {
		select {
		case <-s.more:
		case <-timeout:
			t.Fatalf("%d calls have begun, want %d", s.begun.Load(), n)
		}
	}
}

func (s *served) call(c *dbus.Conn, method string, flags dbus.Flags, text string) *dbus.Call {
	return c.Object(s.name, "/").Go("a.B."+method, flags, make(chan *dbus.Call, 1), text)
}

// echoed calls and waits for the answer.
func (s *served) echoed(t *testing.T, c *dbus.Conn, want string) {
	t.Helper()
	select {
	case call := <-s.call(c, "Echo", 0, want).Done:
		var got string
		if err := call.Store(&got); err != nil || got != want {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	case <-time.After(time.Minute):
		t.Fatalf("%q is not answered", want)
	}
}

// TestFloodOfOneUser: of thousands of calls of one user few reach the library, whether
// they want a reply or not; others are served meanwhile, and that user afterwards.
func TestFloodOfOneUser(t *testing.T) {
	const running, parked = 32, 256
	// The first call of each connection passes while the bus is asked whose it is.
	within := func(n, least int) bool { return n >= least && n < least+10 }
	for _, flags := range []dbus.Flags{0, dbus.FlagNoReplyExpected} {
		t.Run(fmt.Sprint(flags), func(t *testing.T) {
			s := serve(t)
			s.echoed(t, s.mallory[0], "first")
			each := 100 // dbus-daemon has 128 replies of a connection pending
			if flags != 0 {
				each = 500
			}
			var calls []*dbus.Call
			flood := func(each int) {
				for range each {
					for _, c := range s.mallory {
						calls = append(calls, s.call(c, "Wait", flags, ""))
					}
				}
			}
			began := time.Now()
			flood(5)
			s.begins(t, running+9)
			if least := (running - 2) / 2 * 50 * time.Millisecond; time.Since(began) < least {
				t.Errorf("%d calls began within %v, want two in 50 ms: at least %v", running, time.Since(began), least)
			}
			flood(each - 5)
			for i := range 20 {
				s.echoed(t, s.vic, fmt.Sprint(i))
			}
			if n := s.begun.Load(); !within(int(n), running) {
				t.Errorf("%d calls run at the same time, want %d and at most 9 more", n, running)
			}
			for _, c := range s.mallory { // all have arrived before the answer to a later one
				if call := <-s.call(c, "Echo", 0, "").Done; call.Err == nil {
					t.Error("a call has not waited for those before it")
				}
			}
			close(s.end)
			s.begins(t, running+parked)
			done, refused := 0, 0
			for _, c := range calls {
				if flags != 0 {
					break
				}
				select {
				case <-c.Done:
				case <-time.After(time.Minute):
					t.Fatalf("no answer after %d answers and %d refusals", done, refused)
				}
				var e dbus.Error
				if c.Err == nil {
					done++
				} else if errors.As(c.Err, &e) && e.Name == "org.lull.Error.LimitsExceeded" && strings.HasPrefix(e.Error(), "cannot take the call: too many calls") {
					refused++
				} else {
					t.Fatal(c.Err)
				}
			}
			if flags == 0 && (!within(done, running+parked) || refused != len(calls)-done) {
				t.Errorf("got %d calls served and %d of %d refused; want %d served, at most 9 more, and all the others refused", done, refused, len(calls), running+parked)
			}
			s.echoed(t, s.mallory[0], "last")
			if n := s.begun.Load(); !within(int(n), running+parked) {
				t.Errorf("%d calls have come through, want %d and at most 9 more", n, running+parked)
			}
		})
	}
}

// TestLongCallsCostMore, so that their user waits for what they take.
func TestLongCallsCostMore(t *testing.T) {
	s := serve(t)
	close(s.end)
	s.echoed(t, s.mallory[0], "known")
	began := time.Now()
	tokens := -256
	for range 3 {
		var calls []*dbus.Call
		for range 8 { // as many as may wait
			calls = append(calls, s.call(s.mallory[0], "Echo", 0, strings.Repeat("x", 60<<10)))
		}
		for _, c := range calls {
			if <-c.Done; c.Err == nil {
				tokens += 16
			}
		}
	}
	if least := time.Duration(tokens) * time.Second / 128; tokens <= 0 || time.Since(began) < least {
		t.Errorf("the served calls cost %d tokens above the first 256 and took %v, want some and at least %v", tokens, time.Since(began), least)
	}
	s.echoed(t, s.vic, "others")
}

// TestSameSerials: two callers may use the same serial, and each gets its own answer.
func TestSameSerials(t *testing.T) {
	s := serve(t)
	two := []*dbus.Conn{s.mallory[0], s.vic} // whose serials begin alike
	for _, c := range two {
		s.call(c, "Wait", 0, "")
	}
	s.begins(t, 2)
	for i := range 100 {
		for n, c := range two {
			s.echoed(t, c, fmt.Sprint(n, i))
		}
	}
	close(s.end)
}

// TestCallsOfNoUser: the calls of a connection that belongs to no user are dropped, and
// keep nothing from others.
func TestCallsOfNoUser(t *testing.T) {
	s := serve(t)
	for range 3000 {
		s.call(s.stranger, "Wait", dbus.FlagNoReplyExpected, "")
	}
	s.echoed(t, s.vic, "others")
	close(s.end)
}
