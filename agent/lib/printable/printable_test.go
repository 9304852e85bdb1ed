package printable

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

func TestLine(t *testing.T) {
	for in, want := range map[string]string{
		"Notes":                      "Notes",
		"Größe 漢字 🙂":                 "Größe 漢字 🙂",
		"a\nb\tc\rd\u2028e\u2029f":   "a b c d e f",
		"\x1b[2Jgone":                "?[2Jgone",
		"\u009b31mred":               "?31mred",
		"\x9b31mred":                 "?31mred", // C1 in a terminal of eight bits
		"exe\u202etxt.cod":           "exe?txt.cod",
		"a\u2066b\u2069c\u200ed":     "a?b?c?d",
		"zero\u200bwidth\ufeff":      "zero?width?",
		"tag\U000e0041, del\x7f\x00": "tag?, del??",
		"cut \xe2\x82":               "cut ??",
	} {
		if got := Line(in); got != want {
			t.Errorf("%+q: %+q, want %+q", in, got, want)
		}
	}
}

func FuzzLine(f *testing.F) {
	f.Add("a\u009bb\u202ec\x1b\xff")
	f.Fuzz(func(t *testing.T, s string) {
		got := Line(s)
		if strings.ContainsFunc(got, Hostile) {
			t.Errorf("Line(%+q): got %+q, want no hostile characters", s, got)
		}
		if again := Line(got); again != got {
			t.Errorf("Line(%+q): got %+q, want it unchanged", got, again)
		}
		var out bytes.Buffer
		if err := json.NewEncoder(JSON(&out)).Encode(s); err != nil {
			t.Fatal(err)
		}
		var back string
		if err := json.Unmarshal(out.Bytes(), &back); err != nil || back != strings.ToValidUTF8(s, "\ufffd") && !strings.Contains(back, "\ufffd") {
			t.Errorf("JSON of %+q: read back as %+q, %v; want the same, with U+FFFD for what is replaced, and no error", s, back, err)
		}
		if text := strings.TrimSuffix(out.String(), "\n"); strings.ContainsFunc(text, func(r rune) bool { return Hostile(r) && r != '\ufffd' }) {
			t.Errorf("JSON of %+q: got %+q, want no hostile characters", s, text)
		}
	})
}
