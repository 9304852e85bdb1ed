// Package units runs services as transient units of systemd: of the system's
// manager, for the agent, and of a user's, for an agent without root and for the
// session helper.
//
// A Manager talks over systemd's private socket, which works before and without a
// message bus. It may be used from several goroutines, one call a unit at a time.
// Start and Stop block until systemd's job is done.
package units

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/printable"
	"github.com/lull/lull/agent/lib/runname"
)

// The states of a service.
const (
	Active   = "active"
	Inactive = "inactive"
	Failed   = "failed"
)

// DefaultStopTimeout bounds a stop if the package has no limit; systemd's own
// default of 90 s would block launches for too long.
const DefaultStopTimeout = 10 * time.Second

// Unit is one service of one instance.
type Unit struct {
	Instance    string
	Service     string
	Command     []string
	StopSignal  string        // empty means SIGTERM
	StopTimeout time.Duration // after which it is killed; 0 means DefaultStopTimeout
	User        string        // of a system service; empty means root
	Notifies    bool          // the service itself reports that it is ready, within ReadyTimeout; else its launcher does
}

// Name is the name of the unit.
func (u Unit) Name() string { return runname.ServiceUnit(u.Instance, u.Service) }

// Manager is one systemd.
type Manager struct {
	socket string

	mu   sync.Mutex
	conn *systemd.Conn // nil until needed, and after it broke
}

// systemSocket is where the machine's systemd listens for root.
const systemSocket = "/run/systemd/private"

// System is the manager of the machine.
func System() *Manager { return &Manager{socket: systemSocket} }

// Booted reports whether the machine has one.
func Booted() bool {
	_, err := os.Stat(systemSocket)
	return err == nil
}

// User is the manager of the caller.
func User() *Manager {
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if dir == "" {
		dir = filepath.Join("/run/user", strconv.Itoa(os.Getuid()))
	}
	return &Manager{socket: filepath.Join(dir, "systemd", "private")}
}

func (m *Manager) connect(ctx context.Context) (*systemd.Conn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn != nil && m.conn.Connected() {
		return m.conn, nil
	}
	conn, err := systemd.NewConnection(func() (*dbus.Conn, error) {
		c, err := dbus.Dial("unix:path="+m.socket, dbus.WithContext(context.WithoutCancel(ctx)))
		if err != nil {
			return nil, err
		}
		if err := c.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Getuid()))}); err != nil {
			c.Close()
			return nil, err
		}
		return c, nil
	})
	if err != nil {
		return nil, errkind.New(errkind.Unavailable, "cannot reach systemd at %s: %w", m.socket, err)
	}
	m.conn = conn
	return conn, nil
}

// Start starts a unit that is not active. When it returns, its command, a
// launcher, has reported that it executes the service.
func (m *Manager) Start(ctx context.Context, u Unit) error {
	state, err := m.State(ctx, u)
	if err != nil || state == Active {
		return err
	}
	// One that failed, or that systemd is about to restart, blocks the start.
	if err := m.Stop(ctx, u); err != nil {
		return err
	}
	conn, err := m.connect(ctx)
	if err != nil {
		return err
	}
	stop := u.StopTimeout
	if stop <= 0 {
		stop = DefaultStopTimeout
	}
	access, limit := "main", forever
	if u.Notifies {
		// Any process of it may report, as those of a script do.
		access, limit = "all", uint64(ReadyTimeout.Microseconds())
	}
	props := []systemd.Property{
		systemd.PropDescription("Service " + u.Service + " of " + u.Instance),
		systemd.PropExecStart(u.Command, false),
		// The launcher reports when it is done. It may have to wait for a refresh.
		property("Type", "notify"),
		property("NotifyAccess", access),
		property("TimeoutStartUSec", limit),
		property("TimeoutStopUSec", uint64(stop.Microseconds())),
		// A service that crashes is restarted, through the launcher and so in
		// the revision that is current then. It is given up, and shown as
		// failed, if that does not help: its instance may be gone, and the
		// agent too.
		property("Restart", "on-failure"),
		property("RestartUSec", uint64(restartPause.Microseconds())),
		property("StartLimitIntervalUSec", uint64(restartInterval.Microseconds())),
		property("StartLimitBurst", uint32(restartBurst)),
	}
	if u.StopSignal != "" {
		props = append(props, property("KillSignal", int32(Signal(u.StopSignal))))
	}
	if u.User != "" {
		props = append(props, property("User", u.User))
	}
	done := make(chan string, 1)
	if err := start(ctx, conn, u.Name(), props, done); err != nil {
		return err
	}
	err = wait(ctx, done, "start", u.Name())
	if err == nil || !u.Notifies {
		return err
	}
	return m.notReady(context.WithoutCancel(ctx), conn, u, err)
}

