package errkind

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"
)

func TestKindsAndExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		kind Kind
		code int
	}{
		{nil, "", 0},
		{errors.New("x"), Failed, 1},
		{New(Usage, "cannot x"), Usage, 64},
		{New(Invalid, "cannot x"), Invalid, 65},
		{fmt.Errorf("around: %w", New(Untrusted, "cannot x")), Untrusted, 65},
		{New(Unavailable, "cannot x"), Unavailable, 69},
		{&fs.PathError{Op: "write", Path: "/x", Err: syscall.ENOSPC}, NoSpace, 73},
		{syscall.EDQUOT, NoSpace, 73},
		{New(Busy, "cannot x"), Busy, 75},
		{New(Held, "cannot x"), Held, 75},
		{&fs.PathError{Op: "open", Path: "/x", Err: syscall.EACCES}, NotPermitted, 77},
		{New(BadPolicy, "cannot x"), BadPolicy, 78},
		{New(Failed, "cannot x: %w", syscall.ENOSPC), Failed, 1}, // an explicit kind takes precedence
		{New(NotFound, "cannot x"), NotFound, 1},
	} {
		if kind, code := KindOf(c.err), ExitCode(c.err); kind != c.kind || code != c.code {
			t.Errorf("%v: kind %s, code %d; want %s, %d", c.err, kind, code, c.kind, c.code)
		}
	}
}

func TestHintLine(t *testing.T) {
	for _, e := range []*Error{New(Busy, "cannot x: hint: y"), New(Busy, "cannot x").WithHint("do y"), New(Busy, "cannot\nhint: a\nx").WithHint("b")} {
		text, hint := CutHint(WithHintLine(e))
		if text != e.Text || hint != e.Hint {
			t.Errorf("%q: %q, %q; want text %v and hint %v", WithHintLine(e), text, hint, e.Text, e.Hint)
		}
	}
}

func TestHintTravels(t *testing.T) {
	e := New(NoSpace, "cannot write: %w", syscall.ENOSPC)
	err := fmt.Errorf("around: %w", e.WithHint("free %d bytes", 7))
	if HintOf(err) != "free 7 bytes" || HintOf(e) != "" || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got hint %q of the wrapped error and %q of the original, error %v; want %q, no hint, and an error that wraps ENOSPC", HintOf(err), HintOf(e), err, "free 7 bytes")
	}
}
