// Package bus is lull's side of D-Bus, for the agent, the per-user helper and
// the command line. The XML files in this directory are the one source of truth:
// the generator turns each interface into
//
//   - a constant with its name (ManagerInterface),
//   - a Go interface that the server implements (Manager),
//   - an Interface to export (ExportManager), with typed properties
//     (ManagerProperties, changed through Update),
//   - a client (ManagerProxy), and
//   - a type for each signal (ManagerRefreshFinished), which both ends use;
//
// and the live service answers Introspect with the very text of the XML.
//
// Words: a *Server* is one bus connection that exports objects; an *object* is
// a path with one or more interfaces; a *Caller* is the sender of a method call; a
// *subscription* is a client's stream of signals from one peer; *Names* follows the
// owners of names on the bus.
//
// Concurrency: every method call runs in its own goroutine, so implementations
// are called in parallel and may block; a panic in one becomes an error reply and an
// entry in the journal. A Server and its exported objects may be used from any goroutine. Property updates of one interface are serialised,
// and their signals leave in the order of the updates. No callback is made
// while a lock of this package is held, except the function given to Update,
// which must not call back.
package bus

//go:generate go run ./internal/gen

import (
	"strings"

	"github.com/godbus/dbus/v5"
)

// Names and paths of the two services.
const (
	AgentName   = "org.lull.Agent1"
	AgentPath   = dbus.ObjectPath("/org/lull/Agent1")
	SessionName = "org.lull.Session1"
	SessionPath = dbus.ObjectPath("/org/lull/Session1")

	packageFolder = string(AgentPath) + "/package/"
	refreshFolder = string(AgentPath) + "/refresh/"
	jobFolder     = string(AgentPath) + "/job/"
)

// PackagePath returns the object path of an installed instance.
func PackagePath(instance string) dbus.ObjectPath {
	return dbus.ObjectPath(packageFolder + EscapeLabel(instance))
}

// RefreshPath returns the object path of a refresh.
func RefreshPath(id string) dbus.ObjectPath {
	return dbus.ObjectPath(refreshFolder + EscapeLabel(id))
}

// JobPath returns the object path of a job.
func JobPath(id string) dbus.ObjectPath {
	return dbus.ObjectPath(jobFolder + EscapeLabel(id))
}

// EscapeLabel makes an element of an object path from any text, the way
// sd_bus_path_encode(3) does: what is not an ASCII letter or digit, and a
// leading digit, becomes _ and two hexadecimal digits; nothing becomes _.
func EscapeLabel(s string) string {
	if s == "" {
		return "_"
	}
	const hex = "0123456789abcdef"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if letter || i > 0 && c >= '0' && c <= '9' {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('_')
		b.WriteByte(hex[c>>4])
		b.WriteByte(hex[c&15])
	}
	return b.String()
}
