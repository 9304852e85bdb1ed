package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The committed files are the XML's output.
func TestGeneratedFilesAreUpToDate(t *testing.T) {
	dir := t.TempDir()
	files, err := filepath.Glob("../../*.xml")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(f)), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	others := map[string]string{filepath.Join(dir, "dbus.md"): "docs/dbus.md", filepath.Join(dir, "words.go"): "agent/lib/words/words_gen.go"}
	if err := run(dir, filepath.Join(dir, "dbus.md"), filepath.Join(dir, "words.go")); err != nil {
		t.Fatal(err)
	}
	for path, committed := range others {
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if have, err := os.ReadFile("../../../" + committed); err != nil || string(have) != string(want) {
			t.Errorf("%s is out of date (%v): run go generate ./dbus", committed, err)
		}
	}
	fresh, there := generated(t, dir), generated(t, "../..")
	if !slices.Equal(fresh, there) {
		t.Fatalf("generated %v, committed %v; want fresh %v", fresh, there, there)
	}
	for _, name := range fresh {
		a, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join("../..", name))
		if err != nil {
			t.Fatal(err)
		}
		if string(a) != string(b) {
			t.Errorf("%s is out of date: run go generate ./dbus", name)
		}
	}
}

func generated(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*_gen.go"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range names {
		names[i] = filepath.Base(names[i])
	}
	return names
}

func TestMistakesAreNamed(t *testing.T) {
	for text, want := range map[string]string{
		`<method name="M"><arg name="a" type="a(ss)" direction="in"/></method>`:                                                                                                                        "needs an annotation",
		`<method name="M"><arg name="a" type="h" direction="in"/></method>`:                                                                                                                            "descriptors that go in",
		`<method name="M"><arg name="a" type="a(s" direction="in"/></method>`:                                                                                                                          "has no end",
		`<property name="P" type="s" access="readwrite"/>`:                                                                                                                                             "only reading",
		`<property name="P" type="a(ss)" access="read"><annotation name="org.lull.Struct" value="A one"/></property>`:                                                                                  "more fields",
		`<property name="P" type="a(s)" access="read"><annotation name="org.lull.Struct" value="A one two"/></property>`:                                                                               "a type is missing",
		`<property name="P" type="s" access="read"><annotation name="org.lull.Struct" value="A one"/></property>`:                                                                                      "no structure",
		`<signal name="S"><arg name="a" type="a{sv}"><annotation name="org.lull.Dict" value="A one"/></arg></signal>`:                                                                                  "has no type",
		`<signal name="S"><arg name="a" type="a{sv}"><annotation name="org.lull.Dict" value="A b:s"/></arg><arg name="c" type="a{sv}"><annotation name="org.lull.Dict" value="A b:u"/></arg></signal>`: "in two ways",
	} {
		dir := t.TempDir()
		text = `<node><interface name="org.x.I">` + text + `</interface></node>`
		if err := os.WriteFile(filepath.Join(dir, "org.x.xml"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		err := run(dir, filepath.Join(dir, "page.md"), filepath.Join(dir, "words.go"))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "org.x.I") {
			t.Errorf("%s:\n%v, want %s", text, err, want)
		}
		if left := generated(t, dir); len(left) > 0 {
			t.Errorf("%s:\ngot files %v after the error, want none", text, left)
		}
	}
	if err := run(t.TempDir(), os.DevNull, os.DevNull); err == nil {
		t.Error("a directory without XML is a mistake")
	}
	if text, err := words(nil); err == nil || !strings.Contains(err.Error(), "LaunchWaits lists no words") {
		t.Errorf("without documentation of the words: %q, %v; want an error that names LaunchWaits", text, err)
	}
}
