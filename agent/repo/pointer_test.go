package repo_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/publish"
)

func pointer() *repo.Pointer {
	return &repo.Pointer{
		Name: app, Channel: "stable", Package: digest.Of([]byte("x")), Version: "1.2", Urgency: repo.UrgencyMedium,
		Published: now, Size: 5, Notes: "a <b> & \"c\"\n", Rollout: repo.Rollout{Percent: 100},
	}
}

func TestPointer(t *testing.T) {
	p := pointer()
	data, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	want := `{"name":"org.example.maps","channel":"stable","package":"2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881","version":"1.2","urgency":"medium","published":"2026-05-01T08:00:00Z","size":5,"notes":"a <b> & \"c\"\n","rollout":{"percent":100}}` + "\n"
	if string(data) != want {
		t.Errorf("got  %s\nwant %s", data, want)
	}
	q, err := repo.ParsePointer(data)
	if err != nil || *q != *p {
		t.Errorf("ParsePointer(%s): got %+v, %v; want %+v and no error", data, q, err, p)
	}
}

func TestBadPointers(t *testing.T) {
	good, err := pointer().Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, replace := range map[string][2]string{
		"unknown key": {`"size":5`, `"size":5,"extra":1`}, "repeated key": {`"size":5`, `"size":4,"size":5`},
		"space": {`"size":5`, `"size": 5`}, "other case": {`"size"`, `"Size"`}, "two": {"\n", "\n{}"},
		"no newline": {"}}\n", "}}"}, "urgency": {"medium", "extreme"}, "no urgency": {`"urgency":"medium",`, ""},
		"digest": {"2d71", "2D71"}, "no digest": {`"2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"`, `"` + strings.Repeat("0", 64) + `"`},
		"name": {app, "../../etc"}, "channel": {"stable", "a/b"}, "negative size": {":5", ":-5"}, "float": {":5", ":5.5"},
		"version": {"1.2", `1\u001b[2J`}, "empty version": {"1.2", ""}, "percent": {"100", "101"}, "negative percent": {"100", "-1"},
		"zone": {"08:00:00Z", "10:00:00+02:00"}, "fraction": {"00Z", "00.5Z"}, "no time": {"2026-05-01T08:00:00Z", "0001-01-01T00:00:00Z"},
		"notes": {`a <b>`, `\u0007`}, "bad UTF-8": {"a <b>", "\xff"},
	} {
		bad := bytes.Replace(good, []byte(replace[0]), []byte(replace[1]), 1)
		if bytes.Equal(bad, good) {
			t.Fatalf("%s: nothing was replaced", name)
		}
		if _, err := repo.ParsePointer(bad); !errkind.Is(err, errkind.Invalid) || !strings.HasPrefix(err.Error(), "cannot ") {
			t.Errorf("%s: %v; want an error of kind %v and error that begins with %q", name, err, errkind.Invalid, "cannot ")
		}
	}
	if _, err := repo.ParsePointer(append(good, make([]byte, repo.MaxPointerSize)...)); err == nil {
		t.Error("a large one")
	}
}

func TestRollout(t *testing.T) {
	p := pointer()
	count := func(percent int) (n int) {
		p.Rollout.Percent = percent
		for i := range 10000 {
			if p.Offers(fmt.Sprint("machine ", i)) {
				n++
			}
		}
		return n
	}
	for percent, want := range map[int]int{0: 0, 1: 100, 10: 1000, 50: 5000, 99: 9900, 100: 10000} {
		if n := count(percent); n < want-150 || n > want+150 || percent%100 == 0 && n != want {
			t.Errorf("%d%%: got %d of 10000 machines, want %d with at most 150 more or fewer, and exactly that for none and all", percent, n, want)
		}
	}
	for percent := range 100 {
		p.Rollout.Percent = percent
		before := p.Offers("m")
		p.Rollout.Percent = percent + 1
		if before && !p.Offers("m") {
			t.Errorf("offered at %d%% and not at %d%%", percent, percent+1)
		}
	}
}

func FuzzPointer(f *testing.F) {
	data, _ := pointer().Encode()
	f.Add(data)
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := repo.ParsePointer(data)
		if err != nil {
			return
		}
		again, err := p.Encode()
		if err != nil || !bytes.Equal(again, data) {
			t.Errorf("%q: encodes as %q, %v; want the same and no error", data, again, err)
		}
	})
}

