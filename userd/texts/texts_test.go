package texts

import (
	"bytes"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/leonelquinteros/gotext"

	"github.com/lull/lull/userd/texts/pot/extract"
)

var folders = []string{"..", "../notify", "../desktop"}

func TestListIsFresh(t *testing.T) {
	want, err := extract.POT(folders)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("po/lull-userd.pot")
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("po/lull-userd.pot is stale (%v): go generate ./userd/texts", err)
	}
}

// verbs are those of fmt, in an order that does not depend on the language.
func verbs(message string) []string {
	list := regexp.MustCompile(`%(\[\d+\])?[a-z%]`).FindAllString(message, -1)
	slices.Sort(list)
	return list
}

// Every message is in every translation, in all forms, with the same arguments;
// and nothing else is.
func TestTranslationsAreWhole(t *testing.T) {
	list, err := extract.Messages(folders)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) < 30 {
		t.Fatalf("only %d messages are found", len(list))
	}
	names, err := fs.Glob(files, "po/*.po")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		b, err := files.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		po := gotext.NewPo()
		po.Parse(b)
		there := po.GetDomain().GetTranslations()
		delete(there, "")
		for _, m := range list {
			tr := there[m.One]
			delete(there, m.One)
			switch {
			case tr == nil:
				t.Errorf("%s lacks %q", name, m.One)
				continue
			case tr.PluralID != m.Many:
				t.Errorf("%s: %q has the plural %q, not %q", name, m.One, tr.PluralID, m.Many)
			case m.Many != "" && len(tr.Trs) != 2: // of German; a language with more says so in its header
				t.Errorf("%s: %q has %d forms", name, m.One, len(tr.Trs))
			}
			for _, text := range tr.Trs {
				if text == "" || !slices.Equal(verbs(text), verbs(m.One)) {
					t.Errorf("%s: %q is %q: its arguments are others", name, m.One, text)
				}
			}
		}
		for id := range there {
			t.Errorf("%s has %q, which no code uses", name, id)
		}
	}
}

func TestLanguages(t *testing.T) {
	for _, c := range []struct {
		languages []string
		german    bool
	}{
		{nil, false}, {[]string{""}, false}, {[]string{"de"}, true}, {[]string{"de_DE.UTF-8"}, true}, {[]string{"de_AT@euro"}, true},
		{[]string{"C.UTF-8", "de"}, false}, {[]string{"en_GB", "de"}, false}, {[]string{"xx", "de"}, true}, {[]string{"../po/de"}, false},
	} {
		if got := For(c.languages...).T("Later"); (got == "Später") != c.german {
			t.Errorf("%v: %q", c.languages, got)
		}
	}
	for _, c := range []struct {
		env    map[string]string
		german bool
	}{
		{nil, false},
		{map[string]string{"LANG": "de_DE.UTF-8"}, true},
		{map[string]string{"LANG": "de_DE.UTF-8", "LC_MESSAGES": "en_US.UTF-8"}, false},
		{map[string]string{"LANG": "en_US.UTF-8", "LC_ALL": "de_CH.UTF-8"}, true},
		{map[string]string{"LANG": "en_US.UTF-8", "LANGUAGE": "de:en"}, true},
		{map[string]string{"LANG": "C.UTF-8", "LANGUAGE": "de"}, false},
	} {
		for _, name := range []string{"LANG", "LANGUAGE", "LC_ALL", "LC_MESSAGES"} {
			t.Setenv(name, c.env[name])
		}
		if got := FromEnvironment().T("Later"); (got == "Später") != c.german {
			t.Errorf("%v: %q", c.env, got)
		}
	}
}

func TestPlurals(t *testing.T) {
	for _, c := range []struct {
		texts Texts
		want  string
	}{{Texts{}, "0 seconds 1 second 2 seconds"}, {For("de"), "0 Sekunden 1 Sekunde 2 Sekunden"}} {
		var got []string
		for n := range 3 {
			got = append(got, c.texts.N("%d second", "%d seconds", n, n))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
