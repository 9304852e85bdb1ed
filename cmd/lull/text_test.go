package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/printable"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

// hostile has characters that terminals execute, and that change the text that people see.
const hostile = "a\u009b31mb\u202ec\u2066d\x1b[2Je\x9bf\ng"

// clean fails if the output has any content but lines of text.
func clean(t *testing.T, what, s string) {
	t.Helper()
	for line := range strings.Lines(s) {
		if line = strings.TrimSuffix(line, "\n"); strings.ContainsFunc(line, printable.Hostile) {
			t.Errorf("%s: got line %q, want no characters that control a terminal", what, line)
		}
	}
}

// TestTextsOfOthers passes hostile texts through all functions that write for people.
func TestTextsOfOthers(t *testing.T) {
	for what, write := range map[string]func(a *app) error{
		"table":    func(a *app) error { return a.Table([]output.Column{{Title: "NAME"}}, [][]string{{hostile}}) },
		"Fields":   func(a *app) error { return a.Fields([][2]string{{"Name", hostile}}) },
		"Say":      func(a *app) error { return a.Say(hostile) },
		"SayWhole": func(a *app) error { return a.SayWhole(hostile) },
		"Warn":     func(a *app) error { a.Warn(hostile, hostile); return nil },
		"checks": func(a *app) error {
			return a.checks([]bus.Check{{State: "fail", Name: hostile, Seen: hostile, Advice: hostile}}, output.Columns(output.OneLine(hostile)))
		},
		"error": func(a *app) error {
			a.PrintError(output.Join([]error{errors.New(hostile), errkind.New(errkind.Failed, hostile).WithHint(hostile)}))
			return nil
		},
		"Progress": func(a *app) error {
			a.Progress().Update(bus.AgentPath, bus.RefreshProperties{Instance: hostile, Step: hostile, State: "preparing"})
			return nil
		},
	} {
		var out bytes.Buffer
		if err := write(&app{Printer: &output.Printer{Stdout: &out, Stderr: &out}}); err != nil || !strings.Contains(out.String(), "a?31mb?c?d?[2Je?f g") {
			t.Errorf("%s: %v, %q; want no error and %q", what, err, out.String(), "a?31mb?c?d?[2Je?f g")
		}
		clean(t, what, out.String())
	}
}

// TestJSONControlsNoTerminal: C1 controls and those of writing direction are escaped, and the
// document has the same content.
func TestJSONControlsNoTerminal(t *testing.T) {
	var out bytes.Buffer
	a := &app{Printer: &output.Printer{Stdout: &out}}
	in := map[string]string{"title": "a\u009b31m\u202eb\u2066c\x7f\U000e0001ü漢\n"}
	if err := a.WriteJSON(in); err != nil {
		t.Fatal(err)
	}
	if err := a.WriteLine(in); err != nil {
		t.Fatal(err)
	}
	clean(t, "JSON", out.String())
	d := json.NewDecoder(&out)
	for range 2 {
		var back map[string]string
		if err := d.Decode(&back); err != nil || back["title"] != in["title"] {
			t.Errorf("got title %q and error %v, want %q and no error", back["title"], err, in["title"])
		}
	}
}

// writers are the functions that use the outputs of the command, with the reason why their
// output is clean. All other output goes through one of them.
var writers = map[string]string{
	"TableNoted": "TestTextsOfOthers", "Fields": "TestTextsOfOthers", "Say": "TestTextsOfOthers", "SayWhole": "TestTextsOfOthers", "Warn": "TestTextsOfOthers",
	"checks": "TestTextsOfOthers", "Progress": "TestTextsOfOthers",
	"WriteJSON": "TestJSONControlsNoTerminal", "WriteLine": "TestJSONControlsNoTerminal",
	"completionCmd": "texts of this program", "commandsCmd": "texts of this program",
	"Prompt":           "texts of this program",
	"terminalProgress": "asks whether it is a terminal", "holdOpen": "a text of this program",
	"runForeground": "hands them to another program",
}

// TestOnlyWritersWrite: no command bypasses them.
func TestOnlyWritersWrite(t *testing.T) {
	files, err := filepath.Glob("*.go")
	printing, err2 := filepath.Glob("output/*.go")
	files, err = append(files, printing...), cmp.Or(err, err2)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range tree.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			ast.Inspect(f, func(n ast.Node) bool {
				s, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				x, _ := s.X.(*ast.Ident)
				switch {
				case s.Sel.Name == "Stdout", s.Sel.Name == "Stderr":
				case x != nil && x.Name == "fmt" && (s.Sel.Name == "Print" || s.Sel.Name == "Println" || s.Sel.Name == "Printf"):
				default:
					return true
				}
				if f.Name.Name == "main" || f.Name.Name == "run" {
					return true
				}
				found[f.Name.Name] = true
				if writers[f.Name.Name] == "" {
					t.Errorf("%s: got a write to an output in %s, want writes only in %q", file, f.Name.Name, slices.Sorted(maps.Keys(writers)))
				}
				return true
			})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(writers)) {
		if !found[name] {
			t.Errorf("got no write to an output in %s, want one or no row in writers", name)
		}
	}
}
