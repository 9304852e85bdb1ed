// Package logging sends the agent's log where it is read: to the journal with
// structured fields when the standard error is connected to it, else as lines of
// text to the standard error.
//
// In the journal an attribute named refresh becomes the field LULL_REFRESH, and
// so on, so that `journalctl LULL_INSTANCE=notes` shows one application's
// history; an ID of the package messages becomes MESSAGE_ID, by which `journalctl
// -x` finds its explanation, and is left out elsewhere. Texts of others are made
// printable in both, and lengths of time have units that people use. Handlers may be used from
// several goroutines.
package logging

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"strings"

	"github.com/coreos/go-systemd/v22/journal"

	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/lib/printable"
)

// New returns the logger for a program; stderr is used where there is no journal.
func New(stderr io.Writer, level slog.Leveler) *slog.Logger {
	if ok, err := journal.StderrIsJournalStream(); ok && err == nil {
		return slog.New(&handler{level: level, send: journal.Send})
	}
	return slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		switch {
		case isID(a), a.Key != slog.MessageKey && isEmpty(a.Value):
			return slog.Attr{}
		case a.Value.Kind() == slog.KindDuration:
			a.Value = slog.StringValue(valueText(a.Value))
		}
		return a
	}}))
}

// handler writes to the journal's native socket.
type handler struct {
	level slog.Leveler
	send  func(message string, priority journal.Priority, fields map[string]string) error
	with  map[string]string
	group string
}

// Enabled implements slog.Handler.
func (h *handler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level.Level() }

// Handle implements slog.Handler. The message ends with the attributes, for those
// who read plain lines.
func (h *handler) Handle(_ context.Context, r slog.Record) error {
	fields := maps.Clone(h.with)
	if fields == nil {
		fields = map[string]string{}
	}
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		h.add(fields, a)
		if !isEmpty(a.Value) && !isID(a) {
			text += fmt.Sprintf(" %s=%s", a.Key, valueText(a.Value))
		}
		return true
	})
	return h.send(printable.Line(text), priority(r.Level), fields)
}

// isEmpty reports whether a value says nothing: no text, no error.
func isEmpty(v slog.Value) bool {
	text := valueText(v)
	return text == "" || text == "<nil>"
}

// valueText is the text of an attribute, where people read it.
func valueText(v slog.Value) string {
	v = v.Resolve()
	if v.Kind() == slog.KindDuration {
		return printable.Duration(v.Duration())
	}
	return v.String()
}

func isID(a slog.Attr) bool {
	_, ok := a.Value.Any().(messages.ID)
	return ok
}

func (h *handler) add(fields map[string]string, a slog.Attr) {
	if isID(a) {
		fields["MESSAGE_ID"] = a.Value.String()
		return
	}
	if v := valueText(a.Value); v != "<nil>" {
		fields["LULL_"+fieldName(h.group+a.Key)] = printable.Line(v)
	}
}

// WithAttrs implements slog.Handler.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	n := *h
	n.with = maps.Clone(h.with)
	if n.with == nil {
		n.with = map[string]string{}
	}
	for _, a := range attrs {
		h.add(n.with, a)
	}
	return &n
}

// WithGroup implements slog.Handler.
func (h *handler) WithGroup(name string) slog.Handler {
	n := *h
	n.group += name + "_"
	return &n
}

// fieldName makes a journal field name (systemd.journal-fields(7)): capitals, digits and underscores.
func fieldName(s string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c >= 'a' && c <= 'z':
			return c - 'a' + 'A'
		case c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_':
			return c
		}
		return '_'
	}, s)
}

func priority(l slog.Level) journal.Priority {
	switch {
	case l >= slog.LevelError:
		return journal.PriErr
	case l >= slog.LevelWarn:
		return journal.PriWarning
	case l >= slog.LevelInfo:
		return journal.PriInfo
	}
	return journal.PriDebug
}
