package main

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

// program returns the path of the command, for tests that need a process: this test, see
// TestMain.
func program(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	path := filepath.Join(t.TempDir(), "lull")
	if err == nil {
		err = os.Symlink(self, path)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// reading are commands that only show state.
var reading = []string{"list", "status", "status org.example.notes", "pending", "history", "search", "info notes", "changelog notes", "du", "gc --dry-run",
	"doctor", "repo list", "repo show local", "why notes", "refresh --list", "policy explain", "system status", "version", "help", "help refresh", "help hold"}

// TestWidths: each output fits a terminal of 40 to 200 columns, as far as its words allow,
// and has no colour if it is disabled.
func TestWidths(t *testing.T) {
	f := startAgent(t)
	f.add(t, notes())
	t.Setenv("HOME", t.TempDir())
	t.Setenv("LULL_CONFIG", t.TempDir())
	for _, width := range []int{40, 60, 80, 132, 200} {
		for _, line := range reading {
			var out, errs bytes.Buffer
			a := &app{stdin: strings.NewReader(""), Printer: &output.Printer{Stdout: &out, Stderr: &errs, Width: width, ErrWidth: width, Now: func() time.Time { return monday }}}
			a.run(t.Context(), append([]string{"--bus", f.address}, strings.Fields(line)...))
			for l := range strings.Lines(out.String() + errs.String()) {
				l = strings.TrimSuffix(l, "\n")
				longest := 0
				for _, word := range strings.Fields(l) {
					longest = max(longest, output.Columns(word))
				}
				// Commands are for copying, and a terminal breaks them where
				// necessary.
				command := strings.HasPrefix(strings.TrimSpace(l), "lull ") || strings.HasPrefix(l, "  undo: ") || strings.HasPrefix(l, "`lull ")
				if n := output.Columns(l); n > width && longest < width/2 && !command {
					t.Errorf("lull %s in %d columns: got line %q of %d columns, want at most %d", line, width, l, n, width)
				}
				if strings.Contains(l, "\x1b") {
					t.Errorf("lull %s: got line %q, want no escape sequences", line, l)
				}
			}
		}
	}
}

// TestClosedPipe: a closed reader ends the command like other programs by a signal, without a
// message.
func TestClosedPipe(t *testing.T) {
	f := startAgent(t)
	for range 3 {
		f.add(t, notes())
	}
	for _, line := range []string{"list", "help", "--json list", "history", "completion bash"} {
		c := exec.Command(program(t), append([]string{"--bus", f.address}, strings.Fields(line)...)...)
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		var errs bytes.Buffer
		c.Stdout, c.Stderr = w, &errs
		err = c.Run()
		w.Close()
		var exit *exec.ExitError
		if !isExit(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGPIPE || errs.Len() > 0 {
			t.Errorf("lull %s into a closed pipe: got %v and error output %q, want the end by SIGPIPE and no error output", line, err, errs.String())
		}
	}
}

func isExit(err error, to **exec.ExitError) bool {
	e, ok := err.(*exec.ExitError)
	*to = e
	return ok
}

// TestOnTerminals follows an installation on terminals: bars on one that moves its cursor,
// lines without symbols on TERM=dumb and for LULL_PLAIN, ASCII in an ASCII locale. A stop and
// a new size in between lose no output.
func TestOnTerminals(t *testing.T) {
	lull := program(t)
	for _, test := range []struct {
		name   string
		env    []string
		bars   bool
		ascii  bool
		resize bool
	}{
		{"xterm", []string{"TERM=xterm", "LANG=C.UTF-8"}, true, false, true},
		{"dumb", []string{"TERM=dumb", "LANG=C.UTF-8"}, false, false, false},
		{"C", []string{"TERM=xterm", "LANG=C"}, true, true, false},
		{"screen reader", []string{"TERM=xterm", "LANG=C.UTF-8", "LULL_PROGRESS=lines"}, false, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := startAgent(t)
			more := make(chan struct{})
			f.play(func(verb, name string) (dbus.ObjectPath, error) {
				return f.beginLater(more, "1", bus.RefreshProperties{Kind: verb, Instance: name, State: "preparing", Step: "fetch", ToVersion: "1.1", BytesDone: 1e6, BytesTotal: 9e6},
					func(p *bus.RefreshProperties) { p.Step, p.State = "link", "critical" },
					func(p *bus.RefreshProperties) { p.State = "done" })
			})
			user, tty := terminal(t)
			size := func(columns uint16) {
				if err := unix.IoctlSetWinsize(int(user.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns}); err != nil {
					t.Fatal(err)
				}
			}
			size(80)
			c := exec.CommandContext(t.Context(), lull, "--bus", f.address, "install", "org.example.notes")
			c.Env = append(slices.DeleteFunc(os.Environ(), func(s string) bool {
				return strings.HasPrefix(s, "LC_") || strings.HasPrefix(s, "LANG") || strings.HasPrefix(s, "NO_COLOR") || strings.HasPrefix(s, "COLUMNS")
			}), test.env...)
			c.Stdin, c.Stdout, c.Stderr = tty, tty, tty
			c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			tty.Close()
			seen := bufio.NewReader(user)
			var text strings.Builder
			until := func(word string) {
				t.Helper()
				for !strings.Contains(text.String(), word) {
					r, _, err := seen.ReadRune()
					if err != nil {
						t.Fatalf("no %q: %v\n%q", word, err, text.String())
					}
					text.WriteRune(r)
				}
			}
			until("org.example.notes")
			if test.resize {
				size(40)
				if err := c.Process.Signal(syscall.SIGWINCH); err != nil {
					t.Fatal(err)
				}
				if err := c.Process.Signal(syscall.SIGSTOP); err != nil { // SIGTSTP stops no process of an orphaned group
					t.Fatal(err)
				}
				if err := c.Process.Signal(syscall.SIGCONT); err != nil {
					t.Fatal(err)
				}
			}
			close(more)
			until("1.1 is installed")
			rest, _ := io.ReadAll(seen) // ends with an error when the terminal closes
			if err := c.Wait(); err != nil {
				t.Errorf("%v\n%q", err, text.String())
			}
			all := text.String() + string(rest)
			if got := strings.Contains(all, "\x1b["); got != test.bars {
				t.Errorf("got cursor movements %v in %q, want %v", got, all, test.bars)
			}
			if !test.bars && strings.ContainsAny(all, "[]█━…→") {
				t.Errorf("got %q, want none of the symbols []█━…→", all)
			}
			if test.ascii {
				for _, r := range all {
					if r >= utf8.RuneSelf {
						t.Errorf("got %q in %q, want ASCII only", r, all)
						break
					}
				}
			}
		})
	}
}

// TestASCII: in a locale without other characters the texts of the command are ASCII. Foreign
// names are unchanged.
func TestASCII(t *testing.T) {
	f := startAgent(t)
	f.add(t, notes())
	t.Setenv("HOME", t.TempDir())
	for _, line := range reading {
		var out, errs bytes.Buffer
		a := &app{stdin: strings.NewReader(""), Printer: &output.Printer{Stdout: &out, Stderr: &errs, Width: 60, ErrWidth: 60, ASCII: true, Now: func() time.Time { return monday }}}
		a.run(t.Context(), append([]string{"--bus", f.address}, strings.Fields(line)...))
		for l := range strings.Lines(out.String() + errs.String()) {
			if strings.ContainsFunc(l, func(r rune) bool { return r >= utf8.RuneSelf }) {
				t.Errorf("lull %s: got line %q, want ASCII only", line, l)
			}
		}
	}
}
