package output

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/texts"
)

// environment has the messages of the command line in the language of this process. As with
// setlocale(3) a process has one language: the first text reads it from the environment,
// once.
var environment = sync.OnceValue(func() texts.Texts { return texts.FromEnvironment("lull") })

// forPrograms is set once a command is known to write for programs.
var forPrograms atomic.Bool

// ForPrograms makes the further texts of this process English: output for programs does not
// depend on the language.
func ForPrograms() { forPrograms.Store(true) }

func language() texts.Texts {
	if forPrograms.Load() {
		return texts.Texts{}
	}
	return environment()
}

// letters replaces letters of other languages by ASCII, for locales whose encoding is not
// UTF-8.
var letters = strings.NewReplacer("ä", "ae", "ö", "oe", "ü", "ue", "Ä", "Ae", "Ö", "Oe", "Ü", "Ue", "ß", "ss", "„", "\"", "“", "\"", "–", "-")

// Marked translates a message that Mark has marked, or one of another kind that is listed for
// translators. Other texts remain unchanged.
func Marked(message string) string {
	t := language()
	if t.English() {
		return message
	}
	message = t.Message(message)
	if !utf8Locale() {
		message = letters.Replace(message)
	}
	return message
}

// Mark marks a string as a message that Marked translates where it is shown.
func Mark(message string) string { return message }

// T is a message in the language of this process, with its arguments filled in.
func T(message string, args ...any) string {
	message = Marked(message)
	if len(args) == 0 {
		return message
	}
	return fmt.Sprintf(message, args...)
}

// N returns the message for a count of n.
func N[I int | int64 | uint32 | uint64](one, many string, n I, args ...any) string {
	t := language()
	form := t.N(one, many, int(min(uint64(n), 1<<30)))
	if !t.English() && !utf8Locale() {
		form = letters.Replace(form)
	}
	if len(args) == 0 {
		return form
	}
	return fmt.Sprintf(form, args...)
}

// choice returns the part of a message after its context: "decimal separator|." is ".".
func choice(message string) string {
	message = Marked(message)
	return message[strings.LastIndexByte(message, '|')+1:]
}

// Lower returns a label or title in the form for the inside of a paragraph: in lower case in
// English, with a capital letter in languages that write nouns so.
func Lower(title string) string {
	if language().English() {
		return strings.ToLower(title)
	}
	title = Marked(title)
	rest := strings.TrimLeft(title, " ")
	if rest == "" || rest != strings.ToUpper(rest) {
		return title
	}
	first := strings.ToLower(rest)
	for i := range first {
		if i > 0 {
			return title[:len(title)-len(rest)] + rest[:i] + first[i:]
		}
	}
	return title
}

// Failure is an error whose text and hint are in the language of this process.
type Failure struct {
	err   *errkind.Error
	whole bool // a whole sentence, which begins with "cannot" in English
}

// Error makes a failure of kind k. A %w among the verbs is kept as its cause.
func Error(k errkind.Kind, message string, args ...any) *Failure {
	whole := strings.HasPrefix(message, "cannot ") || strings.HasPrefix(message, "%s: ")
	return &Failure{errkind.New(k, Marked(message), args...), whole}
}

// Failed makes a failure from translated texts: a whole sentence, and a hint or "".
func Failed(k errkind.Kind, text, hint string, cause error) *Failure {
	return &Failure{&errkind.Error{Kind: k, Text: text, Hint: hint, Err: cause}, true}
}

// isWhole reports whether the text of an error is a whole sentence in the language.
func isWhole(err error) bool {
	var own *Failure
	return errors.As(err, &own) && own.whole
}

func (f *Failure) Error() string { return f.err.Text }

// Unwrap returns the error with its kind and hint.
func (f *Failure) Unwrap() error { return f.err }

// WithHint returns a failure that carries advice.
func (f *Failure) WithHint(message string, args ...any) *Failure {
	return &Failure{f.err.WithHint(Marked(message), args...), f.whole}
}
