package bus

import (
	"context"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/dialer"
)

// Subscription is a stream of all signals that one peer sends from one path
// and below, and of those that it sends to this connection alone.
type Subscription struct {
	// C delivers in order. It is closed when the subscription or the
	// connection is, and when the peer leaves the bus.
	C <-chan *dbus.Signal

	cancel context.CancelFunc
	done   chan struct{}
}

// Subscribe receives the signals of the connection that owns dest now. Signals of other
// senders are dropped. Kind Unavailable means that dest has no owner.
func Subscribe(ctx context.Context, conn *dbus.Conn, dest string, path dbus.ObjectPath) (*Subscription, error) {
	in := make(chan *dbus.Signal, 16)
	conn.Signal(in)
	rules := [][]dbus.MatchOption{
		{dbus.WithMatchSender(dest), dbus.WithMatchPathNamespace(path)},
		{dbus.WithMatchSender("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, dest)},
	}
	undo := func() {
		conn.RemoveSignal(in)
		for _, rule := range rules {
			if conn.Connected() {
				_ = conn.RemoveMatchSignal(rule...)
			}
		}
	}
	var owner string
	var err error
	for _, rule := range rules {
		if err == nil {
			err = conn.AddMatchSignalContext(ctx, rule...)
		}
	}
	if err == nil {
		owner, err = dialer.OwnerOf(ctx, conn, dest)
	}
	if err == nil && owner == "" { // the bus may be able to start it
		err = conn.BusObject().CallWithContext(ctx, busDaemon+".StartServiceByName", 0, dest, uint32(0)).Err
		if err == nil {
			owner, err = dialer.OwnerOf(ctx, conn, dest)
		}
	}
	if err != nil {
		undo()
		return nil, FromBus(err)
	}
	out := make(chan *dbus.Signal)
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s := &Subscription{C: out, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		defer close(out)
		defer undo()
		forward(ctx, conn.Context(), in, out, dest, owner)
	}()
	return s, nil
}

// forward passes the owner's signals on until the owner or the subscription ends.
func forward(ctx, conn context.Context, in <-chan *dbus.Signal, out chan<- *dbus.Signal, dest, owner string) {
	for {
		var sig *dbus.Signal
		var ok bool
		select {
		case sig, ok = <-in:
			if !ok {
				return
			}
		case <-ctx.Done():
			return
		case <-conn.Done():
			return
		}
		if sig.Name == nameOwnerChanged && sig.Sender == busDaemon {
			if name := bodyString(sig.Body, 0); name == dest {
				return
			}
			continue
		}
		if sig.Sender != owner {
			continue
		}
		select {
		case out <- sig:
		case <-ctx.Done():
			return
		case <-conn.Done():
			return
		}
	}
}

// Close ends the subscription and waits for its goroutine.
func (s *Subscription) Close() {
	s.cancel()
	<-s.done
}

// Changed is a PropertiesChanged signal.
type Changed struct {
	Path        dbus.ObjectPath
	Interface   string
	Values      map[string]dbus.Variant
	Invalidated []string
}

// ParseChanged decodes sig, and reports whether it is a PropertiesChanged signal.
func ParseChanged(sig *dbus.Signal) (Changed, bool) {
	c := Changed{Path: sig.Path}
	if sig.Name != propertiesInterface+".PropertiesChanged" || store(sig.Body, &c.Interface, &c.Values, &c.Invalidated) != nil {
		return Changed{}, false
	}
	return c, true
}

// Added is an InterfacesAdded signal.
type Added struct {
	Path       dbus.ObjectPath
	Interfaces map[string]map[string]dbus.Variant
}

// ParseAdded decodes sig, and reports whether it is an InterfacesAdded signal.
func ParseAdded(sig *dbus.Signal) (Added, bool) {
	var a Added
	ok := sig.Name == objectManagerInterface+".InterfacesAdded" && store(sig.Body, &a.Path, &a.Interfaces) == nil
	return a, ok
}

// Removed is an InterfacesRemoved signal.
type Removed struct {
	Path       dbus.ObjectPath
	Interfaces []string
}

// ParseRemoved decodes sig, and reports whether it is an InterfacesRemoved signal.
func ParseRemoved(sig *dbus.Signal) (Removed, bool) {
	var r Removed
	ok := sig.Name == objectManagerInterface+".InterfacesRemoved" && store(sig.Body, &r.Path, &r.Interfaces) == nil
	return r, ok
}

const (
	busDaemon        = "org.freedesktop.DBus"
	nameOwnerChanged = "org.freedesktop.DBus.NameOwnerChanged"
)
