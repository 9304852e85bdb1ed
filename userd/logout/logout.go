// Package logout asks the desktop to log its user out. Each desktop asks the user first,
// in a dialog of its own, and lets applications keep the session; a session without such
// a desktop is never ended.
//
// Concurrency: its functions block for as long as the session bus takes to answer.
package logout

import (
	"context"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/errkind"
)

// manager is a session manager with a dialog.
type manager struct {
	name, method string
	path         dbus.ObjectPath
	args         []any
	activatable  bool // the bus starts it
}

// The session managers. LogoutPrompt is Plasma's dialog, from 5.20 on; it is started by the
// bus. GNOME's (also Cinnamon's and MATE's) mode 0 is "normal", which asks; 1 and 2 do not.
// The arguments of Xfce's are show_dialog and allow_save.
var managers = []manager{
	{"org.gnome.SessionManager", "org.gnome.SessionManager.Logout", "/org/gnome/SessionManager", []any{uint32(0)}, false},
	{"org.kde.LogoutPrompt", "org.kde.LogoutPrompt.promptLogout", "/LogoutPrompt", nil, true},
	{"org.xfce.SessionManager", "org.xfce.Session.Manager.Logout", "/org/xfce/SessionManager", []any{true, true}, false},
}

// kdeSession is owned in a session of Plasma. The dialog's file is there in any session of
// a machine with Plasma.
const kdeSession = "org.kde.ksmserver"

// Offered reports whether a desktop of the session can be asked.
func Offered(ctx context.Context, conn *dbus.Conn) bool {
	_, ok := find(ctx, conn)
	return ok
}

func find(ctx context.Context, conn *dbus.Conn) (manager, bool) {
	var startable []string
	for _, m := range managers {
		name := m.name
		if m.activatable {
			name = kdeSession
		}
		there := false
		if conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, name).Store(&there) != nil || !there {
			continue
		}
		if !m.activatable {
			return m, true
		}
		if conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.ListActivatableNames", 0).Store(&startable) != nil {
			continue
		}
		for _, n := range startable {
			if n == m.name {
				return m, true
			}
		}
	}
	return manager{}, false
}

// Ask has the desktop ask its user whether to log out. It returns when the desktop has
// taken that up; what the user decides is not known.
func Ask(ctx context.Context, conn *dbus.Conn) error {
	m, ok := find(ctx, conn)
	if !ok {
		return errkind.New(errkind.Unavailable, "cannot log out: no desktop of this session offers it")
	}
	var flags dbus.Flags
	if !m.activatable {
		flags = dbus.FlagNoAutoStart
	}
	if err := conn.Object(m.name, m.path).CallWithContext(ctx, m.method, flags, m.args...).Err; err != nil {
		return errkind.New(errkind.Unavailable, "cannot log out by %s: %w", m.name, err)
	}
	return nil
}
