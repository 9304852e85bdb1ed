package manifest

import (
	"cmp"
	"regexp"
	"strconv"
	"strings"

	"github.com/lull/lull/agent/lib/errkind"
)

var (
	needsPattern = regexp.MustCompile(`^[0-9]{1,5}(\.[0-9]{1,5}){0,2}$`)
	ownPattern   = regexp.MustCompile(`^[0-9]{1,5}(\.[0-9]{1,5}){0,2}`)
)

// ValidNeeds returns an error if s cannot be the version of lull that a package needs. "" means
// any version.
func ValidNeeds(s string) error {
	if s != "" && !needsPattern.MatchString(s) {
		return errkind.Errorf("needs-lull %.40q: want a version such as 1.2", s)
	}
	return nil
}

// Satisfies reports whether a version of lull, as "1.2.3", is at least the needed one. A version
// that does not begin with a number, as that of a development build, satisfies all needs. Text
// after the numbers does not count.
func Satisfies(own, needs string) bool {
	own = ownPattern.FindString(own)
	if own == "" || needs == "" {
		return true
	}
	have, want := strings.Split(own, "."), strings.Split(needs, ".")
	for i, w := range want {
		h := "0"
		if i < len(have) {
			h = have[i]
		}
		a, _ := strconv.Atoi(h)
		b, _ := strconv.Atoi(w)
		if c := cmp.Compare(a, b); c != 0 {
			return c > 0
		}
	}
	return true
}
