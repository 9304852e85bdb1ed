package main

import (
	"bytes"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	bus "github.com/lull/lull/dbus"
)

// TestResolve checks that an existing name is used unchanged, that its last part and aliases
// are accepted if they are unambiguous, and that no name is guessed.
func TestResolve(t *testing.T) {
	known := []candidate{{name: "org.example.notes"}, {name: "org.example.notes_work"}, {"org.example.Editor", []string{"edit", "Editor"}},
		{name: "net.example.editor"}, {"org.example.other", []string{"notes"}}, {"com.x.maps", []string{"Maps", "navigate"}}, {name: "plain"}}
	for _, c := range []struct {
		typed, want string
		ok          bool
		among       string // of an error
	}{
		{"org.example.notes", "org.example.notes", true, ""},
		{"notes", "org.example.notes", true, ""},
		{"notes_work", "org.example.notes_work", true, ""},
		{"maps", "com.x.maps", true, ""},
		{"Navigate", "com.x.maps", true, ""},
		{"editor", "editor", false, "net.example.editor and org.example.Editor"},
		{"edit", "org.example.Editor", true, ""},
		{"ORG.example.NOTES", "org.example.notes", true, ""},
		{"plain", "plain", true, ""},
		{"note", "note", false, ""},
		{"example.notes", "example.notes", false, ""},
		{"", "", false, ""},
	} {
		got, ok, err := resolve(c.typed, known)
		if got != c.want || ok != c.ok || (err != nil) != (c.among != "") || err != nil && !strings.Contains(err.Error(), c.among) {
			t.Errorf("%q: %q %v %v, want %q %v %q", c.typed, got, ok, err, c.want, c.ok, c.among)
		}
	}
}

// TestSimilar checks the similar names for an unknown one.
func TestSimilar(t *testing.T) {
	known := []candidate{{name: "org.example.notes"}, {name: "org.example.mousepad"}, {name: "org.gnome.Maps"}, {name: "org.gnome.Weather"}, {name: "org.gnome.Maps"}}
	for typed, want := range map[string]string{
		"ntoes": "org.example.notes", "org.exmaple.notes": "org.example.notes", "mousepd": "org.example.mousepad", "wether": "org.gnome.Weather",
		"mouse": "org.example.mousepad", "map": "org.gnome.Maps", "firefox": "", "": "", "x": "", "gnome": "org.gnome.Maps org.gnome.Weather",
	} {
		if got := strings.Join(similar(typed, known), " "); got != want {
			t.Errorf("%q: %q, want %q", typed, got, want)
		}
	}
	if got := similar(strings.Repeat("a", 5000), known); len(got) != 0 {
		t.Errorf("a name of 5000 letters is like %v; want 0 of them", got)
	}
	var many []candidate
	for _, n := range []string{"a.note1", "a.note2", "a.note3", "a.note4"} {
		many = append(many, candidate{name: n})
	}
	if got := similar("note", many); !slices.Equal(got, []string{"a.note1", "a.note2", "a.note3"}) {
		t.Errorf("got %v, want %v", got, []string{"a.note1", "a.note2", "a.note3"})
	}
}

// TestNamedInFull: a name that is typed in full is checked without a list of all packages.
func TestNamedInFull(t *testing.T) {
	f := startAgent(t)
	f.add(t, bus.PackageProperties{Instance: "org.example.notes", Name: "org.example.notes", Version: "1.0"})
	var lists atomic.Int32
	f.stallAt("ListInstalled", func() { lists.Add(1) })
	for name, want := range map[string]int32{"org.example.notes": 0, "notes": 1, "org.example.missing": 1} {
		lists.Store(0)
		var stdout, stderr bytes.Buffer
		run(t.Context(), []string{"--bus", f.address, "refresh", "--no-wait", name}, strings.NewReader(""), &stdout, &stderr)
		if got := lists.Load(); got != want {
			t.Errorf("%s: %d lists of all packages, want %d: %s%s", name, got, want, &stdout, &stderr)
		}
	}
}
