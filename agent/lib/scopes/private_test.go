package scopes

import (
	"bufio"
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestPrivateSocketThatFails is about managers that misbehave unlike systemd:
// they must neither hang a launch nor make it ask twice. That the socket works
// is tested with systemd, in e2e/container.
func TestPrivateSocketThatFails(t *testing.T) {
	for _, c := range []struct {
		name    string
		answer  string // to the handshake, before it hangs up
		silent  bool   // it does not even hang up
		refused bool   // the bus may be tried: nothing has been asked for
	}{
		{name: "refuses", answer: "REJECTED EXTERNAL\r\n", refused: true},
		{name: "hangs up at once", refused: true},
		{name: "hangs up later", answer: "OK 0123456789abcdef0123456789abcdef\r\n"},
		{name: "talks nonsense", answer: "OK 0123456789abcdef0123456789abcdef\r\n" + strings.Repeat("\xff", 64)},
		{name: "says nothing more", answer: "OK 0123456789abcdef0123456789abcdef\r\n", silent: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "private")
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			asked := make(chan string, 1)
			over := make(chan struct{})
			go func() {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				in := bufio.NewReader(conn)
				line, _ := in.ReadString('\n')
				asked <- line
				if !c.refused { // it has heard the call before it hangs up
					in.ReadString('\n')
					in.ReadByte()
				}
				conn.Write([]byte(c.answer))
				if c.silent {
					<-over
				}
			}()
			defer close(over)
			limit := 30 * time.Second
			if c.silent {
				limit = 100 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			p, err := dialPrivate(ctx, path)
			if err != nil {
				t.Fatal(err)
			}
			defer p.close()
			if err = p.send([]any{"x.scope", "fail", []property{}, []auxiliary{}}); err == nil {
				err = p.wait()
			}
			if err == nil || errors.Is(err, errRefused) != c.refused {
				t.Errorf("it says %v; refused: want %v", err, c.refused)
			}
			if line := <-asked; !strings.HasPrefix(line, "\x00AUTH EXTERNAL ") {
				t.Errorf("it was asked %q; want line that begins with %q", line, "\x00AUTH EXTERNAL ")
			}
			if c.silent && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("after its time: got %v, want the error %v", err, context.DeadlineExceeded)
			}
		})
	}
}
