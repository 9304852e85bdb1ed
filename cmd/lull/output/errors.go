package output

import (
	"strings"

	"github.com/lull/lull/agent/lib/errkind"
)

// PrintError prints an error on stderr, one line for the text and one for the hint, and the
// same for each of several errors.
func (a *Printer) PrintError(err error) {
	if err == nil {
		return
	}
	if many, ok := err.(*Several); ok {
		for _, e := range many.Errs {
			a.PrintError(e)
		}
		return
	}
	text := err.Error()
	shown, whole := text, isWhole(err)
	if Translates() {
		var inOurs bool
		shown, inOurs = a.foreign(text)
		whole = whole || inOurs
	}
	switch {
	case whole, strings.HasPrefix(text, "internal error:"):
		text = shown
	case !strings.HasPrefix(text, "cannot "):
		text = T("cannot do that: %s", shown)
	case !language().English(): // the details are in English: the kind comes before them
		text = Marked(kindTexts[errkind.KindOf(err)]) + ": " + shown
	}
	a.Warn(text, a.Foreign(errkind.HintOf(err)))
}

// kindTexts describe the kinds of errors whose text is not translated: those of the agent and
// of the libraries.
var kindTexts = map[errkind.Kind]string{
	errkind.Failed:         Mark("failed"),
	errkind.Usage:          Mark("wrong use"),
	errkind.Invalid:        Mark("invalid input"),
	errkind.NotFound:       Mark("not found"),
	errkind.Exists:         Mark("exists already"),
	errkind.Conflict:       Mark("name conflict"),
	errkind.Busy:           Mark("busy"),
	errkind.Held:           Mark("on hold"),
	errkind.NoSpace:        Mark("no disk space"),
	errkind.NotPermitted:   Mark("not permitted"),
	errkind.Untrusted:      Mark("not trusted"),
	errkind.Unavailable:    Mark("not available"),
	errkind.BadPolicy:      Mark("broken policy"),
	errkind.Interrupted:    Mark("interrupted"),
	errkind.LimitsExceeded: Mark("limit exceeded"),
}

// Several are errors of independent operations, each printed on lines of its own. The first
// determines the exit status.
type Several struct{ Errs []error }

// Join returns nil, the error, or several.
func Join(errs []error) error {
	switch len(errs) {
	case 0:
		return nil
	case 1:
		return errs[0]
	}
	return &Several{errs}
}

func (s *Several) Error() string   { return s.Errs[0].Error() }
func (s *Several) Unwrap() []error { return s.Errs }

// Doing prefixes an error with the failed operation, unless its text already begins with one.
// The parameter what is a message.
func Doing(what string, err error) error {
	if err == nil || isWhole(err) || strings.HasPrefix(err.Error(), "cannot ") {
		return err
	}
	return Failed(errkind.KindOf(err), T("cannot %s: %s", Marked(what), err), errkind.HintOf(err), err)
}

// NotWritten returns the error of an output whose reader has closed.
func NotWritten(err error) error {
	if err == nil {
		return nil
	}
	return Error(errkind.Failed, "cannot write the output: %w", err)
}
