package publish

import (
	"strings"
	"testing"
)

// TestHookOfTheFirstFormat: a refresh-pending hook without its format is refused, because it
// has had another meaning. The former name of the setting is accepted.
func TestHookOfTheFirstFormat(t *testing.T) {
	const head = "name: a\nversion: \"1\"\n"
	for text, want := range map[string]string{
		"hooks: {refresh-pending: bin/x}\n":            "name it quit if it asks the application to quit; with format: 2 it runs when a refresh becomes pending",
		"format: 1\nhooks: {refresh-pending: bin/x}\n": "name it quit",
		"format: 3\n": "cannot use the format 3: want 1 or 2",
		"refresh: {refresh-pending: block, refresh-pending-behavior: allow}\n": "it is the former name of refresh-pending-behavior",
	} {
		if _, err := parseSource("lull.yaml", []byte(head+text), ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	for text, format := range map[string]int{"": 0, "format: 1\n": 0, "format: 2\nhooks: {refresh-pending: bin/x, quit: bin/x}\n": 2} {
		if m, err := parseSource("lull.yaml", []byte(head+text), ""); err != nil || m.Format != format {
			t.Errorf("%q: %+v, %v; want no error and format %v", text, m, err, format)
		}
	}
	for _, key := range []string{"refresh-pending", "refresh-pending-behavior"} {
		if m, err := parseSource("lull.yaml", []byte(head+"refresh: {"+key+": block}\n"), ""); err != nil || m.Refresh.RefreshPending != "block" {
			t.Errorf("%s: %+v, %v; want no error and refresh pending %q", key, m, err, "block")
		}
	}
}
