package desktop

import (
	"context"
	"errors"
	"os/exec"
	"slices"
	"strings"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/userd/notify"
)

// habit is how a notification server, which is identified by its name, reports
// do-not-disturb if it does not have the property Inhibited of
// org.freedesktop.Notifications, which any server may have. Its signals only give
// the reason to look, so that it does not matter who sends them.
type habit struct {
	rules  [][]dbus.MatchOption
	signal string // interface and member
	quiet  func(ctx context.Context, l *loop, owner string) (bool, error)
}

const (
	dunst    = "org.dunstproject.cmd0"
	xfconf   = "org.xfce.Xfconf"
	xfconfIf = dbus.ObjectPath("/org/xfce/Xfconf")
	gnome    = "/org/gnome/desktop/notifications/"
)

var habits = map[string]habit{
	// dunst has a property of its own; its rules are those of Inhibited.
	"dunst": {quiet: func(ctx context.Context, l *loop, owner string) (bool, error) {
		return isTrue(ctx, l.conn.Object(owner, serverPath), dunst, "paused")
	}},
	// Xfce's server obeys a setting of Xfce.
	"Xfce Notify Daemon": {
		rules: [][]dbus.MatchOption{{dbus.WithMatchInterface(xfconf), dbus.WithMatchMember("PropertyChanged"), dbus.WithMatchObjectPath(xfconfIf),
			dbus.WithMatchArg(0, "xfce4-notifyd"), dbus.WithMatchArg(1, "/do-not-disturb")}},
		signal: xfconf + ".PropertyChanged",
		quiet: func(ctx context.Context, l *loop, _ string) (bool, error) {
			// The setting exists only once it was used.
			return truth(l.conn.Object(xfconf, xfconfIf).CallWithContext(ctx, xfconf+".GetProperty", dbus.FlagNoAutoStart, "xfce4-notifyd", "/do-not-disturb"))
		},
	},
	// GNOME's "do not disturb" is a setting, which the settings portal does
	// not export. gsettings resolves defaults and the administrator's locks,
	// and dconf signals when to query it.
	"gnome-shell": {
		rules:  [][]dbus.MatchOption{{dbus.WithMatchInterface("ca.desrt.dconf.Writer"), dbus.WithMatchMember("Notify"), dbus.WithMatchArgPath(0, gnome)}},
		signal: "ca.desrt.dconf.Writer.Notify",
		quiet: func(ctx context.Context, l *loop, _ string) (bool, error) {
			out, err := exec.CommandContext(ctx, "gsettings", "get", "org.gnome.desktop.notifications", "show-banners").Output()
			if err != nil {
				l.Log.Debug("cannot read GNOME's setting for notices", "error", err)
			}
			return strings.TrimSpace(string(out)) == "false", nil // without gsettings it is not used
		},
	},
}

// isTrue reads a property, which many servers lack.
func isTrue(ctx context.Context, o dbus.BusObject, iface, name string) (bool, error) {
	return truth(o.CallWithContext(ctx, properties+".Get", dbus.FlagNoAutoStart, iface, name))
}

// truth reads the answer to a call. A server that does not have what was asked for
// has answered no. Only a missing answer is an error.
func truth(call *dbus.Call) (bool, error) {
	var v dbus.Variant
	err := call.Store(&v)
	var e dbus.Error
	if errors.As(err, &e) && e.Name != "org.freedesktop.DBus.Error.NoReply" && e.Name != "org.freedesktop.DBus.Error.Timeout" {
		return false, nil
	}
	yes, _ := v.Value().(bool)
	return yes, err
}

// follow subscribes to the signals that the server's habit depends on.
func (l *loop) follow(ctx context.Context, name string) {
	for _, rule := range habits[name].rules {
		if err := l.conn.AddMatchSignalContext(ctx, rule...); err != nil {
			l.Log.Warn("cannot watch the do-not-disturb setting", "server", name, "error", err)
		}
	}
}

func (l *loop) unfollow(ctx context.Context, name string) {
	for _, rule := range habits[name].rules {
		_ = l.conn.RemoveMatchSignalContext(ctx, rule...) // it may not have been added
	}
}

// look queries whether the server may be disturbed, and notifies the core. One
// query is under way at a time; a reason for another one that arrives
// meanwhile is not lost.
func (l *loop) look() {
	if l.peer.looking {
		l.peer.lookAgain = true
		return
	}
	l.peer.looking = true
	owner, name := l.peer.owner, l.peer.kind
	l.call(func(ctx context.Context) func() {
		quiet, err := isTrue(ctx, l.conn.Object(owner, serverPath), serverName, "Inhibited")
		if h, ok := habits[name]; ok && !quiet && err == nil {
			quiet, err = h.quiet(ctx, l, owner)
		}
		return func() {
			if l.peer.owner != owner {
				return
			}
			again := l.peer.lookAgain
			l.peer.looking, l.peer.lookAgain = false, false
			if again {
				l.look()
				return
			}
			if err != nil { // what was true stays true until there is an answer
				l.unanswered(err)
				return
			}
			l.peer.pause = firstInquiry
			l.event(notify.Disturb{No: quiet})
		}
	})
}

// disturbing reports whether a signal is a reason to query.
func (l *loop) disturbing(s *dbus.Signal) bool {
	if h, ok := habits[l.peer.kind]; ok && h.signal != "" && s.Name == h.signal {
		return true
	}
	if s.Name != properties+".PropertiesChanged" || s.Sender != l.peer.owner || s.Path != serverPath {
		return false
	}
	var iface string
	var changed map[string]dbus.Variant
	var invalid []string
	if dbus.Store(s.Body, &iface, &changed, &invalid) != nil {
		return false
	}
	for i, name := range map[string]string{serverName: "Inhibited", dunst: "paused"} {
		if _, ok := changed[name]; iface == i && (ok || slices.Contains(invalid, name)) {
			return true
		}
	}
	return false
}
