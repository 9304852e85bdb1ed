package bus

import (
	"context"
	"os"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/dialer"
	"github.com/lull/lull/agent/lib/errkind"
)

// Dial connects to the bus at address, or, where that is empty, to the system
// bus or the session bus. The context bounds the dialling only. Signals keep
// their order. No descriptors pass; see DialFDs.
func Dial(ctx context.Context, address string, system bool) (*dbus.Conn, error) {
	return dial(ctx, address, system, func(opts ...dbus.ConnOption) (*dbus.Conn, error) {
		return dialer.Open(address, system, dialer.None, opts...)
	})
}

// DialFDs is Dial for a client that receives descriptors in the replies to its calls.
// Other messages with descriptors are dropped.
func DialFDs(ctx context.Context, address string, system bool, opts ...dbus.ConnOption) (*dbus.Conn, error) {
	return dial(ctx, address, system, func(more ...dbus.ConnOption) (*dbus.Conn, error) {
		return dialer.Open(address, system, dialer.Replies, append(opts, more...)...)
	})
}

// dial connects by open, until the context ends.
func dial(ctx context.Context, address string, system bool, open func(...dbus.ConnOption) (*dbus.Conn, error)) (*dbus.Conn, error) {
	type result struct {
		conn *dbus.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		conn, err := open(dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
		done <- result{conn, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, errkind.New(errkind.Unavailable, "cannot reach the %s: %w", busName(address, system), r.err).
				WithHint("%s", busHint(address, system))
		}
		return r.conn, nil
	case <-ctx.Done():
		go func() { // the dialling ends when the peer answers or hangs up
			if r := <-done; r.conn != nil {
				r.conn.Close()
			}
		}()
		return nil, errkind.New(errkind.Unavailable, "cannot reach the %s: it does not answer: %w", busName(address, system), context.Cause(ctx)).
			WithHint("%s", busHint(address, system))
	}
}

func busName(address string, system bool) string {
	switch {
	case address != "":
		return "bus at " + address
	case system:
		return "system bus"
	}
	return "session bus"
}

func busHint(address string, system bool) string {
	if address == "" && !system && os.Getenv("DBUS_SESSION_BUS_ADDRESS") == "" {
		return "this user has no session bus: it begins with a log-in, and stays without one after `loginctl enable-linger`; --session-bus names another"
	}
	return "is the message bus (dbus-daemon or dbus-broker) running?"
}
