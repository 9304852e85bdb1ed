package desktop

import (
	"fmt"
	"slices"
	"strings"

	fdo "github.com/esiqveland/notify"
	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/userd/notify"
)

const (
	appName = "lull" // where a notice is about no application
	// category is in the form that the specification has for what its own
	// table lacks: https://specifications.freedesktop.org/notification-spec.
	category    = "x-lull.update"
	defaultIcon = "system-software-update"
)

// capabilities are those of a server that make a difference here.
type capabilities struct{ actions, body, markup, bar, resident bool }

// bars are the servers that show a bar for the hint "value" beside the text. It is
// not in the specification: others show the bar alone, as for a volume, or nothing.
// Plasma takes the hint and shows nothing.
var bars = []string{"dunst", "mako"}

// residents are the servers that take the buttons away from a notice once its banner
// is gone, unless it has the hint "resident". Others must not get that hint: GNOME
// shows no banner for such a notice while its application has the focus.
var residents = []string{"Plasma"}

func newCapabilities(server string, list []string) capabilities {
	c := capabilities{bar: slices.Contains(bars, server), resident: slices.Contains(residents, server)}
	for _, s := range list {
		switch s {
		case "actions":
			c.actions = true
		case "body":
			c.body = true
		case "body-markup":
			c.markup = true
		}
	}
	return c
}

var escape = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

// render makes a notice into what a server with these capabilities understands.
func render(n notify.Notice, c capabilities) fdo.Notification {
	out := fdo.Notification{
		AppName: n.App, AppIcon: icon(n.Icon), Summary: n.Summary,
		ExpireTimeout: fdo.ExpireTimeoutSetByNotificationServer,
	}
	switch {
	case !c.body:
		out.Summary = text(n)
	case c.markup:
		out.Body = escape.Replace(n.Body)
	default:
		out.Body = n.Body
	}
	if out.AppName == "" {
		out.AppName = appName
	}
	switch {
	case n.Percent <= 0:
	case c.bar:
		out.AddHint(fdo.Hint{ID: "value", Variant: dbus.MakeVariant(int32(min(n.Percent, 100)))})
	case out.Body != "":
		out.Body += fmt.Sprintf(" (%d\u00a0%%)", min(n.Percent, 100))
	}
	if c.actions {
		for _, b := range n.Buttons {
			out.Actions = append(out.Actions, fdo.Action{Key: b.Action, Label: b.Label})
		}
	}
	switch {
	case n.Expire > 0:
		out.ExpireTimeout = n.Expire
	case n.Expire < 0:
		out.ExpireTimeout = fdo.ExpireTimeoutNever
	}
	out.SetUrgency(fdo.UrgencyNormal)
	switch {
	case n.Kind == notify.After: // news: seen once, and not kept in a list
		out.AddHint(fdo.Hint{ID: "transient", Variant: dbus.MakeVariant(true)})
	case c.resident:
		out.AddHint(fdo.Hint{ID: "resident", Variant: dbus.MakeVariant(true)})
	}
	out.AddHint(fdo.Hint{ID: "category", Variant: dbus.MakeVariant(category)})
	if n.DesktopEntry != "" {
		out.AddHint(fdo.Hint{ID: "desktop-entry", Variant: dbus.MakeVariant(n.DesktopEntry)})
	}
	return out
}

// icon is a name of the icon theme or, for a path, a URI.
func icon(s string) string {
	switch {
	case s == "" || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' }):
		return defaultIcon
	case strings.HasPrefix(s, "/"):
		return "file://" + s
	}
	return s
}

// text is all of a notice in one line.
func text(n notify.Notice) string {
	s := n.Summary
	if n.Body != "" {
		s += ". " + n.Body
	}
	return strings.ReplaceAll(s, "\n", " ")
}