// notReady is the error about a service whose start has failed with err. systemd may be
// about to restart it.
func (m *Manager) notReady(ctx context.Context, conn *systemd.Conn, u Unit, err error) error {
	all, perr := conn.GetUnitTypePropertiesContext(ctx, u.Name(), "Service")
	if perr != nil {
		return err
	}
	switch all["Result"] {
	case "timeout":
		return fmt.Errorf("cannot start service %s of %s: it has not reported that it is ready (READY=1) within %s", u.Service, u.Instance, printable.Duration(ReadyTimeout))
	case "protocol": // it has ended without an error
		return fmt.Errorf("cannot start service %s of %s: it ended before it was ready", u.Service, u.Instance)
	}
	if why := m.outcome(ctx, conn, u.Name(), "failed"); why != nil {
		return fmt.Errorf("cannot start service %s of %s: it ended before it was ready: %w", u.Service, u.Instance, why)
	}
	return err
}

// ReadyTimeout is how long a service that reports when it is ready may take for that:
// what systemd gives services (DefaultTimeoutStartSec=, systemd-system.conf(5)).
const ReadyTimeout = 90 * time.Second

const (
	// unloadPatience is how long systemd may take to unload a unit that has stopped.
	unloadPatience = 10 * time.Second
	// unloadPause is the time between two attempts.
	unloadPause = 10 * time.Millisecond
)

// start starts a transient unit whose predecessor of the same name has stopped. systemd
// unloads a stopped unit in a later turn of its event loop, and refuses a unit of its
// name (UnitExists) until then.
func start(ctx context.Context, conn *systemd.Conn, name string, props []systemd.Property, done chan string) error {
	for end := time.Now().Add(unloadPatience); ; {
		_, err := conn.StartTransientUnitContext(ctx, name, "replace", props, done)
		if err == nil {
			return nil
		}
		if !is(err, "UnitExists") || time.Now().After(end) {
			return errors.Join(context.Cause(ctx), fmt.Errorf("cannot start %s: %w", name, err))
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(unloadPause):
		}
	}
}

// How often systemd restarts a service that crashes: so many times in an
// interval.
const (
	restartPause    = time.Second
	restartInterval = time.Minute
	restartBurst    = 5
)

// forever is systemd's infinity, in microseconds.
const forever = uint64(math.MaxUint64)

// Stop stops a unit, and has systemd forget how it ended; one that is not there is
// stopped already.
func (m *Manager) Stop(ctx context.Context, u Unit) error {
	conn, err := m.connect(ctx)
	if err != nil {
		return err
	}
	return stop(ctx, conn, u.Name())
}

func stop(ctx context.Context, conn *systemd.Conn, name string) error {
	done := make(chan string, 1)
	_, err := conn.StopUnitContext(ctx, name, "replace", done)
	if is(err, "NoSuchUnit") {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot stop %s: %w", name, err)
	}
	if err := wait(ctx, done, "stop", name); err != nil {
		return err
	}
	if err := conn.ResetFailedUnitContext(ctx, name); err != nil && !is(err, "NoSuchUnit") {
		return fmt.Errorf("cannot stop %s: %w", name, err)
	}
	return nil
}

// State is one of Active, Inactive, Failed.
func (m *Manager) State(ctx context.Context, u Unit) (string, error) {
	conn, err := m.connect(ctx)
	if err != nil {
		return "", err
	}
	p, err := conn.GetUnitPropertyContext(ctx, u.Name(), "ActiveState")
	if is(err, "NoSuchUnit") {
		return Inactive, nil
	}
	if err != nil {
		return "", err
	}
	switch v, _ := p.Value.Value().(string); v {
	case "active", "reloading":
		return Active, nil
	case "failed":
		return Failed, nil
	default:
		return Inactive, nil
	}
}

// goingDownTimeout bounds the question whether systemd is shutting down.
const goingDownTimeout = 5 * time.Second

// GoingDown reports whether this systemd is stopping everything.
func (m *Manager) GoingDown() bool {
	ctx, cancel := context.WithTimeout(context.Background(), goingDownTimeout)
	defer cancel()
	conn, err := m.connect(ctx)
	if err != nil {
		return false
	}
	p, err := conn.SystemStateContext(ctx)
	if err != nil {
		return false
	}
	state, _ := p.Value.Value().(string)
	return state == "stopping"
}

// Close ends the connection; units go on.
func (m *Manager) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn != nil {
		m.conn.Close()
		m.conn = nil
	}
	return nil
}

func property(name string, v any) systemd.Property {
	return systemd.Property{Name: name, Value: dbus.MakeVariant(v)}
}

func wait(ctx context.Context, done <-chan string, verb, name string) error {
	select {
	case result := <-done:
		if result == "done" {
			return nil
		}
		return fmt.Errorf("cannot %s %s: systemd's job ended with %q", verb, name, result)
	case <-ctx.Done():
		return fmt.Errorf("cannot %s %s: %w", verb, name, context.Cause(ctx))
	}
}

// is reports whether err is one of systemd's.
func is(err error, name string) bool {
	var p *dbus.Error
	if errors.As(err, &p) {
		return p.Name == "org.freedesktop.systemd1."+name
	}
	var v dbus.Error
	return errors.As(err, &v) && v.Name == "org.freedesktop.systemd1."+name
}

// Signal turns a name that the meta has vouched for into its number.
func Signal(name string) syscall.Signal {
	if n := unix.SignalNum(name); n != 0 {
		return n
	}
	return syscall.SIGTERM
}
