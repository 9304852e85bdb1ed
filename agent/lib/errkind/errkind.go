// Package errkind holds the kinds of failure that lull distinguishes in public:
// on the bus as an error name, on the command line as an exit code. An error
// that is no Problem is of kind Failed.
//
// Texts are lower case and start with "cannot"; a hint is a sentence of advice
// on a line of its own.
package errkind

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
)

// Kind is a class of failure that callers treat alike.
type Kind string

// The kinds. Their D-Bus names are Prefix and the kind.
const (
	Failed       Kind = "Failed"          // anything else
	Usage        Kind = "Usage"           // a command line that makes no sense
	Invalid      Kind = "InvalidArgument" // malformed input: name, meta, policy, repository
	NotFound     Kind = "NotFound"        // no such package, instance, revision, refresh
	Exists       Kind = "Exists"          // it is there already
	Conflict     Kind = "Conflict"        // another package or instance has the name
	Busy         Kind = "Busy"            // processes run; the refresh is postponed
	Held         Kind = "Held"            // a user has answered "not now"
	NoSpace      Kind = "NoSpace"         // the disk cannot take it
	NotPermitted Kind = "NotPermitted"    // the caller may not
	Untrusted    Kind = "Untrusted"       // signature, expiry, rollback, wrong content
	Unavailable  Kind = "Unavailable"     // a peer cannot be reached
	BadPolicy    Kind = "BadPolicy"       // the policy file is broken
	Interrupted  Kind = "Interrupted"     // cancelled by request or shutdown

	LimitsExceeded Kind = "LimitsExceeded" // the caller's user has too much of it already
)

// Prefix stands before the kind in the D-Bus error name.
const Prefix = "org.lull.Error."

// Error is a failure of a kind.
type Error struct {
	Kind Kind
	Text string // "cannot …", complete, without the hint
	Hint string // what to do about it, or ""
	Err  error  // the cause, for the journal; its text is already in Text
}

func (e *Error) Error() string { return e.Text }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// New makes an error of kind k. A %w among the verbs is kept as its cause.
func New(k Kind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	remember(err.Error(), format, args)
	return &Error{Kind: k, Text: err.Error(), Err: errors.Unwrap(err)}
}

// Errorf is fmt.Errorf, for the part of a text for people that the caller puts into an Error.
func Errorf(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	remember(err.Error(), format, args)
	return err
}

// WithHint returns a copy of e that carries advice.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = Text(format, args...)
	return &c
}

// KindOf classifies any error; nil has no kind and yields "".
func KindOf(err error) Kind {
	var e *Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.Kind
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return NoSpace
	case errors.Is(err, fs.ErrPermission):
		return NotPermitted
	}
	return Failed
}

// Is reports whether err is of kind k.
func Is(err error, k Kind) bool { return KindOf(err) == k }

// HintOf returns the advice that err carries, or "".
func HintOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Hint
	}
	return ""
}

// hintLine is what a hint begins with that follows a text on a line of its own.
const hintLine = "\nhint: "

// WithHintLine is the text of err, and its hint, if it has one, on a further line.
func WithHintLine(err error) string {
	text := err.Error()
	if hint := HintOf(err); hint != "" {
		text += hintLine + hint
	}
	return text
}

// CutHint undoes WithHintLine.
func CutHint(s string) (text, hint string) {
	if i := strings.LastIndex(s, hintLine); i >= 0 {
		return s[:i], s[i+len(hintLine):]
	}
	return s, ""
}

// exitCodes are those of sysexits(3) if it has a fitting one, and 75 for
// failures that may succeed later.
var exitCodes = map[Kind]int{
	"": 0, Usage: 64, Invalid: 65, Untrusted: 65, Unavailable: 69, NoSpace: 73,
	Busy: 75, Held: 75, LimitsExceeded: 75, NotPermitted: 77, BadPolicy: 78,
}

// ExitCode is the exit status of a command that ended in err.
func ExitCode(err error) int {
	if c, ok := exitCodes[KindOf(err)]; ok {
		return c
	}
	return 1
}
