package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/problem"
)

const errPrefix = "org.freedesktop.DBus.Error."

// ToBus is the error as the bus carries it: the name tells the kind, the body
// is the text and, where there is one, the hint. Causes stay at home.
func ToBus(err error) *dbus.Error {
	if err == nil {
		return nil
	}
	var p *problem.Error // ours beats the one of a peer that may be its cause
	var de *dbus.Error
	var dv dbus.Error
	switch {
	case errors.As(err, &p):
	case errors.As(err, &de):
		return de
	case errors.As(err, &dv):
		return &dv
	}
	body := []any{clean(err.Error())}
	if hint := problem.HintOf(err); hint != "" {
		body = append(body, clean(hint))
	}
	return &dbus.Error{Name: problem.Prefix + string(problem.KindOf(err)), Body: body}
}

// FromBus turns what a call returned into a problem again; nil stays nil. An
// agent that does not answer is of kind Unavailable.
func FromBus(err error) error {
	if err == nil {
		return nil
	}
	var p *problem.Error
	if errors.As(err, &p) {
		return err
	}
	if errors.Is(err, context.Canceled) {
		return problem.New(problem.Interrupted, "cannot wait for the agent any longer: %w", err)
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
	text, hint := bodyString(e.Body, 0), bodyString(e.Body, 1)
	if text == "" {
		text = "cannot do that: " + e.Name
	}
	if kind, ok := strings.CutPrefix(e.Name, problem.Prefix); ok && kind != "" {
		return &problem.Error{Kind: problem.Kind(kind), Text: text, Hint: hint, Err: err}
	}
	kind, known := strings.CutPrefix(e.Name, errPrefix)
	if !known {
		return problem.New(problem.Failed, "cannot talk to the agent: %s: %w", e.Name, err)
	}
	switch {
	case kind == "ServiceUnknown", kind == "NameHasNoOwner", kind == "NoReply", kind == "Disconnected",
		kind == "NoServer", kind == "Timeout", kind == "TimedOut", strings.HasPrefix(kind, "Spawn."):
		return unreachable(err)
	case kind == "AccessDenied", kind == "AuthFailed", kind == "InteractiveAuthorizationRequired":
		return problem.New(problem.NotPermitted, "cannot use the agent: %w", err)
	case kind == "UnknownObject", kind == "NoSuchObject":
		return problem.New(problem.NotFound, "cannot find that on the bus: %w", err)
	case kind == "InvalidArgs", kind == "InvalidSignature":
		return problem.New(problem.Invalid, "cannot use these arguments: %w", err)
	case kind == "UnknownMethod", kind == "UnknownInterface", kind == "UnknownProperty":
		return problem.New(problem.Failed, "cannot ask that of the agent: %w", err).
			WithHint("the agent that runs is of another version than this command")
	}
	return problem.New(problem.Failed, "cannot talk to the agent: %w", err)
}

func unreachable(err error) error {
	return problem.New(problem.Unavailable, "cannot reach the agent: %w", err).
		WithHint("is lulld running? Try `systemctl status lulld` or `lull doctor`")
}

func bodyString(body []any, i int) string {
	if i < len(body) {
		s, _ := body[i].(string)
		return s
	}
	return ""
}
