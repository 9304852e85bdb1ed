// Package scopes asks systemd for transient scopes: groups that systemd
// keeps for processes that it did not start. See org.freedesktop.systemd1(5)
// and systemd.scope(5).
//
// It speaks to systemd's private socket where the caller may use it, which
// works before and without a message bus, and to the bus otherwise. A Manager
// is a connection for one caller at a time.
package scopes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/errkind"
)

const (
	destination = "org.freedesktop.systemd1"
	object      = dbus.ObjectPath("/org/freedesktop/systemd1")
	manager     = "org.freedesktop.systemd1.Manager"
)

// Manager reaches the system's systemd or a user's.
type Manager struct {
	who    string
	system bool
	socket *private // nil if there is none, or this process may not use it
	bus    *overBus // nil if not tried yet
	sent   error    // of the last Send, for Wait
	args   []any    // of the last Send
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
	m := &Manager{who: who, system: system}
	var err error
	if m.socket, err = dialPrivate(ctx, socket); err == nil {
		return m, nil
	}
	return m, m.overBus(ctx, err)
}

// overBus connects to the bus, because of what is wrong with the socket.
func (m *Manager) overBus(ctx context.Context, why error) error {
	var err error
	if m.bus, err = dialBus(ctx, m.system); err != nil {
		return errkind.New(errkind.Unavailable, "cannot reach %s: %w", m.who, errors.Join(why, err))
	}
	return nil
}

// Close ends the connection.
func (m *Manager) Close() error {
	var errs []error
	if m.socket != nil {
		errs = append(errs, m.socket.close())
	}
	if m.bus != nil {
		errs = append(errs, m.bus.conn.Close())
	}
	return errors.Join(errs...)
}

// property is (sv), and auxiliary unit (sa(sv)), as StartTransientUnit wants them.
type property struct {
	Name  string
	Value dbus.Variant
}

type auxiliary struct {
	Name       string
	Properties []property
}

// Caller among the PIDs of a Scope represents the calling process. systemd
// takes it from the kernel's credentials of the connection, so a caller of
// another PID namespace does not name another process.
const Caller = 0

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
	m.Send(s)
	return m.Wait(ctx)
}

// Send asks for a scope, as Start does, and does not wait: systemd works while the
// caller does something else. Wait has to follow. Over a bus Wait does it all.
func (m *Manager) Send(s Scope) {
	m.args, m.sent = s.args(), nil
	if m.socket != nil {
		m.sent = m.socket.send(m.args)
	}
}

// Wait returns when systemd has done what Send has asked for.
func (m *Manager) Wait(ctx context.Context) error {
	if err := m.wait(ctx); err != nil {
		return fmt.Errorf("cannot start %s: %w", m.args[0], err)
	}
	return nil
}

// Request is the whole message that Start sends to the private socket of a
// user's systemd, for a benchmark of the least launch.
func Request(uid int, s Scope) ([]byte, error) {
	call, err := request(s.args())
	return append(handshake(uid), call...), err
}

// args are those of StartTransientUnit.
func (s Scope) args() []any {
	props := []property{
		{"Description", dbus.MakeVariant(s.Description)},
		{"PIDs", dbus.MakeVariant(s.PIDs)},
		// A scope whose last process failed must not stay as "failed".
		{"CollectMode", dbus.MakeVariant("inactive-or-failed")},
	}
	if s.Slice != "" {
		props = append(props, property{"Slice", dbus.MakeVariant(s.Slice)})
	}
	return []any{s.Name, "fail", props, []auxiliary{}}
}

// wait uses the socket once: what is left unread on it is of no use to another
// call.
func (m *Manager) wait(ctx context.Context) error {
	if m.socket != nil {
		err := m.sent
		if err == nil {
			err = m.socket.wait()
		}
		m.socket.close()
		m.socket = nil
		if !errors.Is(err, errRefused) {
			return err
		}
		if err := m.overBus(ctx, err); err != nil {
			return err
		}
	}
	if m.bus == nil {
		if err := m.overBus(ctx, nil); err != nil {
			return err
		}
	}
	return m.bus.start(ctx, m.args...)
}

// removed reads JobRemoved(u id, o job, s unit, s result).
func removed(member string, body []any, job dbus.ObjectPath) (result string, ok bool) {
	if member != "JobRemoved" || len(body) != 4 || body[1] != job {
		return "", false
	}
	result, ok = body[3].(string)
	return result, ok
}

// outcome is what the result of a job means.
func outcome(result string) error {
	if result != "done" {
		return fmt.Errorf("systemd's job ended with %q", result)
	}
	return nil
}
