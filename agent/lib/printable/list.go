package printable

import "strings"

// List joins words for a sentence in English: "a, b and c", with the conjunction and.
func List[T ~string](words []T, conjunction string) string {
	var s strings.Builder
	for i, w := range words {
		switch {
		case i > 0 && i == len(words)-1:
			s.WriteString(" " + conjunction + " ")
		case i > 0:
			s.WriteString(", ")
		}
		s.WriteString(string(w))
	}
	return s.String()
}
