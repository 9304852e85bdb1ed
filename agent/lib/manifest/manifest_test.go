package manifest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
)

var hello = digest.Of([]byte("hello"))

// full uses every key.
func full() *Meta {
	return &Meta{
		Launch: Launch{
			Name: "org.example.maps", Version: "1:2.3~rc1", Title: "Maps", Summary: "Shows \"maps\" & <places>",
			Notes: "New:\n\t- süß \\ fast", Icon: "share/icons/maps.svg", License: "GPL-3.0-or-later AND MIT",
			Apps: []App{{Name: "maps", Command: []string{"bin/maps", "--x", "%U"}, Desktop: "share/maps.desktop",
				Autostart: "share/maps.desktop", DBusName: "org.example.Maps", DBusService: "share/org.example.Maps.service"}},
			Services: []Service{{Name: "tiles", Command: []string{"bin/tiles"}, Scope: ScopeUser, RefreshMode: ModeEndure, Ready: ReadyNotify, StopSignal: "SIGINT", StopTimeout: Duration(90 * time.Second)}, {Name: "d", Command: []string{".lull/sub/runtime/bin/d"}, User: "maps"}},
			Hooks:    map[string][]string{HookHealth: {"bin/maps", "--check"}, HookPreRefresh: {"bin/tiles"}},
			Layout:   map[string]string{"/opt/maps": "share", "/usr/share/maps/x.desktop": "share/maps.desktop"},
			Environment: map[string]Variable{
				"MAPS_HOME":     {Value: "${package}/share/maps"},
				"XDG_DATA_DIRS": {Prepend: []string{"${package}/usr/share", "${user_data}/share"}, Append: []string{"/opt/maps"}},
			},
			Root:    "runtime",
			Data:    Data{Versioned: true},
			Refresh: Wishes{Mode: WishEndure, RefreshPending: WishBlock, MaxPostponement: Duration(36 * time.Hour)},

			Subpackages: map[string]digest.Digest{"runtime": digest.Of([]byte("r")), "fonts": digest.Of([]byte("f"))},
		},
		Entries: []Entry{
			{Path: "bin/maps", Type: TypeFile, Blob: hello, Size: 5, Exec: true},
			{Path: "bin/tiles", Type: TypeSymlink, Symlink: "maps"},
			{Path: "empty", Type: TypeFile, Blob: digest.Of(nil)},
			{Path: "lib", Type: TypeSymlink, Symlink: ".lull/sub/runtime/lib"},
			{Path: "share/maps.desktop", Type: TypeFile, Blob: hello, Size: 5},
			{Path: "share/org.example.Maps.service", Type: TypeFile, Blob: hello, Size: 5},
			{Path: "share/x", Type: TypeDir},
		},
	}
}

func TestRoundTrip(t *testing.T) {
	m := full()
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse(b)
	if err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	if !reflect.DeepEqual(m, again) {
		t.Errorf("got %+v, want %+v", again, m)
	}
	golden, err := os.ReadFile(filepath.Join("testdata", "full.json"))
	if err != nil || string(golden) != string(b) {
		t.Errorf("testdata/full.json differs (%v); the form of metas must never change:\n%s", err, b)
	}
	l, err := m.Launch.Encode()
	if err != nil {
		t.Fatal(err)
	}
	launch, err := ParseLaunch(l)
	if err != nil || !reflect.DeepEqual(&m.Launch, launch) {
		t.Errorf("ParseLaunch: got %+v, %v; want %+v and no error", launch, err, &m.Launch)
	}
	if _, err := ParseLaunch(b); err == nil {
		t.Error("ParseLaunch accepts entries")
	}
}

// The form is the JSON of the Go types: others may read it with a library.
func TestFormIsJSONOfTypes(t *testing.T) {
	b, err := full().Encode()
	if err != nil {
		t.Fatal(err)
	}
	var m Meta
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	for i := range m.Entries {
		if m.Entries[i].Type == "" {
			m.Entries[i].Type = TypeFile
		}
	}
	if !reflect.DeepEqual(full(), &m) {
		t.Errorf("json.Unmarshal of an encoded meta: got %+v, want %+v", &m, full())
	}
}

