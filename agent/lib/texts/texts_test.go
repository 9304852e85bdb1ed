package texts

import (
	"bytes"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/leonelquinteros/gotext"

	"github.com/lull/lull/agent/lib/texts/pot/extract"
)

// programs are those with messages, and the directories of their source, as the
// directives of go generate have them.
var programs = map[string][]string{
	"lull-userd": {"../../../userd", "../../../userd/notify", "../../../userd/desktop"},
	"lull":       {"../../../agent/repo/site/words", "../../../cmd/lull", "../../../cmd/lull/output"},
	"lulld":      agentDirs("lulld"),
	"lull-run":   agentDirs("lull-run"),
}

// agentDirs are the directories whose errors are messages of a program.
func agentDirs(program string) (dirs []string) {
	b, err := os.ReadFile("texts.go")
	if err != nil {
		return nil
	}
	_, line, _ := strings.Cut(string(b), "//go:generate go run ./pot -program "+program+" ")
	line, _, _ = strings.Cut(line, "\n")
	return strings.Fields(line)
}

func TestListsAreFresh(t *testing.T) {
	for program, dirs := range programs {
		want, err := extract.POT(program, dirs)
		if err != nil {
			t.Fatal(err)
		}
		list := "po/" + program + "/" + program + ".pot"
		got, err := os.ReadFile(list)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is stale (%v): go generate ./agent/lib/texts", list, err)
		}
	}
}

// Every message is in every translation, in all forms, with the same arguments;
// and nothing else is.
func TestTranslationsAreComplete(t *testing.T) {
	for program, dirs := range programs {
		list, err := extract.Messages(program, dirs)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) < 30 {
			t.Fatalf("found %d messages of %s, want at least 30", len(list), program)
		}
		names, err := fs.Glob(files, "po/"+program+"/*.po")
		if err != nil || len(names) == 0 {
			t.Fatal(program, names, err)
		}
		for _, name := range names {
			complete(t, name, list)
		}
	}
}

func complete(t *testing.T, name string, list []extract.Message) {
	b, err := files.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	po := gotext.NewPo()
	po.Parse(b)
	there := po.GetDomain().GetTranslations()
	delete(there, "")
	plural := map[string]string{}
	for _, m := range list {
		if other, twice := plural[m.One]; twice {
			t.Errorf("%q has the plurals %q and %q: a catalog has one of them", m.One, other, m.Many)
		}
		plural[m.One] = m.Many
		tr := there[m.One]
		delete(there, m.One)
		switch {
		case tr == nil:
			t.Errorf("%s lacks %q", name, m.One)
			continue
		case tr.PluralID != m.Many:
			t.Errorf("%s: %q has the plural %q, not %q", name, m.One, tr.PluralID, m.Many)
		case m.Many != "" && len(tr.Trs) != 2: // of German; a language with more has its own number in the header
			t.Errorf("%s: %q has %d forms", name, m.One, len(tr.Trs))
		}
		for _, text := range tr.Trs {
			switch {
			case text == "" || !slices.Equal(extract.Verbs(text), extract.Verbs(m.One)):
				t.Errorf("%s: %q is %q: its arguments are others", name, m.One, text)
			case strings.HasSuffix(m.One, "\n") != strings.HasSuffix(text, "\n"), strings.Count(m.One, "`")%2 != strings.Count(text, "`")%2:
				t.Errorf("%s: %q is %q: its last line or its quotation marks are others", name, m.One, text)
			}
		}
	}
	for id := range there {
		t.Errorf("%s has %q, which no code uses", name, id)
	}
}

func TestLanguages(t *testing.T) {
	for _, c := range []struct {
		languages []string
		german    bool
	}{
		{nil, false}, {[]string{""}, false}, {[]string{"de"}, true}, {[]string{"de_DE.UTF-8"}, true}, {[]string{"de_AT@euro"}, true},
		{[]string{"C.UTF-8", "de"}, false}, {[]string{"en_GB", "de"}, false}, {[]string{"xx", "de"}, true}, {[]string{"../lull-userd/de"}, false},
	} {
		if got := For("lull-userd", c.languages...).T("Restart now"); (got == "Jetzt neu starten") != c.german {
			t.Errorf("languages %q: got %q for \"Restart now\", want German: %v", c.languages, got, c.german)
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
		if got := FromEnvironment("lull-userd").T("Restart now"); (got == "Jetzt neu starten") != c.german {
			t.Errorf("environment %q: got %q for \"Restart now\", want German: %v", c.env, got, c.german)
		}
	}
}

func TestPlurals(t *testing.T) {
	for _, c := range []struct {
		texts Texts
		want  string
	}{{Texts{}, "0 seconds 1 second 2 seconds"}, {For("lull-userd", "de"), "0 Sekunden 1 Sekunde 2 Sekunden"}} {
		var got []string
		for n := range 3 {
			got = append(got, c.texts.N("%d second", "%d seconds", n, n))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

// notTranslated are texts of the command line that are no messages, and why.
var notTranslated = map[string]string{
	".keys":  "the end of a name",
	"lull: ": "the name of the program",
}

// TestEveryTextIsAMessage: a literal that people would read is given to the texts.
func TestEveryTextIsAMessage(t *testing.T) {
	list, err := extract.Unmarked(programs["lull"])
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, l := range list {
		found[l.Text] = true
		if notTranslated[l.Text] == "" {
			t.Errorf("%s: %q is no message: give it to T, N or Error of cmd/lull/output", l.Place, l.Text)
		}
	}
	for text := range notTranslated {
		if !found[text] {
			t.Errorf("%q is not in the code any more", text)
		}
	}
}
