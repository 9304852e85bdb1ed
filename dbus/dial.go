package bus

import (
	"context"
	"errors"
	"os"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/problem"
)

// Dial connects to the bus at address, or, where that is empty, to the system
// bus or the session bus. The context bounds the dialling only. Signals keep
// their order.
func Dial(ctx context.Context, address string, system bool) (*dbus.Conn, error) {
	return dial(ctx, address, system)
}

func dial(ctx context.Context, address string, system bool, opts ...dbus.ConnOption) (*dbus.Conn, error) {
	opts = append(opts, dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
	type result struct {
		conn *dbus.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		conn, err := connect(address, system, opts)
		done <- result{conn, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, problem.New(problem.Unavailable, "cannot reach the %s: %w", busName(address, system), r.err).
				WithHint("%s", busHint(address, system))
		}
		return r.conn, nil
	case <-ctx.Done():
		go func() { // the dialling ends when the peer answers or hangs up
			if r := <-done; r.conn != nil {
				r.conn.Close()
			}
		}()
		return nil, problem.New(problem.Unavailable, "cannot reach the %s: it does not answer: %w", busName(address, system), context.Cause(ctx)).
			WithHint("%s", busHint(address, system))
	}
}

func connect(address string, system bool, opts []dbus.ConnOption) (*dbus.Conn, error) {
	switch {
	case address != "":
		return dbus.Connect(address, opts...)
	case system:
		return dbus.ConnectSystemBus(opts...)
	}
	// A bus that is not there is an answer: none is started.
	conn, err := dbus.SessionBusPrivateNoAutoStartup(opts...)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(conn.Auth(nil), conn.Hello()); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
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
		return "there is no session bus here; set DBUS_SESSION_BUS_ADDRESS or use --session-bus"
	}
	return "is the message bus (dbus-daemon or dbus-broker) running?"
}
