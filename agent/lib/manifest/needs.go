package manifest

import (
	"slices"
	"strconv"
	"strings"

	"github.com/lull/lull/agent/lib/errkind"
)

// ValidNeeds returns an error if s cannot be the version of lull that a package needs. "" means
// any version.
func ValidNeeds(s string) error {
	if _, rest := numbers(s); s != "" && (rest != "" || !isDigit(s[0])) {
		return errkind.Errorf("needs-lull %.40q: want a version such as 1.2", s)
	}
	return nil
}

// Satisfies reports whether a version of lull, as "1.2.3", is at least the needed one. A version
// that does not begin with a number, as that of a development build, satisfies all needs. Text
// after the numbers does not count.
func Satisfies(own, needs string) bool {
	have, _ := numbers(own)
	want, _ := numbers(needs)
	if have == nil || want == nil {
		return true
	}
	for len(have) < len(want) {
		have = append(have, 0)
	}
	return slices.Compare(have, want) >= 0
}

// numbers returns the at most three numbers, of at most five digits, that a version begins
// with, and the rest of it. It uses no package regexp, which launchers would have to load.
func numbers(version string) (list []int, rest string) {
	rest = version
	for len(list) < 3 {
		s := rest
		if len(list) > 0 {
			var dot bool
			if s, dot = strings.CutPrefix(s, "."); !dot {
				break
			}
		}
		n := 0
		for n < len(s) && n < 5 && isDigit(s[n]) {
			n++
		}
		number, err := strconv.Atoi(s[:n])
		if err != nil {
			break
		}
		list, rest = append(list, number), s[n:]
	}
	return list, rest
}
