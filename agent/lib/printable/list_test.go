package printable

import (
	"strings"
	"testing"
)

func TestList(t *testing.T) {
	for words, want := range map[string]string{"": "", "a": "a", "a b": "a or b", "a b c": "a, b or c"} {
		t.Run(words, func(t *testing.T) {
			if got := List(strings.Fields(words), "or"); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}