func TestEncodeSorts(t *testing.T) {
	m := full()
	m.Entries[0], m.Entries[4] = m.Entries[4], m.Entries[0]
	a, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	b, _ := full().Encode()
	if string(a) != string(b) {
		t.Error("the order of entries changes the form")
	}
	if m.Entries[0].Path != "share/maps.desktop" {
		t.Error("Encode changed the meta")
	}
}

func TestBlobs(t *testing.T) {
	m := full()
	m.Entries = append(m.Entries, Entry{Path: "z", Blob: hello, Size: 5})
	want := []Blob{{hello, 5, false}, {hello, 5, true}, {digest.Of(nil), 0, false}}
	if got := m.Blobs(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestRefused checks that each flaw is refused with a text that names its place.
func TestRefused(t *testing.T) {
	file := func(path string) Entry { return Entry{Path: path, Blob: hello, Size: 5} }
	link := func(path, target string) Entry { return Entry{Path: path, Type: TypeSymlink, Symlink: target} }
	for _, c := range []struct {
		what   string
		change func(m *Meta)
		text   string
	}{
		{"unit of lull's own", func(m *Meta) {
			m.Name = "system"
			m.Services = []Service{{Name: "commit", Scope: ScopeSystem, Command: []string{"bin/app"}}}
		}, "lull-system-commit.service, which is lull's own"},
		{"absolute path", func(m *Meta) { m.Entries = append(m.Entries, file("/etc/passwd")) }, `"/etc/passwd": the path is absolute`},
		{"parent path", func(m *Meta) { m.Entries = append(m.Entries, file("a/../b")) }, `"a/../b": ".." is not allowed`},
		{"dot path", func(m *Meta) { m.Entries = append(m.Entries, file("a/./b")) }, `"a/./b": "." is not allowed`},
		{"empty path", func(m *Meta) { m.Entries = append(m.Entries, file("")) }, `entry "": an empty path`},
		{"empty component", func(m *Meta) { m.Entries = append(m.Entries, file("a//b")) }, `"a//b": the path has an empty component`},
		{"trailing slash", func(m *Meta) { m.Entries = append(m.Entries, file("a/")) }, `"a/": the path has an empty component`},
		{"reserved", func(m *Meta) { m.Entries = append(m.Entries, file(".lull/meta.json")) }, `".lull/meta.json": the directory .lull is reserved`},
		{"newline", func(m *Meta) { m.Entries = append(m.Entries, file("a\nb")) }, `"a\nb": a control character`},
		{"not UTF-8", func(m *Meta) { m.Entries = append(m.Entries, file("a\xff")) }, `is not UTF-8`},
		{"long component", func(m *Meta) { m.Entries = append(m.Entries, file(strings.Repeat("x", 256))) }, `a component of 256 bytes`},
		{"duplicate", func(m *Meta) { m.Entries = append(m.Entries, file("empty")) }, `"empty": the path is listed twice`},
		{"below a file", func(m *Meta) { m.Entries = append(m.Entries, file("empty/x/y")) }, `"empty/x/y": its parent "empty" is a file or symlink`},
		{"below a file, behind a folder that sorts between", func(m *Meta) { m.Entries = append(m.Entries, file("empty-/x"), file("empty/y")) }, `"empty/y": its parent "empty" is a file or symlink`},
		{"below a file, beside a folder", func(m *Meta) { m.Entries = append(m.Entries, file("k/a/x"), file("k/b"), file("k/b/x")) }, `"k/b/x": its parent "k/b" is a file or symlink`},
		{"below a symlink", func(m *Meta) { m.Entries = append(m.Entries, file("lib/x")) }, `"lib/x": its parent "lib" is a file or symlink`},
		{"below a file, others between", func(m *Meta) { m.Entries = append(m.Entries, file("d"), file("d-1"), file("d/x")) }, `"d/x": its parent "d"`},
		{"type", func(m *Meta) { m.Entries = append(m.Entries, Entry{Path: "dev/null", Type: "device"}) }, `"dev/null": unknown type "device"`},
		{"no blob", func(m *Meta) { m.Entries = append(m.Entries, Entry{Path: "x"}) }, `"x": a file without a blob`},
		{"negative size", func(m *Meta) { m.Entries = append(m.Entries, Entry{Path: "x", Blob: hello, Size: -1}) }, `"x": a size of -1`},
		{"two sizes", func(m *Meta) { m.Entries = append(m.Entries, Entry{Path: "x", Blob: hello, Size: 6}) }, `has two sizes`},
		{"dir with blob", func(m *Meta) { m.Entries = append(m.Entries, Entry{Path: "x", Type: TypeDir, Blob: hello}) }, `"x": a dir with what only files have`},
		{"link with exec", func(m *Meta) {
			m.Entries = append(m.Entries, Entry{Path: "x", Type: TypeSymlink, Symlink: "a", Exec: true})
		}, `"x": a symlink with`},
		{"file with target", func(m *Meta) { m.Entries = append(m.Entries, Entry{Path: "x", Blob: hello, Size: 5, Symlink: "a"}) }, `"x": a file with the target`},
		{"no target", func(m *Meta) { m.Entries = append(m.Entries, link("x", "")) }, `"x": a symlink without a target`},
		{"absolute target", func(m *Meta) { m.Entries = append(m.Entries, link("x", "/etc")) }, `"x": the symlink's target "/etc" is absolute`},
		{"target above", func(m *Meta) { m.Entries = append(m.Entries, link("a/x", "../../etc")) }, `"a/x": the symlink's target "../../etc" lies outside`},
		{"target above by a link", func(m *Meta) { m.Entries = append(m.Entries, link("a/b/x", "../.."), link("y", "a/b/x/../..")) }, `"y": the symlink's target "a/b/x/../.." has '..' behind a name`},
		{"name", func(m *Meta) { m.Name = "Ma ps" }, `cannot use "Ma ps" as a package name`},
		{"version", func(m *Meta) { m.Version = "" }, `org.example.maps: version ""`},
		{"version with slash", func(m *Meta) { m.Version = "1/2" }, `version "1/2"`},
		{"summary", func(m *Meta) { m.Summary = "a\x1b[2J" }, `summary: a control character`},
		{"notes", func(m *Meta) { m.Notes = "a\x00" }, `notes: a control character`},
		{"icon", func(m *Meta) { m.Icon = "../x" }, `icon "../x"`},
		{"app name", func(m *Meta) { m.Apps[0].Name = "../maps" }, `app "../maps"`},
		{"two apps", func(m *Meta) { m.Apps = append(m.Apps, m.Apps[0]) }, `app maps: there are two`},
		{"no command", func(m *Meta) { m.Apps[0].Command = nil }, `app maps: it has no command`},
		{"absolute command", func(m *Meta) { m.Apps[0].Command = []string{"/bin/sh"} }, `command "/bin/sh": the path is absolute`},
		{"command not there", func(m *Meta) { m.Apps[0].Command = []string{"bin/map"} }, `command "bin/map" is not in the package`},
		{"command not executable", func(m *Meta) { m.Apps[0].Command = []string{"empty"} }, `command "empty" is not executable`},
		{"command in no subpackage", func(m *Meta) { m.Services[1].Command = []string{".lull/sub/x/y"} }, `there is no subpackage "x"`},
		{"command out of a subpackage", func(m *Meta) { m.Services[1].Command = []string{".lull/sub/fonts/../y"} }, `".." is not allowed`},
		{"desktop file", func(m *Meta) { m.Apps[0].Desktop = "x.desktop" }, `there is no desktop file "x.desktop"`},
		{"name of a desktop file", func(m *Meta) { m.Apps[0].Desktop = "empty" }, `app maps: desktop file "empty": want a name that ends in ".desktop"`},
		{"autostart file", func(m *Meta) { m.Apps[0].Autostart = "x.desktop" }, `there is no autostart file "x.desktop"`},
		{"D-Bus service file", func(m *Meta) { m.Apps[0].DBusService = "x/org.example.Maps.service" }, `there is no D-Bus service file`},
		{"name of a D-Bus service file", func(m *Meta) { m.Apps[0].DBusService = "x.service" }, `want the name "org.example.Maps.service"`},
		{"bus name", func(m *Meta) { m.Apps[0].DBusName = "maps" }, `"maps" is no well-known D-Bus name`},
		{"scope", func(m *Meta) { m.Services[0].Scope = "root" }, `service tiles: unknown scope "root"`},
		{"ready", func(m *Meta) { m.Services[0].Ready = "port" }, `service tiles: unknown ready "port"`},
		{"mode", func(m *Meta) { m.Services[0].RefreshMode = "kill" }, `service tiles: unknown refresh-mode "kill"`},
		{"signal", func(m *Meta) { m.Services[0].StopSignal = "9" }, `service tiles: "9" is no signal`},
		{"timeout", func(m *Meta) { m.Services[0].StopTimeout = Duration(2 * time.Hour) }, `service tiles: stop-timeout 2h0m0s`},
		{"user", func(m *Meta) { m.Services[1].User = "a b" }, `service d: "a b" is no user name`},
		{"user service with user", func(m *Meta) { m.Services[0].User = "x" }, `service tiles: a service of scope user`},
		{"wish of a mode", func(m *Meta) { m.Refresh.Mode = "kill" }, `refresh: mode "kill": want wait, side-by-side or endure`},
		{"wish of refresh-pending", func(m *Meta) { m.Refresh.RefreshPending = "ask" }, `refresh: refresh-pending "ask": want allow or block`},
		{"wish of a postponement", func(m *Meta) { m.Refresh.MaxPostponement = Duration(MaxWish + 1) }, `refresh: max-postponement 2160h0m0.000000001s: want at most 90 days`},
		{"layout", func(m *Meta) { m.Layout["/var/maps"] = "share" }, `layout: /var/maps: a package can have a place in`},
		{"part of a layout", func(m *Meta) { m.Layout["/opt/x"] = "shar" }, `layout: /opt/x: "shar" is not in the package`},
		{"root", func(m *Meta) { m.Root = "run" }, `root: there is no subpackage "run"`},
		{"path as a root", func(m *Meta) { m.Root = ".." }, `root: there is no subpackage ".."`},
		{"too many variables", func(m *Meta) {
			for i := range 64 {
				m.Environment[fmt.Sprintf("X%d", i)] = Variable{Value: "x"}
			}
		}, `environment: 66 variables, where 64 are allowed`},
		{"long environment", func(m *Meta) {
			for i := range 3 {
				m.Environment[fmt.Sprintf("X%d", i)] = Variable{Value: strings.Repeat("x", 8<<10)}
			}
		}, `where 16384 are allowed`},
		{"variable", func(m *Meta) { m.Environment["A-B"] = Variable{Value: "x"} }, `environment: "A-B": want a name of letters`},
		{"variable without value", func(m *Meta) { m.Environment["A"] = Variable{Append: nil, Value: "", Prepend: nil} }, `environment: A: it has no value`},
		{"hook", func(m *Meta) { m.Hooks["boot"] = []string{"bin/maps"} }, `unknown hook "boot"`},
		{"format", func(m *Meta) { m.Format = 3 }, `format 3: want 1 or 2`},
		{"two hooks that ask to quit", func(m *Meta) {
			m.Hooks[HookQuit] = []string{"bin/maps"}
			m.Hooks[HookRefreshPending] = []string{"bin/maps"}
		}, `hooks quit and refresh-pending both ask to quit`},
		{"hook command", func(m *Meta) { m.Hooks[HookHealth] = []string{"bin/x"} }, `hook health: command "bin/x" is not in`},
		{"subpackage name", func(m *Meta) { m.Subpackages["../x"] = hello }, `cannot use "../x" as a package name`},
		{"subpackage hash", func(m *Meta) { m.Subpackages["x"] = digest.Digest{} }, `subpackage x: it has no hash`},
	} {
		t.Run(c.what, func(t *testing.T) {
			m := full()
			c.change(m)
			_, err := m.Encode()
			if err == nil || !strings.Contains(err.Error(), c.text) || !strings.HasPrefix(err.Error(), "cannot use the meta") {
				t.Errorf("Encode says %v, want %q", err, c.text)
			}
			if !errkind.Is(err, errkind.Invalid) {
				t.Errorf("the error is of kind %s; want an error of kind %v", errkind.KindOf(err), errkind.Invalid)
			}
			if c.what == "subpackage hash" || c.what == "variable without value" {
				return // cannot be written down
			}
			// Parse has the same checks, for bytes from any source.
			sorted := append([]Entry(nil), m.Entries...)
			sortEntries(sorted)
			if got, err := Parse(appendMeta(nil, &m.Launch, sorted)); err == nil {
				t.Errorf("Parse accepts %+v; want an error", got)
			}
		})
	}
}

func sortEntries(e []Entry) {
	for i := range e {
		for j := i; j > 0 && byPath(e[j], e[j-1]) < 0; j-- {
			e[j], e[j-1] = e[j-1], e[j]
		}
	}
}

// TestForm checks that only the canonical form is accepted.
func TestForm(t *testing.T) {
	h := hello.String()
	for _, c := range []struct{ in, text string }{
		{`{"name":"a","version":"1"}`, ""},
		{`{"entries":[{"blob":"` + h + `","path":"x","size":5}],"name":"a","version":"1"}`, ""},
		{``, `it ends where '{' should stand`},
		{`[]`, `'[' at byte 0`},
		{`{}`, `an empty list or object`},
		{`{"name":"a","version":"1"} `, `something follows it at byte 26`},
		{`{"name":"a", "version":"1"}`, `insignificant space at byte 12`},
		{"{\"name\":\"a\",\n\"version\":\"1\"}", `insignificant space at byte 12`},
		{`{"version":"1","name":"a"}`, `the key "name" stands after "version"`},
		{`{"name":"a","name":"a","version":"1"}`, `the key "name" is there twice`},
		{`{"licence":"MIT","name":"a","version":"1"}`, `unknown key "licence"`},
		{`{"name":"a","version":1}`, `'1' at byte 22`},
		{`{"name":"a","version":null}`, `'n' at byte 22`},
		{`{"name":"\u0061","version":"1"}`, `an escape at byte 9`},
		{`{"name":"a","notes":"\/","version":"1"}`, `an escape at byte 21`},
		{`{"name":"a","notes":"\u000a","version":"1"}`, `an escape at byte 21`},
		{`{"name":"a","notes":"\u001B","version":"1"}`, `an escape at byte 21`},
		{`{"name":"a","notes":"` + "\n" + `","version":"1"}`, `a control character in a string`},
		{`{"name":"a","notes":"","version":"1"}`, `not in the canonical form`},
		{"{\"name\":\"a\",\"notes\":\"\xff\",\"version\":\"1\"}", `not UTF-8`},
		{`{"apps":[],"name":"a","version":"1"}`, `an empty list or object at byte 8`},
		{`{"data":{"versioned":false},"name":"a","version":"1"}`, `false at byte 21`},
		{`{"data":{"x":true},"name":"a","version":"1"}`, `unknown key "x" in data`},
		{`{"data":{"import":["config/a"]},"name":"a","version":"1"}`, `data: import needs xdg`},
		{`{"data":{"import":["config"],"xdg":true},"name":"a","version":"1"}`, `want a path below config, data or state`},
		{`{"data":{"import":["cache/a"],"xdg":true},"name":"a","version":"1"}`, `want a path below config, data or state`},
		{`{"data":{"import":["config/../.ssh"],"xdg":true},"name":"a","version":"1"}`, `".." is not allowed in a path`},
		{`{"data":{"import":["/etc"],"xdg":true},"name":"a","version":"1"}`, `the path is absolute`},
		{`{"data":{"import":["config/dconf/user"],"xdg":true},"name":"a","version":"1"}`, `config/dconf belongs to the desktop`},
		{`{"data":{"import":["data/lull/x"],"xdg":true},"name":"a","version":"1"}`, `this is lull's own data`},
		{`{"data":{"import":["config/a","config/a/b"],"xdg":true},"name":"a","version":"1"}`, `config/a and config/a/b are in each other`},
		{`{"data":{"import":["config/x"` + strings.Repeat(`,"config/x"`, 64) + `],"xdg":true},"name":"a","version":"1"}`, `65 places, where 64 are allowed`},
		{`{"data":{"xdg":true},"environment":{"XDG_DATA_HOME":{"value":"x"}},"name":"a","version":"1"}`, `XDG_DATA_HOME is set by data: xdg`},
		{`{"data":{"xdg":true,"versioned":true},"name":"a","version":"1"}`, `"versioned" `},
		{`{"entries":[{"blob":"` + h + `","mode":2541,"path":"bin/su","size":5}],"name":"a","version":"1"}`, `entry "bin/su": unknown key "mode"`},
		{`{"entries":[{"blob":"` + h + `","path":"bin/su","setuid":true,"size":5}],"name":"a","version":"1"}`, `entry "bin/su": unknown key "setuid"`},
		{`{"entries":[{"blob":"` + h + `","path":"x","size":0}],"name":"a","version":"1"}`, `entry "x": the number 0`},
		{`{"entries":[{"blob":"` + h + `","path":"x","size":05}],"name":"a","version":"1"}`, `entry "x": the number 05`},
		{`{"entries":[{"blob":"` + h + `","path":"x","size":-5}],"name":"a","version":"1"}`, `entry "x": '-' at byte`},
		{`{"entries":[{"blob":"` + h + `","path":"x","size":5.0}],"name":"a","version":"1"}`, `entry "x": '.' at byte`},
		{`{"entries":[{"blob":"` + h + `","path":"x","size":99999999999999999999}],"name":"a","version":"1"}`, `too large`},
		{`{"entries":[{"blob":"` + strings.ToUpper(h) + `","path":"x","size":5}],"name":"a","version":"1"}`, `entry "x": cannot use`},
		{`{"entries":[{"blob":"` + h + `","path":"x","size":5,"type":"file"}],"name":"a","version":"1"}`, `entry "x": type "file" must be left out`},
		{`{"entries":[{"blob":"` + h + `","path":"x","size":5},{"path":"w","type":"dir"}],"name":"a","version":"1"}`, `entry "w": it stands after "x"`},
		{`{"entries":[{"exec":true}],"name":"a","version":"1"}`, `entry "": an empty path`},
		{`{"entries":[{"exec":1}],"name":"a","version":"1"}`, `entry 1: '1' at byte`},
		{`{"name":"a","refresh":{"max-postponement":"36h"},"version":"1"}`, `refresh: max-postponement "36h" must be left out or written as "36h0m0s"`},
		{`{"name":"a","refresh":{"max-postponement":"soon"},"version":"1"}`, `cannot use "soon" as a length of time`},
		{`{"name":"a","refresh":{"terminate":true},"version":"1"}`, `unknown key "terminate" in refresh`},
		{`{"name":"a","services":[{"command":["x"],"name":"s","stop-timeout":"90s"}],"version":"1"}`, `stop-timeout "90s" must be left out or written as "1m30s"`},
		{`{"name":"a","services":[{"command":["x"],"name":"s","stop-timeout":"soon"}],"version":"1"}`, `cannot use "soon" as a length of time`},
		{`{"name":"a","subpackages":{"x":"` + strings.Repeat("0", 64) + `"},"version":"1"}`, `nothing but zeros`},
		{`{"name":"a","version":"1`, `it ends within a string`},
	} {
		_, err := Parse([]byte(c.in))
		switch {
		case err == nil && c.text != "":
			t.Errorf("accepted: %s", c.in)
		case err != nil && (c.text == "" || !strings.Contains(err.Error(), c.text)):
			t.Errorf("%s\n\tgot  %v\n\twant %s", c.in, err, c.text)
		}
	}
}

func TestNames(t *testing.T) {
	for _, c := range []struct {
		s              string
		name, instance bool
	}{
		{"org.gnome.maps", true, true}, {"a", true, true}, {"0-a.b", true, true}, {strings.Repeat("a", 63), true, true},
		{"", false, false}, {"org.gnome.Maps", true, true}, {"A", true, true}, {"a_B", false, true}, {".a", false, false}, {"-a", false, false}, {"a/b", false, false},
		{strings.Repeat("a", 64), false, false}, {"a_b", false, true}, {"a_", false, false}, {"_a", false, false},
		{"a_b_c", false, false}, {"a_-b", false, false}, {"a\n", false, false}, {"ä", false, false},
	} {
		if err := ValidName(c.s); (err == nil) != c.name {
			t.Errorf("ValidName(%q): got %v, want it valid: %v", c.s, err, c.name)
		}
		if err := ValidInstance(c.s); (err == nil) != c.instance {
			t.Errorf("ValidInstance(%q): got %v, want it valid: %v", c.s, err, c.instance)
		}
	}
	if name, key := SplitInstance("a.b_c"); name != "a.b" || key != "c" {
		t.Errorf("got %q, %q; want name %q and key %q", name, key, "a.b", "c")
	}
}

// TestAnyMeta holds what is accepted against what comes back.
func TestAnyMeta(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &Meta{Launch: Launch{
			Name:    rapid.StringMatching(`[A-Za-z0-9][A-Za-z0-9.-]{0,62}`).Draw(t, "name"),
			Version: rapid.StringMatching(`[!-.0-~]{1,20}`).Draw(t, "version"),
			Notes:   rapid.String().Draw(t, "notes"),
		}}
		for _, path := range rapid.SliceOfDistinct(rapid.StringMatching(`[a-c.]{1,2}(/[a-c"\\é]{1,2}){0,3}`), rapid.ID).Draw(t, "paths") {
			e := Entry{Path: path, Type: rapid.SampledFrom([]string{TypeFile, TypeFile, TypeDir, TypeSymlink}).Draw(t, "type")}
			switch e.Type {
			case TypeFile:
				content := rapid.SliceOfN(rapid.Byte(), 0, 3).Draw(t, "content")
				e.Blob, e.Size, e.Exec = digest.Of(content), int64(len(content)), rapid.Bool().Draw(t, "exec")
			case TypeSymlink:
				e.Symlink = rapid.StringMatching(`(\.\./){0,2}[a-c]?`).Draw(t, "target")
			}
			m.Entries = append(m.Entries, e)
		}
		b, err := m.Encode()
		if err != nil {
			return
		}
		again, err := Parse(b)
		if err != nil {
			t.Fatalf("Parse refuses what Encode wrote: %v\n%s", err, b)
		}
		if c, err := again.Encode(); err != nil || string(c) != string(b) {
			t.Fatalf("%v\n%s\n%s", err, b, c)
		}
		if !json.Valid(b) {
			t.Fatalf("no JSON: %s", b)
		}
	})
}

