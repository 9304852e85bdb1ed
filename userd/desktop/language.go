package desktop

import (
	"context"
	"strings"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/texts/po"
)

// sessionLanguages returns the languages in the environment of the user's systemd, into which a
// desktop imports those of its session (GNOME, Plasma and others do, by
// dbus-update-activation-environment(1)). This process may have been started before, with the
// language of the system. ok is false if the environment cannot be read or names no locale, as
// without systemd.
func sessionLanguages(ctx context.Context, conn *dbus.Conn) (names []string, ok bool) {
	var entries []string
	err := conn.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1").
		CallWithContext(ctx, properties+".Get", dbus.FlagNoAutoStart, "org.freedesktop.systemd1.Manager", "Environment").Store(&entries)
	if err != nil {
		return nil, false
	}
	env := map[string]string{}
	for _, entry := range entries {
		name, value, _ := strings.Cut(entry, "=")
		env[name] = value
	}
	if env["LC_ALL"]+env["LC_MESSAGES"]+env["LANG"] == "" {
		return nil, false
	}
	return po.LanguagesOf(func(name string) string { return env[name] }), true
}
