package po

import (
	"os"
	"strings"
	"testing"

	"github.com/leonelquinteros/gotext"
)

// The reader finds what the library of gettext finds.
func TestCatalog(t *testing.T) {
	b, err := os.ReadFile("lull-run/de.po")
	if err != nil {
		t.Fatal(err)
	}
	peer := gotext.NewPo()
	peer.Parse(b)
	want := peer.GetDomain().GetTranslations()
	got := Catalog("lull-run", []string{"de_DE.UTF-8"})
	if len(got) != len(want)-1 || len(got) < 50 { // the peer has the header, too
		t.Errorf("%d messages, want %d", len(got), len(want)-1)
	}
	for id, tr := range want {
		if id != "" && got[id] != tr.Trs[0] {
			t.Errorf("%q is %q, want %q", id, got[id], tr.Trs[0])
		}
	}
	if c := Catalog("lull-run", []string{"en_GB", "de"}); c != nil {
		t.Error("English has a catalog")
	}
}

func TestRead(t *testing.T) {
	for text, want := range map[string]string{
		"msgid \"a\"\nmsgstr \"b\"\n":                           "b",
		"msgid \"\"\n\"a\"\nmsgstr \"\"\n\"b\\n\"\n\"\\\"c\"\n": "b\n\"c",
		"#: x\n# \"a\"\nmsgid \"a\"\n\nmsgstr \"b\"":            "b",
		"msgid \"a\"\nmsgstr \"\\q\"":                           "",
		"msgid":                                                 "",
		"\"a\"\nmsgstr \"b\"":                                   "",
	} {
		if got := read(text)["a"]; got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestNames(t *testing.T) {
	for languages, want := range map[string]string{
		"": "", "de": "de de", "de_AT@euro": "de_AT de", "C.UTF-8 de": "", "en_GB de": "", "xx de": "xx xx de de", "../x": "",
	} {
		if got := strings.Join(Names(strings.Fields(languages)), " "); got != want {
			t.Errorf("%q: %q, want %q", languages, got, want)
		}
	}
}
