package sysmanifest

import (
	"strings"
	"testing"

	"github.com/lull/lull/agent/lib/errkind"
)

func TestManifest(t *testing.T) {
	a, b := strings.Repeat("a", 64), strings.Repeat("b", 64)
	good := `{"version":"2026.11","images":["` + a + `"],"base":["` + a + `","` + b + `"],"cache":["` + b + `"]}`
	m, err := Parse([]byte(good))
	if err != nil || m.Version != "2026.11" || len(m.Images) != 1 || len(m.Base) != 2 || len(m.Cache) != 1 || m.Base[1].String() != b {
		t.Errorf("got %+v, %v; want what %s says and no error", m, err, good)
	}
	if _, err := Parse([]byte("{\n\t\"cache\": [\"" + a + "\"],\n\t\"version\": \"1\"\n}\n")); err != nil {
		t.Error(err)
	}
	for text, want := range map[string]string{
		``:                                       "it is no JSON object",
		`[]`:                                     "it is no JSON object",
		`{"version":"1"}`:                        "it names no package in base or cache",
		`{"version":"1","images":["` + a + `"]}`: "it names no package in base or cache",
		`{"base":["` + a + `"]}`:                 `version ""`,
		`{"version":"a b","base":["` + a + `"]}`: `version "a b"`,
		`{"version":1,"base":[]}`:                "version: json",
		`{"version":"1","base":["xyz"]}`:         "base: ",
		`{"version":"1","base":["` + a + `","` + a + `"]}`:           "base names a package twice",
		`{"version":"1","base":["` + strings.Repeat("0", 64) + `"]}`: "base: it names a package of zeros",
		`{"version":"1","version":"2","base":["` + a + `"]}`:         `the key "version" is there twice`,
		`{"Version":"1","base":["` + a + `"]}`:                       `the key "Version" is not known: want version, images, base, cache`,
		`{"version":"1","base":["` + a + `"],"note":""}`:             `the key "note" is not known`,
		good + `{}`:        "there is something behind its end",
		good[:len(good)-1]: "EOF",
		`{"version":"1","base":["` + a + `"]` + strings.Repeat(" ", MaxSize) + `}`: "it is larger than 1048576 bytes",
	} {
		_, err := Parse([]byte(text))
		if errkind.KindOf(err) != errkind.Invalid || !strings.HasPrefix(err.Error(), "cannot use system.json: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%.120s: got %v, want %q", text, err, want)
		}
	}
}

// FuzzManifest: every accepted manifest fulfils its guarantees.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"version":"1","images":[],"base":["` + strings.Repeat("a", 64) + `"],"cache":[]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := Parse(text)
		if err != nil {
			if errkind.KindOf(err) != errkind.Invalid {
				t.Errorf("got the error %v, want one of the kind %v", err, errkind.Invalid)
			}
			return
		}
		if m.Version == "" || strings.ContainsAny(m.Version, " \n\x1b") || len(m.Base)+len(m.Cache) == 0 {
			t.Errorf("accepted %+v, want a version without blanks and escapes, and at least one package in base or cache", m)
		}
	})
}
