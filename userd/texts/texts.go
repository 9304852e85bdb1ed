// Package texts puts what people read into their language, by gettext: the
// messages are English sentences in the code, and what they are in other
// languages stands in po/LANGUAGE.po, which is built into the program.
//
// Words: a *message* is a sentence as the code has it, with the verbs of fmt
// for what is filled in; where there are several they have numbers (%[1]s), so
// that a translation may take them in another order. Messages are whole
// sentences: none is put together from parts that are no sentences.
//
// po/lull-userd.pot is the list of all messages, for translators. `go generate`
// writes it from the calls of T and N, and a test says when it is stale.
//
// A Texts does not change and may be used from any goroutine.
package texts

import (
	"embed"
	"fmt"
	"os"
	"strings"

	"github.com/leonelquinteros/gotext"
)

//go:generate go run ./pot -o po/lull-userd.pot .. ../notify ../desktop

//go:embed po/*.po
var files embed.FS

// Texts are the messages in one language. The zero value has them in English.
type Texts struct{ po *gotext.Po }

// For makes those in the first of the languages that there is. A language is
// named as a locale is: de, de_AT, de_DE.UTF-8@euro. "C" and "POSIX" are English.
func For(languages ...string) Texts {
	for _, l := range languages {
		l, _, _ = strings.Cut(l, "@")
		l, _, _ = strings.Cut(l, ".")
		short, _, _ := strings.Cut(l, "_")
		for _, name := range []string{l, short} {
			switch {
			case name == "en", name == "C", name == "POSIX":
				return Texts{}
			case name == "" || strings.ContainsAny(name, "/."):
				continue
			}
			if b, err := files.ReadFile("po/" + name + ".po"); err == nil {
				po := gotext.NewPo()
				po.Parse(b)
				return Texts{po}
			}
		}
	}
	return Texts{}
}

// FromEnvironment makes those in the language of this process, as gettext(3)
// finds it: LANGUAGE has a say unless the locale is C.
func FromEnvironment() Texts {
	locale := ""
	for _, name := range []string{"LC_ALL", "LC_MESSAGES", "LANG"} {
		if locale = os.Getenv(name); locale != "" {
			break
		}
	}
	switch base, _, _ := strings.Cut(locale, "."); base {
	case "", "C", "POSIX":
		return Texts{}
	}
	return For(append(strings.Split(os.Getenv("LANGUAGE"), ":"), locale)...)
}

// T is a message with its arguments filled in.
func (t Texts) T(message string, args ...any) string {
	if t.po != nil {
		message = t.po.Get(message, nothing...)
	}
	return fill(message, args)
}

// N is the message for n of something: each language has as many forms as it
// needs. N itself is not filled in, unless it is among the arguments.
func (t Texts) N(one, many string, n int, args ...any) string {
	message := many
	if n == 1 {
		message = one
	}
	if t.po != nil {
		message = t.po.GetN(one, many, n, nothing...)
	}
	return fill(message, args)
}

// nothing keeps the library from filling in: that is done here for English, too.
var nothing []any

func fill(message string, args []any) string {
	if len(args) == 0 {
		return message
	}
	return fmt.Sprintf(message, args...)
}
