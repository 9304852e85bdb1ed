package errkind

import (
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// TestCauses: the errors of the kernel and of libraries are translated wherever a text ends
// with one, and stay as they are in English.
func TestCauses(t *testing.T) {
	german := map[string]string{"no such file or directory": "nicht gefunden", "exit status %s": "Status %s", "connection refused": "abgelehnt"}
	translation := func(known map[string]string) Translation {
		return Translation{
			Of: func(string) (Sentence, bool) { return Sentence{}, false },
			Message: func(m string) string {
				if g := known[m]; g != "" {
					return g
				}
				return m
			},
		}
	}
	for _, test := range []struct{ text, want string }{
		{"no such file or directory", "nicht gefunden"},
		{"x: open /a/b: no such file or directory", "x: /a/b: nicht gefunden"},
		{"openat lull.yaml: no such file or directory", "lull.yaml: nicht gefunden"},
		{"the health hook failed: exit status 3", "the health hook failed: Status 3"},
		{"exit status three", "exit status three"},
		{"read tcp 127.0.0.1:1->127.0.0.1:2: connection refused", "read tcp 127.0.0.1:1->127.0.0.1:2: abgelehnt"},
		{"dial tcp 127.0.0.1:1: connect: connection refused", "dial tcp 127.0.0.1:1: connect: abgelehnt"},
		{"open the door: no such file or directory", "open the door: nicht gefunden"},
		{"x: open /a/b: permission denied", "x: open /a/b: permission denied"}, // the catalog lacks it
		{"no such file or directory, or so", "no such file or directory, or so"},
	} {
		if got, _ := translation(german).Translate(test.text); got != test.want {
			t.Errorf("%q: %q, want %q", test.text, got, test.want)
		}
		if got, ours := translation(nil).Translate(test.text); got != test.text || ours {
			t.Errorf("%q without a catalog: got %q, %v; want it unchanged and false", test.text, got, ours)
		}
	}
	_, missing := os.Stat("/nowhere")
	_, program := exec.LookPath("no-such-program")
	for _, err := range []error{missing, program, fs.ErrExist, syscall.EACCES, syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EIO, syscall.ECONNREFUSED,
		syscall.ETIMEDOUT, syscall.ENOTEMPTY, syscall.EMFILE, syscall.EPIPE, syscall.ESTALE, syscall.ELOOP, syscall.ENAMETOOLONG, syscall.EOPNOTSUPP} {
		text := err.Error()
		if colon := strings.LastIndex(text, ": "); colon >= 0 {
			text = text[colon+len(": "):]
		}
		if _, ok := causeOf(text); !ok {
			t.Errorf("%q is not known", text)
		}
	}
}
