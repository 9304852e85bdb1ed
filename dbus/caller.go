package bus

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/accounts"
	"github.com/lull/lull/agent/lib/errkind"
)

// Caller is the connection that sent a method call. The bus is asked for its credentials
// when they are first needed, and as a rule once for each connection.
type Caller struct {
	Sender string // unique name on the bus
	// Interactive reports that the caller accepts a password prompt.
	Interactive bool

	creds func() (Credentials, error)
	conn  *dbus.Conn
	of    *callers // of the server that serves the call; nil with conn
}

// Credentials are the bus's own record of a connection.
type Credentials struct {
	UID uint32
	PID int // 0 if the bus does not report it
}

// callerTimeout bounds the request for a caller's credentials, as sd-bus bounds its
// calls. A bus that works replies at once, unless the machine has no CPU time left.
const callerTimeout = 25 * time.Second

// LocalCaller returns a caller with given credentials; no bus is asked.
func LocalCaller(sender string, uid uint32, pid int) Caller {
	return Caller{Sender: sender, creds: func() (Credentials, error) { return Credentials{uid, pid}, nil }}
}

const (
	// maxCallers is how many connections a server remembers. A user has at most 256 on
	// dbus-daemon's system bus.
	maxCallers = 2048

	// maxPIDFDs is how many replies with a descriptor a server waits for at a time.
	// dbus-daemon passes no message at all to a connection that has replies
	// with more than 64 descriptors queued (max_outgoing_unix_fds,
	// dbus-daemon(1)).
	maxPIDFDs = 16
)

// callers are the credentials of connections, by unique name. A bus records them when a
// client connects and gives no name twice, so they stay true for as long as our own
// connection lives. Without this cache each call would need two more round trips.
type callers struct {
	asking chan struct{} // holds a value for each question whose answer has a descriptor

	mu    sync.Mutex
	known map[string]func() (Credentials, error) // guarded by mu: asks once
}

func newCallers() *callers {
	return &callers{asking: make(chan struct{}, maxPIDFDs), known: map[string]func() (Credentials, error){}}
}

func (k *callers) of(conn *dbus.Conn, sender string) (Credentials, error) {
	k.mu.Lock()
	get := k.known[sender]
	if get == nil {
		for other := range k.known {
			if len(k.known) < maxCallers {
				break
			}
			delete(k.known, other) // any one: it is re-queried at its next call
		}
		get = sync.OnceValues(func() (Credentials, error) { return lookUp(conn, sender) })
		k.known[sender] = get
	}
	k.mu.Unlock()
	c, err := get()
	if err != nil {
		k.mu.Lock()
		delete(k.known, sender)
		k.mu.Unlock()
	}
	return c, err
}

// Credentials returns the credentials of the caller. It may ask the bus.
func (c Caller) Credentials() (Credentials, error) {
	if c.creds == nil {
		return Credentials{}, errkind.New(errkind.NotPermitted, "cannot identify the caller")
	}
	return c.creds()
}

// UID is the user of the caller.
func (c Caller) UID() (uint32, error) {
	cr, err := c.Credentials()
	return cr.UID, err
}

// account is the user whose bounds the call counts for, see accounts.Of.
func (c Caller) account() (uint32, error) {
	uid, err := c.UID()
	return accounts.Of(uid), err
}

// PID is the process of the caller. It may have ended since; see PIDFD.
func (c Caller) PID() (int, error) {
	cr, err := c.Credentials()
	if err == nil && cr.PID <= 0 {
		err = errkind.New(errkind.NotPermitted, "cannot identify the calling process: the bus does not report it")
	}
	return cr.PID, err
}

// PIDFD returns a descriptor of the caller's process, which no other process can take
// over. The caller of PIDFD closes it.
//
// Buses since 1.15.8 keep a descriptor of the process that connected, and return it.
// Older ones return the process number alone. It may belong to another process if the
// one that connected has ended and left its connection to a child.
func (c Caller) PIDFD() (*os.File, error) {
	pid, err := c.PID()
	if err != nil {
		return nil, err
	}
	if c.conn == nil {
		return openPIDFD(pid)
	}
	f, err := c.of.pidfd(c.conn, c.Sender)
	if f != nil || err != nil {
		return f, err
	}
	if f, err = openPIDFD(pid); err != nil {
		return nil, err
	}
	// The pid may have gone to another process before the descriptor was
	// open; a connection that is still there keeps that from being so.
	ctx, cancel := context.WithTimeout(context.Background(), callerTimeout)
	defer cancel()
	var there bool
	err = c.conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, c.Sender).Store(&there)
	if err == nil && !there {
		err = errkind.New(errkind.NotFound, "cannot hold process %d: it has left the bus", pid)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func openPIDFD(pid int) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot hold process %d: %w", pid, err)
	}
	return os.NewFile(uintptr(fd), fmt.Sprintf("pidfd %d", pid)), nil
}

// lookUp asks the bus for the user and the process of a connection. It asks for no
// descriptor: see maxPIDFDs.
func lookUp(conn *dbus.Conn, sender string) (c Credentials, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), callerTimeout)
	defer cancel()
	user := conn.BusObject().GoWithContext(ctx, "org.freedesktop.DBus.GetConnectionUnixUser", 0, make(chan *dbus.Call, 1), sender)
	process := conn.BusObject().GoWithContext(ctx, "org.freedesktop.DBus.GetConnectionUnixProcessID", 0, make(chan *dbus.Call, 1), sender)
	if err := (<-user.Done).Store(&c.UID); err != nil {
		return c, errkind.New(errkind.NotPermitted, "cannot identify the caller: %w", err)
	}
	var pid uint32
	if (<-process.Done).Store(&pid) == nil { // else the bus does not report it
		c.PID = int(pid)
	}
	return c, nil
}

// pidfd asks the bus for a descriptor of the process of a connection; it is nil if the
// bus has none. The caller closes it.
func (k *callers) pidfd(conn *dbus.Conn, sender string) (*os.File, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callerTimeout)
	defer cancel()
	select {
	case k.asking <- struct{}{}:
		defer func() { <-k.asking }()
	case <-ctx.Done():
		return nil, errkind.New(errkind.NotPermitted, "cannot identify the caller: %w", ctx.Err())
	}
	var m map[string]dbus.Variant
	err := conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.GetConnectionCredentials", 0, sender).Store(&m)
	if err != nil {
		return nil, errkind.New(errkind.NotPermitted, "cannot identify the caller: %w", err)
	}
	fd, ok := m["ProcessFD"].Value().(dbus.UnixFD)
	if !ok {
		return nil, nil
	}
	return os.NewFile(uintptr(fd), "pidfd of "+sender), nil
}
