// Package dialer opens bus connections that strangers cannot break.
//
// Some messages make the library panic, others make it close the connection (see
// gate), and a bus ends the connection of a client that cannot receive
// descriptors when one is sent to it. So every connection negotiates descriptors,
// and what comes is checked before the library sees it: by a gate where
// descriptors pass, by a plain reader where none does.
//
// The package is small, because the launcher links it. Its functions block on
// the bus and may be called from any goroutine.
package dialer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/godbus/dbus/v5"
)

// Passing is the kind of descriptors that a connection can pass.
type Passing int

// The ways of passing.
const (
	None    Passing = iota // none
	Answers                // with our answers to calls of others, and with the bus's to ours
	Replies                // with those, and with the replies to our own calls
)

// Open connects to a bus by its address, or the words "system" and "session",
// or, where that is empty, to the system bus or the session bus, and
// introduces itself. A bus that is not there is an answer: none is started.
func Open(address string, system bool, pass Passing, opts ...dbus.ConnOption) (*dbus.Conn, error) {
	return openAny(address, system, pass, nil, opts)
}

// Serve is Open for a server with descriptors in its answers. Its time is shared
// between its callers: a user who calls too often waits, alone, and is refused with
// org.lull.Error.LimitsExceeded if too many calls of that user wait. user
// returns the user of a unique name on the bus; it may block, and is called
// from many goroutines.
func Serve(address string, system bool, user func(sender string) (uid uint32, err error), opts ...dbus.ConnOption) (*dbus.Conn, error) {
	return openAny(address, system, Answers, user, opts)
}

func openAny(address string, system bool, pass Passing, user func(string) (uint32, error), opts []dbus.ConnOption) (*dbus.Conn, error) {
	if address == "system" || address == "session" {
		address, system = "", address == "system"
	}
	if address == "" && system {
		if address = os.Getenv("DBUS_SYSTEM_BUS_ADDRESS"); address == "" {
			address = "unix:path=/run/dbus/system_bus_socket"
		}
	}
	if address == "" {
		address = SessionAddress()
	}
	var errs []error
	for one := range strings.SplitSeq(address, ";") {
		conn, err := open(one, pass, user, opts)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// SessionAddress returns the address of the session bus: that of the environment, else the
// bus of the user's systemd, whose directory su and cron leave out of the environment.
func SessionAddress() string {
	if address := os.Getenv("DBUS_SESSION_BUS_ADDRESS"); address != "" {
		return address
	}
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if dir == "" {
		dir = "/run/user/" + strconv.Itoa(os.Geteuid())
	}
	return "unix:path=" + dir + "/bus"
}

func open(address string, pass Passing, user func(string) (uint32, error), opts []dbus.ConnOption) (*dbus.Conn, error) {
	if !strings.HasPrefix(address, "unix:") {
		return dbus.Connect(address, opts...) // no descriptors there
	}
	c, err := dialUnix(address)
	if err != nil {
		return nil, err
	}
	if pass != None {
		end, err := gated(c, pass == Replies, user)
		if err != nil {
			c.Close()
			return nil, err
		}
		return dbus.ConnectUnix(end, opts...)
	}
	conn, err := dbus.NewConn(newPlain(c), opts...)
	if err != nil {
		c.Close()
		return nil, err
	}
	if err = conn.Auth(nil); err == nil {
		err = conn.Hello()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// dialUnix connects to "unix:path=…" or "unix:abstract=…".
func dialUnix(address string) (*net.UnixConn, error) {
	for part := range strings.SplitSeq(strings.TrimPrefix(address, "unix:"), ",") {
		key, value, _ := strings.Cut(part, "=")
		value, err := unescape(value)
		if err != nil {
			return nil, err
		}
		switch key {
		case "path":
			return net.DialUnix("unix", nil, &net.UnixAddr{Name: value, Net: "unix"})
		case "abstract":
			return net.DialUnix("unix", nil, &net.UnixAddr{Name: "@" + value, Net: "unix"})
		}
	}
	return nil, fmt.Errorf("the address %q has neither path nor abstract", address)
}

// unescape undoes %XX in the value of an address.
func unescape(s string) (string, error) {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			out.WriteByte(s[i])
			continue
		}
		var c byte
		if _, err := fmt.Sscanf(s[i:min(i+3, len(s))], "%%%02x", &c); err != nil {
			return "", fmt.Errorf("the address has %q, which is no escape", s[i:min(i+3, len(s))])
		}
		out.WriteByte(c)
		i += 2
	}
	return out.String(), nil
}

// OwnerOf returns the unique name of the connection that owns a name of the bus, or "".
func OwnerOf(ctx context.Context, conn *dbus.Conn, name string) (owner string, err error) {
	err = conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.GetNameOwner", 0, name).Store(&owner)
	var e dbus.Error
	if errors.As(err, &e) && e.Name == "org.freedesktop.DBus.Error.NameHasNoOwner" {
		return "", nil
	}
	return owner, err
}
