package manifest

import (
	"strings"
	"testing"
)

// TestTextsThatTurn: what embeds, overrides or isolates is refused in texts for
// people; the marks that a text in two directions may need are taken.
func TestTextsThatTurn(t *testing.T) {
	for _, text := range []string{"exe\u202etxt.cod", "\u202aa", "a\u202c", "\u2066a\u2069"} {
		if err := checkText(text, 100, ""); err == nil || !strings.Contains(err.Error(), "writing direction") {
			t.Errorf("%+q: %v; want an error and %q in the error", text, err, "writing direction")
		}
	}
	for _, text := range []string{"يوميات\u200f", "Größe\u200e", "\U0001f469\u200d\U0001f4bb"} {
		if err := checkText(text, 100, ""); err != nil {
			t.Errorf("%+q: %v", text, err)
		}
	}
}