func FuzzSeekTable(f *testing.F) {
	var table repo.SeekTable
	table.Add(10, 20)
	table.Add(11, 21)
	f.Add(append(make([]byte, 21), table.Encode()...))
	f.Fuzz(func(_ *testing.T, data []byte) { repo.ParseSeekTable(data) })
}

func TestLoadConfigs(t *testing.T) {
	root := newFixture(t, publish.Expiry{}).root
	write := func(files map[string]string) string {
		dir := t.TempDir()
		for name, content := range files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	dir := write(map[string]string{
		"main.yaml": "url: https://example.org/lull\nroot: main.root.json\n", "local.yaml": "url: /srv/lull\nroot: main.root.json\n",
		"main.root.json": string(root), ".x.yaml": "x", "README": "x",
	})
	configs, broken, err := repo.LoadConfigs(dir)
	if err != nil || broken != nil || len(configs) != 2 || configs[0].Name != "local" || configs[1].URL != "https://example.org/lull" || !bytes.Equal(configs[0].Root, root) {
		t.Errorf("LoadConfigs: got %+v, broken %v, error %v; want local, and main with its address and root", configs, broken, err)
	}
	if configs, broken, err := repo.LoadConfigs(dir + "/nowhere"); configs != nil || broken != nil || err != nil {
		t.Error(configs, broken, err)
	}
	for name, c := range map[string][3]string{
		"no url":        {"a.yaml", "root: r\n", "a.yaml: cannot use a repository without url"},
		"no root":       {"a.yaml", "url: /x\n", "a.yaml: cannot use a repository without root: name the file of its trusted root.json"},
		"missing root":  {"a.yaml", "url: /x\nroot: r\n", "a.yaml:2: cannot read the root of trust: open "},
		"scheme":        {"a.yaml", "\nurl: ftp://x/\nroot: r\n", `a.yaml:2: cannot use the url "ftp://x/": want http://HOST/…, https://HOST/…, file:///… or an absolute path`},
		"relative":      {"a.yaml", "url: x/y\nroot: r\n", `a.yaml:1: cannot use the url "x/y": want `},
		"query":         {"a.yaml", "url: http://x/?a=b\nroot: r\n", "it has a query or a fragment"},
		"unknown":       {"a.yaml", "uri: x\n", `a.yaml:1: cannot use the key "uri": known are url, root, credentials`},
		"name":          {"A B.yaml", "url: /x\nroot: r\n", `cannot use "A B" as the name of a repository`},
		"no YAML":       {"a.yaml", "url: /x\n  root: r\n", "a.yaml:2: "},
		"garbage root":  {"a.yaml", "url: /x\nroot: a.yaml\n", "a.yaml:2: cannot trust repository"},
		"password":      {"a.yaml", "url: https://u:secret@%zz/\nroot: r\n", `a.yaml:1: cannot use the url "https://xxxxx@%zz/"`},
		"empty":         {"a.yaml", "", "a.yaml: cannot use a repository without url"},
		"priority":      {"a.yaml", "url: /x\nroot: r\npriority: 2000\n", "a.yaml:3: cannot use the priority 2000: want -1000 to 1000"},
		"names":         {"a.yaml", "url: /x\nroot: r\nnames: [org.x, 'org*x']\n", `a.yaml:3: cannot use the name "org*x": want the name of a package`},
		"remote folder": {"a.yaml", "url: file://host/x\nroot: r\n", "cannot use the url"},
	} {
		// The broken file does not affect the others.
		configs, broken, err := repo.LoadConfigs(write(map[string]string{c[0]: c[1], "good.yaml": "url: /x\nroot: g\n", "g": string(root)}))
		if err != nil || len(configs) != 1 || len(broken) != 1 || configs[0].Name != "good" || broken[0].Name != strings.TrimSuffix(c[0], ".yaml") {
			t.Errorf("%s: LoadConfigs: got %v, broken %v, error %v; want good, %s broken, and no error", name, configs, broken, err, c[0])
			continue
		}
		if err := broken[0].Err; !errkind.Is(err, errkind.BadPolicy) || !strings.Contains(err.Error(), c[2]) {
			t.Errorf("%s: %v; want an error of kind %v and %q in the error", name, err, errkind.BadPolicy, c[2])
		}
	}
}
