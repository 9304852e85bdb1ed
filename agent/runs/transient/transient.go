// Package transient asks systemd for transient scopes: groups that systemd
// keeps for processes that it did not start. See org.freedesktop.systemd1(5)
// and systemd.scope(5).
//
// It speaks to systemd's private socket where the caller may use it, which
// works before and without a message bus, and to the bus otherwise. A Manager
// is a connection for one caller at a time.
package transient

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/problem"
	"github.com/lull/lull/dbus/dialer"
)

const (
	destination = "org.freedesktop.systemd1"
	object      = dbus.ObjectPath("/org/freedesktop/systemd1")
	manager     = "org.freedesktop.systemd1.Manager"
)

// Manager is a connection to the system's systemd or to a user's.
type Manager struct {
	conn    *dbus.Conn
	signals chan *dbus.Signal
}

// System connects to the manager of the system.
func System(ctx context.Context) (*Manager, error) {
	return connect(ctx, "the system's systemd", "/run/systemd/private", true)
}

// User connects to the caller's own manager. Kind Unavailable: there is none,
// because the caller has no session and does not linger.
func User(ctx context.Context) (*Manager, error) {
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if dir == "" {
		dir = filepath.Join("/run/user", strconv.Itoa(os.Getuid()))
	}
	return connect(ctx, "the user's systemd", filepath.Join(dir, "systemd", "private"), false)
}

func connect(ctx context.Context, who, socket string, system bool) (*Manager, error) {
	opts := []dbus.ConnOption{dbus.WithContext(ctx), dbus.WithSignalHandler(dbus.NewSequentialSignalHandler())}
	auth := []dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Getuid()))}
	conn, err := dbus.Dial("unix:path="+socket, opts...)
	if err == nil {
		if err = conn.Auth(auth); err == nil {
			return listen(conn), nil // no Hello: there is no bus on the way
		}
		conn.Close()
	}
	conn, berr := dialer.Open("", system, dialer.None, opts...)
	if berr != nil {
		return nil, problem.New(problem.Unavailable, "cannot reach %s: %w", who, err)
	}
	berr = conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(destination), dbus.WithMatchObjectPath(object),
		dbus.WithMatchInterface(manager), dbus.WithMatchMember("JobRemoved"))
	if berr != nil {
		conn.Close()
		return nil, problem.New(problem.Unavailable, "cannot reach %s: %w", who, errors.Join(err, berr))
	}
	return listen(conn), nil
}

func listen(conn *dbus.Conn) *Manager {
	m := &Manager{conn: conn, signals: make(chan *dbus.Signal, 64)}
	conn.Signal(m.signals)
	return m
}

// Close ends the connection.
func (m *Manager) Close() error { return m.conn.Close() }

// property is (sv), and auxiliary unit (sa(sv)), as StartTransientUnit wants them.
type property struct {
	Name  string
	Value dbus.Variant
}

type auxiliary struct {
	Name       string
	Properties []property
}

// Scope is what Start makes.
type Scope struct {
	Name        string // of the unit, with .scope
	Description string
	Slice       string // "" for the manager's default
	PIDs        []uint32
}

// Start makes a scope, with the processes in it, and returns when systemd has
// done so.
func (m *Manager) Start(ctx context.Context, s Scope) error {
	props := []property{
		{"Description", dbus.MakeVariant(s.Description)},
		{"PIDs", dbus.MakeVariant(s.PIDs)},
		// A scope whose last process failed must not stay as "failed".
		{"CollectMode", dbus.MakeVariant("inactive-or-failed")},
	}
	if s.Slice != "" {
		props = append(props, property{"Slice", dbus.MakeVariant(s.Slice)})
	}
	var job dbus.ObjectPath
	err := m.conn.Object(destination, object).CallWithContext(ctx, manager+".StartTransientUnit", 0,
		s.Name, "fail", props, []auxiliary{}).Store(&job)
	if err != nil {
		return fmt.Errorf("cannot start %s: %w", s.Name, err)
	}
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot start %s: %w", s.Name, context.Cause(ctx))
		case sig, ok := <-m.signals:
			if !ok {
				return fmt.Errorf("cannot start %s: systemd has hung up", s.Name)
			}
			if result, ok := removed(sig, job); ok {
				if result != "done" {
					return fmt.Errorf("cannot start %s: systemd's job ended with %q", s.Name, result)
				}
				return nil
			}
		}
	}
}

// removed reads JobRemoved(u id, o job, s unit, s result).
func removed(sig *dbus.Signal, job dbus.ObjectPath) (result string, ok bool) {
	if sig.Name != manager+".JobRemoved" || len(sig.Body) != 4 || sig.Body[1] != job {
		return "", false
	}
	result, ok = sig.Body[3].(string)
	return result, ok
}
