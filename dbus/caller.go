package bus

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/problem"
)

// Caller is who sent a method call. Who that is is asked of the bus only when
// somebody wants to know, and as a rule once for each connection.
type Caller struct {
	Sender string // unique name on the bus
	// Interactive says that the caller is ready to be asked for a password.
	Interactive bool

	creds func() (Credentials, error)
	conn  *dbus.Conn
}

// Credentials are what the bus itself knows of a connection.
type Credentials struct {
	UID uint32
	PID int // 0: the bus does not say
}

// callerTimeout bounds the question to the bus about a caller: the bus answers
// at once or is gone.
const callerTimeout = 10 * time.Second

// LocalCaller is a caller whose credentials are known without asking.
func LocalCaller(sender string, uid uint32, pid int) Caller {
	return Caller{Sender: sender, creds: func() (Credentials, error) { return Credentials{uid, pid}, nil }}
}

// maxCallers is how many connections a server remembers.
const maxCallers = 256

// callers are the credentials of connections, by unique name. A bus takes them when
// somebody connects and gives no name twice, so that they stay true for as long as
// our own connection lives. The question would be two trips more for each call.
type callers struct {
	mu    sync.Mutex
	known map[string]Credentials // guarded by mu
}

func (k *callers) of(conn *dbus.Conn, sender string) (Credentials, error) {
	k.mu.Lock()
	c, ok := k.known[sender]
	k.mu.Unlock()
	if ok {
		return c, nil
	}
	c, err := lookUp(conn, sender)
	if err != nil {
		return c, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.known == nil || len(k.known) >= maxCallers {
		k.known = map[string]Credentials{}
	}
	k.known[sender] = c
	return c, nil
}

// Credentials are who that is, which the bus may have to be asked.
func (c Caller) Credentials() (Credentials, error) {
	if c.creds == nil {
		return Credentials{}, problem.New(problem.NotPermitted, "cannot tell who is calling")
	}
	return c.creds()
}

// UID is the user of the caller.
func (c Caller) UID() (uint32, error) {
	cr, err := c.Credentials()
	return cr.UID, err
}

// PID is the process of the caller. It may have ended since; see PIDFD.
func (c Caller) PID() (int, error) {
	cr, err := c.Credentials()
	if err == nil && cr.PID <= 0 {
		err = problem.New(problem.NotPermitted, "cannot tell which process is calling: the bus does not say")
	}
	return cr.PID, err
}

// PIDFD opens a descriptor of the caller's process that can stand for no other.
// The caller of PIDFD closes it.
func (c Caller) PIDFD() (*os.File, error) {
	pid, err := c.PID()
	if err != nil {
		return nil, err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot hold process %d: %w", pid, err)
	}
	f := os.NewFile(uintptr(fd), fmt.Sprintf("pidfd %d", pid))
	if c.conn == nil {
		return f, nil
	}
	// The pid may have gone to another process before the descriptor was
	// open; a connection that is still there keeps that from being so.
	ctx, cancel := context.WithTimeout(context.Background(), callerTimeout)
	defer cancel()
	var there bool
	err = c.conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, c.Sender).Store(&there)
	if err == nil && !there {
		err = problem.New(problem.NotFound, "cannot hold process %d: it has left the bus", pid)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func lookUp(conn *dbus.Conn, sender string) (Credentials, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callerTimeout)
	defer cancel()
	var m map[string]dbus.Variant
	err := conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.GetConnectionCredentials", 0, sender).Store(&m)
	if err != nil {
		return Credentials{}, problem.New(problem.NotPermitted, "cannot tell who is calling: %w", err)
	}
	uid, ok := m["UnixUserID"].Value().(uint32)
	if !ok {
		return Credentials{}, problem.New(problem.NotPermitted, "cannot tell who is calling: the bus does not say")
	}
	pid, _ := m["ProcessID"].Value().(uint32)
	if fd, ok := m["ProcessFD"].Value().(dbus.UnixFD); ok {
		unix.Close(int(fd)) // newer buses offer one; PIDFD opens its own
	}
	return Credentials{UID: uid, PID: int(pid)}, nil
}