func FuzzParse(f *testing.F) {
	b, err := full().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"name":"a","version":"1"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "cannot use ") || strings.Contains(err.Error(), "%!") {
				t.Errorf("got the error %q, want one that begins with %q and formats all its arguments", err, "cannot use ")
			}
			return
		}
		c, err := m.Encode()
		if err != nil || string(c) != string(b) {
			t.Errorf("%v: accepted %q, encodes as %q; want no error and %v", err, b, c, string(b))
		}
		root := t.TempDir() + "/root"
		for _, e := range m.Entries {
			if !strings.HasPrefix(filepath.Join(root, e.Path), root+"/") {
				t.Errorf("accepted the path %q, want none that leaves the package", e.Path)
			}
			if e.Type == TypeSymlink && !strings.HasPrefix(filepath.Join(root, filepath.Dir(e.Path), e.Symlink)+"/", root+"/") {
				t.Errorf("accepted a link %q to %q, want none that leaves the package", e.Path, e.Symlink)
			}
		}
	})
}

// large is a manifest with n files in directories of 100.
func large(n int) *Meta {
	m := &Meta{Launch: Launch{Name: "large", Version: "1"}}
	for i := range n {
		m.Entries = append(m.Entries, Entry{
			Path: fmt.Sprintf("usr/lib/python3/site-packages/d%04d/file%06d.py", i/100, i),
			Blob: digest.Of(fmt.Appendf(nil, "%d", i)), Size: int64(i), Exec: i%10 == 0, Type: TypeFile,
		})
	}
	return m
}

