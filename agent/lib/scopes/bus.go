package scopes

import (
	"context"
	"errors"
	"strings"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/dialer"
)

// overBus is a connection to a message bus on which the manager is.
type overBus struct {
	conn    *dbus.Conn
	owner   string // unique name of the manager
	signals chan *dbus.Signal
}

func dialBus(ctx context.Context, system bool) (*overBus, error) {
	conn, err := dialer.Open("", system, dialer.None, dbus.WithContext(ctx), dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
	if err != nil {
		return nil, err
	}
	err = conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(destination), dbus.WithMatchObjectPath(object),
		dbus.WithMatchInterface(manager), dbus.WithMatchMember("JobRemoved"))
	if err != nil {
		conn.Close()
		return nil, err
	}
	b := &overBus{conn: conn, signals: make(chan *dbus.Signal, 64)}
	// Any peer may send a signal to this connection alone, past the match.
	if b.owner, err = dialer.OwnerOf(ctx, conn, destination); err != nil {
		conn.Close()
		return nil, err
	}
	conn.Signal(b.signals)
	return b, nil
}

// start calls StartTransientUnit and returns when the job has ended.
func (b *overBus) start(ctx context.Context, args ...any) error {
	var job dbus.ObjectPath
	if err := b.conn.Object(destination, object).CallWithContext(ctx, manager+".StartTransientUnit", 0, args...).Store(&job); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case sig, ok := <-b.signals:
			if !ok {
				return errors.New("systemd has hung up")
			}
			if sig.Sender != b.owner {
				continue
			}
			member, _ := strings.CutPrefix(sig.Name, manager+".")
			if result, ok := removed(member, sig.Body, job); ok {
				return outcome(result)
			}
		}
	}
}
