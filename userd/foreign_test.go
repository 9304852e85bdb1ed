package userd

import (
	"testing"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/texts/po"
)

// TestForeign: errors of the agent are translated with their parts, sizes and causes.
func TestForeign(t *testing.T) {
	t.Setenv("LANGUAGE", "")
	t.Setenv("LC_ALL", "C.UTF-8")
	if foreign(po.Languages()) != nil {
		t.Error("English is translated, want no translation")
	}
	t.Setenv("LC_ALL", "de_DE.UTF-8")
	made := map[string]errkind.Sentence{
		"cannot refresh x: cannot read repository \"a\": connection refused": {Message: "cannot %s %s: %s", Parts: []string{"refresh", "x", "cannot read repository \"a\": connection refused"}},
		"cannot read repository \"a\": connection refused":                   {Message: "cannot read repository %q: %w", Parts: []string{"\"a\"", "connection refused"}},
		"refresh": {Message: "refresh"},
		"cannot fetch x: 2.1 GB needed, 1.0 GB free, 10 MB can be freed": {Message: "cannot fetch %s: %s", Parts: []string{"x", "2.1 GB needed, 1.0 GB free, 10 MB can be freed"}},
		"2.1 GB needed, 1.0 GB free, 10 MB can be freed":                 {Message: "%s needed, %s free, %s can be freed", Parts: []string{"2.1 GB", "1.0 GB", "10 MB"}},
	}
	for text, want := range map[string]string{
		"cannot read repository \"a\": connection refused":                   "Paketquelle \"a\" kann nicht gelesen werden: Verbindungsaufbau abgelehnt",
		"cannot refresh x: cannot read repository \"a\": connection refused": "x: Aktualisieren ist nicht möglich: Paketquelle \"a\" kann nicht gelesen werden: Verbindungsaufbau abgelehnt",
		"cannot fetch x: 2.1 GB needed, 1.0 GB free, 10 MB can be freed":     "x kann nicht geholt werden: 2,1 GB gebraucht, 1,0 GB frei, 10 MB können frei werden",
		"of another program": "of another program",
	} {
		if got := foreign(po.Languages())(text, made); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
