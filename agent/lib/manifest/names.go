package manifest

import (
	"strings"
	"unicode"

	"github.com/lull/lull/agent/lib/errkind"
)

// maxName bounds a package's name, and the key of an instance.
const maxName = 63

// ValidName reports why s cannot be a package's name:
// [A-Za-z0-9][A-Za-z0-9.-]{0,62}. Two installed names that differ only by case are
// refused where they would meet.
func ValidName(s string) error {
	if !isName(s) {
		return errkind.New(errkind.Invalid, "cannot use %.80q as a package name: want 1 to %d of A-Z, a-z, 0-9, '.' and '-', not beginning with '.' or '-'", s, maxName)
	}
	return nil
}

// ValidLabel reports why s cannot be the name of a repository or channel, which are
// lower-case: [a-z0-9][a-z0-9.-]{0,62}.
func ValidLabel(s string) error {
	if !isName(s) || strings.ContainsFunc(s, unicode.IsUpper) {
		return errkind.New(errkind.Invalid, "cannot use %.80q as a name: want 1 to %d of a-z, 0-9, '.' and '-', not beginning with '.' or '-'", s, maxName)
	}
	return nil
}

// ValidInstance reports why s cannot be an instance: NAME or NAME_KEY, where KEY
// looks like a name.
func ValidInstance(s string) error {
	name, key, keyed := strings.Cut(s, "_")
	if !isName(name) || keyed && !isName(key) {
		return errkind.New(errkind.Invalid, "cannot use %.160q as an instance: want NAME or NAME_KEY, each 1 to %d of A-Z, a-z, 0-9, '.' and '-', not beginning with '.' or '-'", s, maxName)
	}
	return nil
}

// SplitInstance takes a valid instance apart; key is empty for a plain name.
func SplitInstance(instance string) (name, key string) {
	name, key, _ = strings.Cut(instance, "_")
	return name, key
}

func isName(s string) bool {
	if s == "" || len(s) > maxName || s[0] == '.' || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !(isLower(c) || isUpper(c) || isDigit(c) || c == '.' || c == '-') {
			return false
		}
	}
	return true
}

// isWord is the rule for the names of apps and services: like a package's
// name, with capitals and underscores, and for apps with '+'.
func isWord(s string, plus bool) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case isLower(c), isUpper(c), isDigit(c):
		case i > 0 && (c == '.' || c == '-' || c == '_' || plus && c == '+'):
		default:
			return false
		}
	}
	return true
}

// isBusName follows the D-Bus specification, "Message Protocol: Bus names",
// for well-known names.
func isBusName(s string) bool {
	if len(s) > 255 || !strings.Contains(s, ".") {
		return false
	}
	for element := range strings.SplitSeq(s, ".") {
		if element == "" || isDigit(element[0]) {
			return false
		}
		for i := range len(element) {
			if c := element[i]; !(isLower(c) || isUpper(c) || isDigit(c) || c == '_' || c == '-') {
				return false
			}
		}
	}
	return true
}

// isUser follows useradd(8), without the trailing '$'.
func isUser(s string) bool {
	if s == "" || len(s) > 32 || !isLower(s[0]) && s[0] != '_' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !(isLower(c) || isDigit(c) || c == '_' || c == '-') {
			return false
		}
	}
	return true
}

// isSignal accepts what signal(7) calls a signal, as in SIGTERM or SIGRTMIN+3.
func isSignal(s string) bool {
	rest, ok := strings.CutPrefix(s, "SIG")
	if !ok || rest == "" || len(rest) > 16 {
		return false
	}
	for i := range len(rest) {
		if c := rest[i]; !(isUpper(c) || isDigit(c) || i > 0 && (c == '+' || c == '-')) {
			return false
		}
	}
	return true
}

func isLower(c byte) bool { return c >= 'a' && c <= 'z' }
func isUpper(c byte) bool { return c >= 'A' && c <= 'Z' }
func isDigit(c byte) bool { return c >= '0' && c <= '9' }