func BenchmarkParse100000(b *testing.B) {
	data, err := large(100000).Encode()
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncode100000(b *testing.B) {
	m := large(100000)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Encode(); err != nil {
			b.Fatal(err)
		}
	}
}

// TestIsMeta: the comparison with the canonical output finds each kind of
// difference, even if the scanner has accepted it.
func TestIsMeta(t *testing.T) {
	m := full()
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	if !isMeta(text, &m.Launch, m.Entries) {
		t.Error("what Encode has written is not the same")
	}
	for _, other := range []string{"", text[:1], text[:len(text)/2], text[:len(text)-1], text + " ", " " + text, strings.Replace(text, "size", "Size", 1), strings.Replace(text, `"version"`, `"Version"`, 1)} {
		if isMeta(other, &m.Launch, m.Entries) {
			t.Errorf("isMeta(%.80q): got true, want false for a text that differs from the encoded one", other)
		}
	}
}

// TestSessionHooks: the refresh-pending hook of the first format asks to quit,
// as its packages mean it; that of the second one is notified of refreshes.
func TestSessionHooks(t *testing.T) {
	command := func(words ...string) []string { return words }
	for _, c := range []struct {
		format        int
		hooks         map[string][]string
		quit, pending string
		hears         bool
	}{
		{0, nil, "", "", false},
		{0, map[string][]string{HookRefreshPending: command("old")}, "old", "old", false},
		{0, map[string][]string{HookQuit: command("q")}, "q", "", false},
		{Format2, map[string][]string{HookRefreshPending: command("p")}, "", "p", true},
		{Format2, map[string][]string{HookQuit: command("q"), HookRefreshPending: command("p")}, "q", "p", true},
	} {
		l := Launch{Format: c.format, Hooks: c.hooks}
		quit, pending := strings.Join(l.SessionHook(HookQuit), ""), strings.Join(l.SessionHook(HookRefreshPending), "")
		if quit != c.quit || pending != c.pending || l.HasPendingHook() != c.hears {
			t.Errorf("format %v with hooks %v: got quit %q, refresh-pending %q, HasPendingHook %v; want %q, %q and %v", c.format, c.hooks, quit, pending, l.HasPendingHook(), c.quit, c.pending, c.hears)
		}
	}
}

