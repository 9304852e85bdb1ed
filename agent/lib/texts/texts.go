// Package texts translates what the programs print or show for people, with the
// catalogs of gettext: the messages are English sentences in the code, and their
// translations are in po/PROGRAM/LANGUAGE.po, which is built into the programs.
//
// Words: a *message* is a sentence as the code has it, with the verbs of fmt for
// what is filled in. A translation may number them (%[2]s) to use them in another
// order. Messages are whole sentences wherever that is possible.
//
// po/PROGRAM/PROGRAM.pot is the list of all messages of a program, for translators.
// `go generate` writes it from the source (package extract has the rules), and a test
// fails if the list is stale or a translation is not complete.
//
// A Texts does not change and may be used from any goroutine.
package texts

import (
	"embed"
	"fmt"

	"github.com/leonelquinteros/gotext"

	"github.com/lull/lull/agent/lib/texts/po"
)

//go:generate go run ./pot -program lull-userd ../../../userd ../../../userd/notify ../../../userd/desktop
//go:generate go run ./pot -program lull ../../../agent/repo/site/words ../../../cmd/lull ../../../cmd/lull/output
//go:generate go run ./pot -program lulld ../../../agent ../../../agent/conditions ../../../agent/api ../../../agent/authz ../../../agent/convert ../../../agent/current ../../../agent/doctor ../../../agent/exports ../../../agent/files ../../../agent/holds ../../../agent/join ../../../agent/lib/errkind ../../../agent/lib/manifest ../../../agent/lib/runctl ../../../agent/lib/sysmanifest ../../../agent/local ../../../agent/logind ../../../agent/manager ../../../agent/metrics ../../../agent/mounts ../../../agent/offers ../../../agent/opener ../../../agent/refresh ../../../agent/refresh/plan ../../../agent/repair ../../../agent/repo ../../../agent/repo/apt ../../../agent/repo/publish ../../../agent/repo/publish/bucket ../../../agent/repo/site ../../../agent/repo/watch ../../../agent/reports ../../../agent/repositories ../../../agent/requests ../../../agent/roots ../../../agent/runs ../../../agent/schedule ../../../agent/services ../../../agent/settings ../../../agent/space ../../../agent/state ../../../agent/store ../../../agent/store/cost ../../../agent/store/gc ../../../agent/store/leases ../../../agent/store/resolve ../../../agent/sysupdate ../../../agent/updater ../../../dbus ../../../policy ../../../policy/strictyaml
//go:generate go run ./pot -program lull-run ../../../userd/launch ../../../userd/userdata ../../../userd/xdg ../../../agent/lib/errkind ../../../agent/lib/launchconf ../../../agent/lib/manifest ../../../agent/lib/runctl ../../../agent/lib/scopes ../../../agent/lib/storeid

//go:embed po/*/*.po
var files embed.FS

// Texts are the messages of a program in one language. The zero value has them in
// English.
type Texts struct{ po *gotext.Po }

// For returns the messages of a program in the first of the languages that it has. A
// language is named as a locale is: de, de_AT, de_DE.UTF-8@euro. "C" and "POSIX" are
// English.
func For(program string, languages ...string) Texts {
	for _, name := range po.Names(languages) {
		if b, err := files.ReadFile("po/" + program + "/" + name + ".po"); err == nil {
			catalog := gotext.NewPo()
			catalog.Parse(b)
			return Texts{catalog}
		}
	}
	return Texts{}
}

// FromEnvironment returns the messages of a program in the language of this process, by
// the rules of gettext(3): LANGUAGE counts unless the locale is C.
func FromEnvironment(program string) Texts {
	return For(program, po.Languages()...)
}

// English reports whether the messages are as the code has them.
func (t Texts) English() bool { return t.po == nil }

// T is a message with its arguments filled in.
func (t Texts) T(message string, args ...any) string {
	return fill(t.Message(message), args)
}

// Message is a message in the language, with the verbs that are still to be filled in.
func (t Texts) Message(message string) string {
	if t.po == nil || message == "" { // the empty message has the header of the catalog
		return message
	}
	return t.po.Get(message, nothing...)
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
