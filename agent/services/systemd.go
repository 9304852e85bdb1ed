package services

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/coreos/go-systemd/v22/unit"
	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/meta"
	"github.com/lull/lull/agent/problem"
)

// Systemd runs services as transient units of the system's manager or, in
// rootless mode, of the user's.
type Systemd struct {
	launcher Launcher
	scope    string
	socket   string

	mu   sync.Mutex
	conn *systemd.Conn // nil until needed, and again after it broke
}

// NewSystemd uses systemd's private socket, which works before and without a message bus.
func NewSystemd(l Launcher, user bool) *Systemd {
	s := &Systemd{launcher: l, scope: meta.ScopeSystem, socket: "/run/systemd/private"}
	if user {
		s.scope = meta.ScopeUser
		s.socket = filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), "systemd", "private")
	}
	return s
}

// Name implements Manager.
func (s *Systemd) Name() string { return "systemd" }

// Scope implements Manager.
func (s *Systemd) Scope() string { return s.scope }

// UnitName is the name of a service's unit.
func UnitName(u Unit) string {
	return "lull-" + unit.UnitNameEscape(u.Instance) + "-" + unit.UnitNameEscape(u.Service.Name) + ".service"
}

func (s *Systemd) connect(ctx context.Context) (*systemd.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil && s.conn.Connected() {
		return s.conn, nil
	}
	conn, err := systemd.NewConnection(func() (*dbus.Conn, error) {
		c, err := dbus.Dial("unix:path="+s.socket, dbus.WithContext(context.WithoutCancel(ctx)))
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
		return nil, problem.New(problem.Unavailable, "cannot reach systemd at %s: %w", s.socket, err)
	}
	s.conn = conn
	return conn, nil
}

// Start implements Manager.
func (s *Systemd) Start(ctx context.Context, u Unit) error {
	state, err := s.State(ctx, u)
	if err != nil || state == Active {
		return err
	}
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	// One that failed, or that systemd is about to start again, is in the way.
	if err := s.clear(ctx, conn, u); err != nil {
		return err
	}
	props := []systemd.Property{
		systemd.PropDescription("Service " + u.Service.Name + " of " + u.Instance),
		systemd.PropExecStart(s.launcher.command(u), false),
		// The launcher says when it is done. It may have to wait for a refresh.
		property("Type", "notify"),
		property("NotifyAccess", "main"),
		property("TimeoutStartUSec", forever),
		property("TimeoutStopUSec", uint64(stopTimeout(u).Microseconds())),
		// A service that crashes is started again, through the launcher and so in
		// the revision that is current then. It is given up, and shown as failed, if
		// that does not help: its instance may be gone, and the agent too.
		property("Restart", "on-failure"),
		property("RestartUSec", uint64(restartPause.Microseconds())),
		property("StartLimitIntervalUSec", uint64(restartInterval.Microseconds())),
		property("StartLimitBurst", uint32(restartBurst)),
	}
	if u.StopSignal != "" {
		props = append(props, property("KillSignal", int32(signalOf(u.StopSignal))))
	}
	if u.User != "" {
		props = append(props, property("User", u.User))
	}
	done := make(chan string, 1)
	if _, err := conn.StartTransientUnitContext(ctx, UnitName(u), "replace", props, done); err != nil {
		return fmt.Errorf("cannot start %s: %w", UnitName(u), err)
	}
	return wait(ctx, done, "start", u)
}

// How often systemd starts a service again that crashes: so many times in an
// interval.
const (
	restartPause    = time.Second
	restartInterval = time.Minute
	restartBurst    = 5
)

// forever is systemd's infinity, in microseconds.
const forever = uint64(math.MaxUint64)

// clear stops the unit and has systemd forget how it ended.
func (s *Systemd) clear(ctx context.Context, conn *systemd.Conn, u Unit) error {
	done := make(chan string, 1)
	_, err := conn.StopUnitContext(ctx, UnitName(u), "replace", done)
	if isNoSuchUnit(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot stop %s: %w", UnitName(u), err)
	}
	if err := wait(ctx, done, "stop", u); err != nil {
		return err
	}
	if err := conn.ResetFailedUnitContext(ctx, UnitName(u)); err != nil && !isNoSuchUnit(err) {
		return fmt.Errorf("cannot stop %s: %w", UnitName(u), err)
	}
	return nil
}

// Stop implements Manager.
func (s *Systemd) Stop(ctx context.Context, u Unit) error {
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	if err := s.clear(ctx, conn, u); err != nil {
		return err
	}
	left, err := s.launcher.Tracks.ServiceProcs(u.Instance, u.Service.Name)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("cannot stop %s: %d processes are left in its cgroup", UnitName(u), len(left))
	}
	return nil
}

// State implements Manager.
func (s *Systemd) State(ctx context.Context, u Unit) (string, error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return "", err
	}
	p, err := conn.GetUnitPropertyContext(ctx, UnitName(u), "ActiveState")
	if isNoSuchUnit(err) {
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

// Close implements Manager.
func (s *Systemd) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
	return nil
}

func property(name string, v any) systemd.Property {
	return systemd.Property{Name: name, Value: dbus.MakeVariant(v)}
}

func wait(ctx context.Context, done <-chan string, verb string, u Unit) error {
	select {
	case result := <-done:
		if result == "done" {
			return nil
		}
		return fmt.Errorf("cannot %s %s: systemd's job ended with %q", verb, UnitName(u), result)
	case <-ctx.Done():
		return fmt.Errorf("cannot %s %s: %w", verb, UnitName(u), context.Cause(ctx))
	}
}

func isNoSuchUnit(err error) bool {
	var e dbus.Error
	if p, ok := err.(*dbus.Error); ok {
		e = *p
	} else if v, ok := err.(dbus.Error); ok {
		e = v
	}
	return e.Name == "org.freedesktop.systemd1.NoSuchUnit"
}

// signalOf turns a name that the meta has vouched for into its number.
func signalOf(name string) syscall.Signal {
	if n := unix.SignalNum(name); n != 0 {
		return n
	}
	return syscall.SIGTERM
}
