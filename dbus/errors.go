package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/errkind"
)

const errPrefix = "org.freedesktop.DBus.Error."

// ToBus returns the error in the form of the bus: the name is the kind, the body is one
// string, errkind.Text, which every client shows. GLib shows the text of an error only
// if its body is (s). The causes are not sent.
func ToBus(err error) *dbus.Error {
	if err == nil {
		return nil
	}
	var p *errkind.Error // ours beats the one of a peer that may be its cause
	var de *dbus.Error
	var dv dbus.Error
	switch {
	case errors.As(err, &p):
	case errors.As(err, &de):
		return de
	case errors.As(err, &dv):
		return &dv
	}
	return &dbus.Error{Name: errkind.Prefix + string(errkind.KindOf(err)), Body: []any{clean(errkind.WithHintLine(err))}}
}

// FromBus returns the error of a call with its kind; nil stays nil. An agent that does not
// reply is of kind Unavailable.
func FromBus(err error) error {
	if err == nil {
		return nil
	}
	var p *errkind.Error
	if errors.As(err, &p) {
		return err
	}
	if errors.Is(err, context.Canceled) {
		return errkind.New(errkind.Interrupted, "cannot wait for the agent any longer: %w", err)
	}
	var e dbus.Error
	var pe *dbus.Error
	switch {
	case errors.As(err, &e):
	case errors.As(err, &pe):
		e = *pe
	case errors.Is(err, context.DeadlineExceeded):
		return unreachable(fmt.Errorf("it does not answer: %w", err))
	default:
		return unreachable(fmt.Errorf("the connection broke: %w", err))
	}
	text, hint := errkind.CutHint(bodyString(e.Body, 0))
	if text == "" {
		text = "cannot do that: " + e.Name
	}
	if kind, ok := strings.CutPrefix(e.Name, errkind.Prefix); ok && kind != "" {
		return &errkind.Error{Kind: errkind.Kind(kind), Text: text, Hint: hint, Err: err}
	}
	kind, known := strings.CutPrefix(e.Name, errPrefix)
	if !known {
		return errkind.New(errkind.Failed, "cannot talk to the agent: %s: %w", e.Name, err)
	}
	switch {
	case kind == "ServiceUnknown", kind == "NameHasNoOwner", kind == "NoReply", kind == "Disconnected",
		kind == "NoServer", kind == "Timeout", kind == "TimedOut", strings.HasPrefix(kind, "Spawn."):
		return unreachable(err)
	case kind == "AccessDenied", kind == "AuthFailed", kind == "InteractiveAuthorizationRequired":
		return errkind.New(errkind.NotPermitted, "cannot use the agent: %w", err)
	case kind == "UnknownObject", kind == "NoSuchObject":
		return errkind.New(errkind.NotFound, "cannot find that on the bus: %w", err)
	case kind == "InvalidArgs", kind == "InvalidSignature":
		return errkind.New(errkind.Invalid, "cannot use these arguments: %w", err)
	case kind == "UnknownMethod", kind == "UnknownInterface", kind == "UnknownProperty":
		return errkind.New(errkind.Failed, "cannot ask that of the agent: the one that runs is older than this program: %w", err).
			WithHint("`systemctl restart lulld` starts the installed one; applications go on running (`systemctl --user restart lulld` for an agent of your own)")
	}
	return errkind.New(errkind.Failed, "cannot talk to the agent: %w", err)
}

// IsUnknown reports whether a call has failed because the peer, an older agent, does not
// have the method or the property. The call has had no effect then.
func IsUnknown(err error) bool {
	var e dbus.Error
	var pe *dbus.Error
	switch {
	case errors.As(err, &e):
	case errors.As(err, &pe):
		e = *pe
	}
	return e.Name == errPrefix+"UnknownMethod" || e.Name == errPrefix+"UnknownProperty" || e.Name == errPrefix+"UnknownInterface"
}

func unreachable(err error) error {
	return errkind.New(errkind.Unavailable, "cannot reach the agent: %w", err).
		WithHint("is lulld running? Try `systemctl status lulld` or `lull doctor`")
}

func bodyString(body []any, i int) string {
	if i < len(body) {
		s, _ := body[i].(string)
		return s
	}
	return ""
}
