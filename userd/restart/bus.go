package restart

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/userd/notify"
)

// quitByBus asks by the application's own name, if one of the processes owns it
// and it does offer to quit.
func quitByBus(ctx context.Context, conn *dbus.Conn, p notify.Pending, pids []int) (string, error) {
	err := errors.New("it has no name on the session bus")
	for _, name := range []string{p.DBusName, p.DesktopEntry, p.Instance} {
		name = strings.TrimSuffix(name, ".desktop")
		if !isBusName(name) {
			continue
		}
		if err = askToQuit(ctx, conn, name, pids); err == nil || errors.Is(err, errUnsure) {
			return name, err
		}
	}
	return "", err
}

// errUnsure reports that it cannot be determined whether an application was
// asked, or could be.
var errUnsure = errors.New("there is no answer on the session bus")

// answered distinguishes the answer that something does not exist, which err is then,
// from no answer.
func answered(err error) error {
	var e dbus.Error
	if errors.As(err, &e) && e.Name != "org.freedesktop.DBus.Error.NoReply" && e.Name != "org.freedesktop.DBus.Error.Timeout" {
		return err
	}
	return errors.Join(errUnsure, err)
}

func askToQuit(ctx context.Context, conn *dbus.Conn, name string, pids []int) error {
	var owner string
	if err := conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.GetNameOwner", 0, name).Store(&owner); err != nil {
		return answered(err)
	}
	var pid uint32
	if err := conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.GetConnectionUnixProcessID", 0, owner).Store(&pid); err != nil {
		return answered(err)
	}
	if !slices.Contains(pids, int(pid)) {
		return fmt.Errorf("process %d, which owns %s, is none of them", pid, name)
	}
	app := conn.Object(owner, objectPath(name))
	// GTK takes any action without complaint: ask whether it has this one.
	var actions []string
	err := app.CallWithContext(ctx, "org.gtk.Actions.List", dbus.FlagNoAutoStart).Store(&actions)
	switch {
	case err == nil && !slices.Contains(actions, "quit"):
		return errors.New("it has no action to quit")
	case err != nil && errors.Is(answered(err), errUnsure):
		return answered(err)
	}
	err = app.CallWithContext(ctx, "org.freedesktop.Application.ActivateAction", dbus.FlagNoAutoStart,
		"quit", []dbus.Variant{}, map[string]dbus.Variant{}).Err
	if err != nil && errors.Is(answered(err), errUnsure) {
		return nil // asked: it answers when its user has, whom it may be asking what to save
	}
	return err
}

// objectPath is where the desktop entry specification has an application's
// object: https://specifications.freedesktop.org/desktop-entry-spec, D-Bus
// Activation.
func objectPath(name string) dbus.ObjectPath {
	return dbus.ObjectPath("/" + strings.NewReplacer(".", "/", "-", "_").Replace(name))
}

func isBusName(s string) bool {
	if len(s) > 255 || !strings.Contains(s, ".") {
		return false
	}
	for part := range strings.SplitSeq(s, ".") {
		if part == "" || part[0] >= '0' && part[0] <= '9' {
			return false
		}
		for i := range len(part) {
			c := part[i]
			if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' {
				return false
			}
		}
	}
	return true
}