// TestFormatOfMeta: the format is kept in the canonical form, and one of a later lull is
// refused by its number.
func TestFormatOfMeta(t *testing.T) {
	l := Launch{Format: Format2, Name: "a", Version: "1"}
	b := appendMeta(nil, &l, nil)
	if string(b) != `{"format":2,"name":"a","version":"1"}` {
		t.Errorf("got %s, want content %q", b, `{"format":2,"name":"a","version":"1"}`)
	}
	back, err := ParseLaunch(b)
	if err != nil || back.Format != Format2 {
		t.Errorf("%+v, %v; want no error and format %v", back, err, Format2)
	}
	for _, n := range []string{"1", "3"} {
		if _, err := ParseLaunch([]byte(`{"format":` + n + `,"name":"a","version":"1"}`)); err == nil || !strings.Contains(err.Error(), "format "+n+": want 2") {
			t.Errorf("format %s: %v; want an error and %q in the error", n, err, "format "+n+": want 2")
		}
	}
}

// TestBackgroundApps: an application with a menu entry is none, also if it starts at log-in.
func TestBackgroundApps(t *testing.T) {
	l := Launch{Apps: []App{
		{Name: "editor", Desktop: "e.desktop"}, {Name: "mail", Desktop: "m.desktop", Autostart: "m.desktop"},
		{Name: "sync", Autostart: "s.desktop"}, {Name: "index", DBusName: "a.b", DBusService: "a.b.service"}, {Name: "tool"},
	}}
	if got := strings.Join(l.BackgroundApps(), " "); got != "sync index" {
		t.Errorf("%q, want sync index", got)
	}
}
