// Package po finds the language of a process, and has the catalogs that are read without the
// library of gettext: those of programs that must start fast and rarely print a message.
//
// The catalogs are in the directories beside it; see package texts.
package po

import (
	"embed"
	"os"
	"strconv"
	"strings"
)

//go:embed lull-run/*.po
var files embed.FS

// Languages are those of this process, the preferred one first, by the rules of gettext(3):
// LANGUAGE counts unless the locale is C. Nil means English.
func Languages() []string { return LanguagesOf(os.Getenv) }

// LanguagesOf are those of an environment, as Languages.
func LanguagesOf(getenv func(name string) string) []string {
	locale := ""
	for _, name := range []string{"LC_ALL", "LC_MESSAGES", "LANG"} {
		if locale = getenv(name); locale != "" {
			break
		}
	}
	switch base, _, _ := strings.Cut(locale, "."); base {
	case "", "C", "POSIX":
		return nil
	}
	return append(strings.Split(getenv("LANGUAGE"), ":"), locale)
}

// Names are the names that catalogs of the languages can have, up to the first that is
// English. A language is named as a locale is: de, de_AT, de_DE.UTF-8@euro.
func Names(languages []string) (names []string) {
	for _, l := range languages {
		l, _, _ = strings.Cut(l, "@")
		l, _, _ = strings.Cut(l, ".")
		short, _, _ := strings.Cut(l, "_")
		switch {
		case short == "en", short == "C", short == "POSIX":
			return names
		case l == "" || strings.ContainsAny(l, "/."):
			continue
		}
		names = append(names, l, short)
	}
	return names
}

// Catalog are the messages of a program in the first of the languages that it has; nil means
// English. Messages with plurals are left out.
func Catalog(program string, languages []string) map[string]string {
	for _, name := range Names(languages) {
		if b, err := files.ReadFile(program + "/" + name + ".po"); err == nil {
			return read(string(b))
		}
	}
	return nil
}

// read reads the entries of a file; each string may continue on further lines.
func read(text string) map[string]string {
	all := map[string]string{}
	var id, message string
	var into *string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "msgid "):
			id, message, into = "", "", &id
		case strings.HasPrefix(line, "msgstr "):
			into = &message
		case !strings.HasPrefix(line, `"`):
			into = nil
		}
		_, quoted, found := strings.Cut(line, `"`)
		if into == nil || !found {
			continue
		}
		part, err := strconv.Unquote(`"` + quoted)
		if err != nil {
			continue // a test reads all catalogs
		}
		*into += part
		if into == &message && id != "" {
			all[id] = message
		}
	}
	return all
}
