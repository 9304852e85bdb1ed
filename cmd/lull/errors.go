package main

import (
	"fmt"
	"strings"

	"github.com/lull/lull/agent/problem"
)

// printError says on stderr what went wrong, one line for the text and one for
// the hint, and that for each of several errors.
func (a *app) printError(err error) {
	if err == nil {
		return
	}
	if many, ok := err.(*several); ok {
		for _, e := range many.errs {
			a.printError(e)
		}
		return
	}
	text := oneLine(err.Error())
	if !strings.HasPrefix(text, "cannot ") && !strings.HasPrefix(text, "internal error:") {
		text = "cannot do that: " + text
	}
	fmt.Fprintln(a.stderr, "lull: "+text)
	if hint := problem.HintOf(err); hint != "" {
		fmt.Fprintln(a.stderr, "hint: "+oneLine(hint))
	}
}

// several are errors of independent things, each said on lines of its own. The
// first tells the exit status.
type several struct{ errs []error }

// join returns nil, the error, or several.
func join(errs []error) error {
	switch len(errs) {
	case 0:
		return nil
	case 1:
		return errs[0]
	}
	return &several{errs}
}

func (s *several) Error() string   { return s.errs[0].Error() }
func (s *several) Unwrap() []error { return s.errs }

// doing makes an error begin with what could not be done, unless it says so
// itself.
func doing(what string, err error) error {
	if err == nil || strings.HasPrefix(err.Error(), "cannot ") {
		return err
	}
	return &problem.Error{Kind: problem.KindOf(err), Text: "cannot " + what + ": " + err.Error(), Hint: problem.HintOf(err), Err: err}
}

// notWritten is the error of an output that nobody takes any more.
func notWritten(err error) error {
	if err == nil {
		return nil
	}
	return problem.New(problem.Failed, "cannot write the output: %w", err)
}
