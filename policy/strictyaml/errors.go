package strictyaml

import (
	"errors"
	"fmt"
	"sort"
	"strings"
	"unicode"

	"github.com/lull/lull/agent/lib/errkind"
)

// Error is one problem of a file. Its text is "FILE:LINE: cannot …", without
// the line where the whole file is meant (Line 0).
type Error struct {
	File string
	Line int
	Text string // "cannot …"
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return e.File + ": " + e.Text
	}
	return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Text)
}

// newError makes a problem whose text is one line, for any content of the file.
func newError(file string, line int, format string, args ...any) *Error {
	text := strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, errkind.Text(format, args...))
	return &Error{file, line, text}
}

// Errors are the problems of one file by line; never empty. As an error they
// read as the first of them, on one line.
type Errors []*Error

func (l Errors) Error() string {
	if len(l) == 1 {
		return l[0].Error()
	}
	return fmt.Sprintf("%s (and %d more)", l[0], len(l)-1)
}

// Unwrap returns the single problems.
func (l Errors) Unwrap() []error {
	errs := make([]error, len(l))
	for i, e := range l {
		errs[i] = e
	}
	return errs
}

// All returns every problem that err carries: those of an Errors singly, any
// other error as it is, nothing for nil.
func All(err error) []error {
	var l Errors
	switch {
	case err == nil:
		return nil
	case errors.As(err, &l):
		return l.Unwrap()
	}
	return []error{err}
}

// sorted orders the problems by line and returns nil as a nil error.
func sorted(l Errors) error {
	if len(l) == 0 {
		return nil
	}
	return l.Sorted()
}

// Sorted returns the problems ordered by line.
func (l Errors) Sorted() Errors {
	sort.SliceStable(l, func(i, j int) bool { return l[i].Line < l[j].Line })
	return l
}
