// Package output prints for the command line: tables, labelled lines, single lines, errors
// with their hints, JSON documents, and the progress of refreshes. It also formats sizes,
// times and lists of names. Foreign text (names, versions, notes) passes through OneLine, so
// that it cannot control a terminal.
//
// A Printer is used by one goroutine. It neither asks nor decides; the verbs in cmd/lull do.
package output

import (
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/lull/lull/agent/lib/errkind"
)

// Printer holds the outputs of a command, and their format.
type Printer struct {
	Stdout, Stderr io.Writer
	Now            func() time.Time

	JSON  bool // documents for programs instead of text
	Lines bool // each document is one line

	// AskSentences asks the agent how a text was made, and its parts. It may be nil.
	AskSentences func(text string) map[string]errkind.Sentence
	asked        map[string]bool // texts that the agent was asked about
	told         map[string]errkind.Sentence

	Width    int  // columns of the terminal on Stdout; 0 means none
	ErrWidth int  // the same of Stderr
	Color    bool // Stdout takes colours
	ASCII    bool // the terminal's locale has no other characters for the words of lull
}

// New returns a Printer for the two outputs of a process.
func New(stdout, stderr io.Writer) *Printer {
	p := &Printer{Stdout: stdout, Stderr: stderr, Now: time.Now, Width: terminalWidth(stdout), ErrWidth: terminalWidth(stderr)}
	p.ASCII = (p.Width > 0 || p.ErrWidth > 0) && !utf8Locale()
	p.Color = isTerminal(stdout) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" // COLUMNS makes no terminal
	return p
}

// utf8Locale reports whether characters are encoded as UTF-8 in the locale of this
// process, by setlocale(3).
func utf8Locale() bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if locale := os.Getenv(name); locale != "" {
			_, charset, _ := strings.Cut(locale, ".")
			charset, _, _ = strings.Cut(charset, "@")
			return strings.EqualFold(strings.ReplaceAll(charset, "-", ""), "utf8")
		}
	}
	return false
}

// ascii has the symbols of lull in ASCII, each as wide as it was or wider.
var ascii = strings.NewReplacer("→", "->", "≤", "<=", "…", "~")

// Shown returns text in the terminal's encoding.
func (a *Printer) Shown(s string) string {
	if a.ASCII {
		return ascii.Replace(s)
	}
	return s
}

// terminalWidth returns the columns of a terminal, or 0. COLUMNS applies to pipes, too, so
// that a script can set the width of tables.
func terminalWidth(w any) int {
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n > 0 {
		return n
	}
	if !isTerminal(w) {
		return 0
	}
	width, _, err := term.GetSize(int(w.(*os.File).Fd()))
	if err != nil || width <= 0 {
		return 80
	}
	return width
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// asLines reports whether progress is shown as lines of words, for users of a screen reader.
func asLines() bool { return os.Getenv("LULL_PROGRESS") == "lines" }

// IsTerminal reports whether w is a terminal that supports cursor movements. One that does
// not report its size, as on a serial line, supports none.
func IsTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" {
		return false
	}
	width, _, err := term.GetSize(int(f.Fd()))
	return err == nil && width > 0
}
