package strictyaml

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

type words []string

func (w *words) UnmarshalYAML(decode func(any) error) error {
	var one string
	if decode(&one) == nil {
		*w = strings.Fields(one)
		return nil
	}
	return decode((*[]string)(w))
}

type target struct {
	Name  string               `yaml:"name"`
	On    bool                 `yaml:"on"`
	Count int                  `yaml:"count"`
	After *Duration            `yaml:"after"`
	Size  Size                 `yaml:"size"`
	List  []string             `yaml:"list"`
	Run   words                `yaml:"run"`
	Map   map[string]subtarget `yaml:"map"`
	Sub   subtarget            `yaml:"sub"`
	Spans []Duration           `yaml:"spans"`
}

type subtarget struct {
	Flag *bool `yaml:"flag"`
}

func TestDecode(t *testing.T) {
	yes, week := true, Duration(7*24*time.Hour)
	for name, c := range map[string]struct {
		in   string
		want target
	}{
		"empty file":      {"", target{}},
		"comments only":   {"# nothing\n---\n", target{}},
		"only a null":     {"~\n", target{}},
		"empty section":   {"map:\nlist:\nsub:\n  # flag: true\n", target{}},
		"scalars":         {"name: maps\non: true\ncount: -3\nsize: 64MiB\nafter: 1w\n", target{Name: "maps", On: true, Count: -3, Size: 64 << 20, After: &week}},
		"version as text": {"name: 1.10\n", target{Name: "1.10"}},
		"date as text":    {"name: 2024-02-30\n", target{Name: "2024-02-30"}},
		"quoted":          {"name: 'true'\n", target{Name: "true"}},
		"yes is text":     {"name: yes\n", target{Name: "yes"}},
		"list":            {"list: [a, 'b c']\n", target{List: []string{"a", "b c"}}},
		"empty list":      {"list: []\n", target{List: []string{}}},
		"words of string": {"run: a b\n", target{Run: words{"a", "b"}}},
		"words of list":   {"run:\n- a\n- b c\n", target{Run: words{"a", "b c"}}},
		"map":             {"map:\n  org.example.A:\n    flag: true\n", target{Map: map[string]subtarget{"org.example.A": {&yes}}}},
		"map, empty":      {"map:\n  x:\n", target{Map: map[string]subtarget{"x": {}}}},
		"spans":           {"spans: [1d, 2h]\n", target{Spans: []Duration{Duration(24 * time.Hour), Duration(2 * time.Hour)}}},
		"carriage return": {"name: a\r\non: true\r\n", target{Name: "a", On: true}},
	} {
		t.Run(name, func(t *testing.T) {
			var got target
			if err := Decode("f.yaml", []byte(c.in), &got); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	for name, c := range map[string]struct {
		in   string
		want []string
	}{
		"unknown key":       {"nmae: x\n", []string{"f.yaml:1: cannot use the key \"nmae\": known are name, on, count, after, size, list, run, map, sub, spans"}},
		"unknown inner key": {"sub:\n  flg: true\n", []string{"f.yaml:2: cannot use the key \"flg\" in sub: known are flag"}},
		"twice":             {"name: a\non: true\nname: b\n", []string{"f.yaml:3: cannot set name twice: it is set in line 1"}},
		"two documents":     {"name: a\n---\nname: b\n", []string{"f.yaml:2: cannot use a second document in one file"}},
		"wrong bool":        {"on: yes\n", []string{"f.yaml:1: cannot use \"yes\" as on: want true or false"}},
		"bool for text":     {"name: true\n", []string{"f.yaml:1: cannot use \"true\" as name: want text, in quotes"}},
		"empty scalar":      {"\nname:\n", []string{"f.yaml:2: cannot leave name empty: want text"}},
		"wrong number":      {"count: 1.5\n", []string{"f.yaml:1: cannot use \"1.5\" as count: want a whole number"}},
		"large number":      {"count: 99999999999999999999\n", []string{"f.yaml:1: cannot use \"99999999999999999999\" as count: want a whole number"}},
		"wrong duration":    {"after: soon\n", []string{"f.yaml:1: cannot use \"soon\" as after: want a duration such as 14d, 8h or 90m"}},
		"duration list":     {"after: [1d]\n", []string{"f.yaml:1: cannot use a list as after: want a duration such as 14d, 8h or 90m"}},
		"size as map":       {"size: {a: b}\n", []string{"f.yaml:1: cannot use a mapping as size: want a size such as 64MiB or 2GB"}},
		"list for map":      {"map: [a]\n", []string{"f.yaml:1: cannot use a list as map: want a mapping"}},
		"text for list":     {"list: a\n", []string{"f.yaml:1: cannot use \"a\" as list: want a list"}},
		"top is a list":     {"- a\n", []string{"f.yaml:1: cannot use a list as the file's content: want a mapping"}},
		"anchor, alias":     {"name: &x a\nlist: [*x]\n", []string{"f.yaml:1: cannot use the anchor &x: write the value where it is needed", "f.yaml:2: cannot use the alias *x: write the value where it is needed"}},
		"merge key":         {"sub: {<<: {flag: true}}\n", []string{"f.yaml:1: cannot use the key \"<<\" in sub: known are flag"}},
		"tag":               {"name: !!binary aGk=\n", []string{"f.yaml:1: cannot use the tag !!binary"}},
		"own tag":           {"name: !x y\n", []string{"f.yaml:1: cannot use the tag !x"}},
		"mapping as key":    {"? {a: b}\n: c\n", []string{"f.yaml:1: cannot use a mapping as a key"}},
		"syntax":            {"name: a\n  on: [\n", []string{"f.yaml:2: cannot read YAML: mapping values are not allowed in this context"}},
		"control character": {"name: a\nname: \x07\n", []string{"f.yaml:2: cannot read YAML: the line is not plain UTF-8 text"}},
		"not UTF-8":         {"name: \xff\n", []string{"f.yaml:1: cannot read YAML: the line is not plain UTF-8 text"}},
		"all of them": {"on: 1\ncount: x\nfoo: 1\n", []string{
			"f.yaml:1: cannot use \"1\" as on: want true or false",
			"f.yaml:2: cannot use \"x\" as count: want a whole number",
			"f.yaml:3: cannot use the key \"foo\": known are name, on, count, after, size, list, run, map, sub, spans",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			err := Decode("f.yaml", []byte(c.in), new(target))
			for _, e := range All(err) {
				got = append(got, e.Error())
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("got %q, want one line", err)
			}
		})
	}
}

func TestErrorsAsOneLine(t *testing.T) {
	err := Decode("f.yaml", []byte("a: 1\nb: 2\n"), new(subtarget))
	if got, want := err.Error(), `f.yaml:1: cannot use the key "a": known are flag (and 1 more)`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if e := new(Error); !errors.As(err, &e) || e.Line != 1 {
		t.Errorf("got error %v with line %d, want an Error of line 1", err, e.Line)
	}
	if All(nil) != nil || len(All(errors.New("x"))) != 1 {
		t.Error("All of other errors")
	}
}

func TestTooLarge(t *testing.T) {
	err := Decode("f.yaml", []byte(strings.Repeat("#", MaxSize+1)), new(target))
	if err == nil || !strings.Contains(err.Error(), "f.yaml: cannot read 1048577 bytes") {
		t.Errorf("got %v, want \"f.yaml: cannot read 1048577 bytes\"", err)
	}
}

func TestErrorf(t *testing.T) {
	d, err := Parse("f.yaml", []byte("map:\n  a.b:\n    flag: true\nlist:\n- x\n- y\n"))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Decode(new(target)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"map.a.b.flag": "f.yaml:3: cannot x", "map.a.b": "f.yaml:2: cannot x", "list[1]": "f.yaml:6: cannot x",
		"list[7]": "f.yaml:5: cannot x", "map.a.b.other": "f.yaml:2: cannot x", "name": "f.yaml: cannot x", "": "f.yaml: cannot x",
	} {
		if got := d.Errorf(path, "cannot %s", "x").Error(); got != want {
			t.Errorf("%s: got %q, want %q", path, got, want)
		}
	}
}

func TestDuration(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"0": 0, "0s": 0, "14d": 14 * 24 * time.Hour, "8h": 8 * time.Hour, "90m": 90 * time.Minute, "2w": 14 * 24 * time.Hour,
		"1d12h": 36 * time.Hour, "1w1d1h1m1s1ms": 8*24*time.Hour + time.Hour + time.Minute + time.Second + time.Millisecond,
		"15250w": 15250 * 7 * 24 * time.Hour,
	} {
		got, err := ParseDuration(in)
		if err != nil || got != want {
			t.Errorf("%s: got %v, want %v, %v", in, got, want, err)
		}
		again, err := ParseDuration(Duration(got).String())
		if err != nil || again != got {
			t.Errorf("%s: %s reads back as %v, want %v, %v", in, Duration(got), again, got, err)
		}
	}
	for _, in := range []string{"", "d", "14", "-1d", "1.5h", "1h1d", "1h1h", "1 d", "1D", "soon", "15251w", "9223372036854775808s", "+1d", "1d ", "1mm"} {
		if got, err := ParseDuration(in); err == nil {
			t.Errorf("%q: got %v; want an error", in, got)
		}
	}
	if s := Duration(-5).String(); s != "0s" {
		t.Errorf("got %q, want \"0s\"", s)
	}
}

func TestSize(t *testing.T) {
	for in, want := range map[string]int64{
		"0": 0, "1": 1, "5B": 5, "64MiB": 64 << 20, "2GB": 2e9, "3 KiB": 3 << 10, "8191TiB": 8191 << 40, "1kB": 1000, "9223372036854775807": 1<<63 - 1,
	} {
		got, err := ParseSize(in)
		if err != nil || got != want {
			t.Errorf("%s: got %v, want %v, %v", in, got, want, err)
		}
		again, err := ParseSize(Size(got).String())
		if err != nil || again != got {
			t.Errorf("%s: %s reads back as %v, want %v, %v", in, Size(got), again, got, err)
		}
	}
	for in, want := range map[int64]string{0: "0B", 64e6: "64MB", 64 << 20: "64MiB", 1000: "1kB", 1024: "1KiB", 1 << 40: "1TiB", 999: "999B", 1234567: "1234567B"} {
		if got := Size(in).String(); got != want {
			t.Errorf("%d: got %s, want %s", in, got, want)
		}
	}
	for _, in := range []string{"", "MiB", "-1", "1.5GB", "1K", "1mib", "8388608TiB", "9223372036854775808", "1  B"} {
		if got, err := ParseSize(in); err == nil {
			t.Errorf("%q: got %v; want an error", in, got)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{"name: a\n", "sub: {flag: true}\n", "a: &x [*x]\n", "? [a]\n: b", "---\n---\n", "name: |\n  x\n", "map: {\"\\x00\": 1}", "!%0A", "? \"a\\nb\"\n: 1\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var v target
		for _, err := range All(Decode("f.yaml", data, &v)) {
			if s := err.Error(); !strings.HasPrefix(s, "f.yaml:") || !strings.Contains(s, ": cannot ") || strings.Contains(s, "\n") {
				t.Errorf("got message %q, want one line \"f.yaml:…: cannot …\"", s)
			}
		}
	})
}
