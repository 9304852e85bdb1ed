package bus

import (
	"context"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/dbus/dialer"
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

// Subscribe listens to whoever owns dest now. Signals of others, also those
// that claim to be from there, are dropped. If nobody owns it the error is of
// kind Unavailable.
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
	if err == nil && owner == "" { // the bus may know how to start it
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

// forward passes the owner's signals on until somebody leaves.
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

// ParseChanged reads sig, or says that it is something else.
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

// ParseAdded reads sig, or says that it is something else.
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

// ParseRemoved reads sig, or says that it is something else.
func ParseRemoved(sig *dbus.Signal) (Removed, bool) {
	var r Removed
	ok := sig.Name == objectManagerInterface+".InterfacesRemoved" && store(sig.Body, &r.Path, &r.Interfaces) == nil
	return r, ok
}

const (
	busDaemon        = "org.freedesktop.DBus"
	nameOwnerChanged = "org.freedesktop.DBus.NameOwnerChanged"
)
