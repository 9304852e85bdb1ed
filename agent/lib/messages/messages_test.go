package messages_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/lull/lull/agent/lib/messages"
)

// The table has each ID once, and explains it.
func TestTable(t *testing.T) {
	id := regexp.MustCompile(`^[0-9a-f]{32}$`)
	seen := map[messages.ID]bool{}
	for _, m := range messages.All {
		if !id.MatchString(string(m.ID)) || seen[m.ID] {
			t.Errorf("%s (%s): want 32 lower-case hexadecimal digits that no other message has", m.ID, m.Subject)
		}
		seen[m.ID] = true
		if m.Subject == "" || m.Text == "" || strings.Contains(m.Subject, "\n") {
			t.Errorf("%s is not explained: %q", m.ID, m.Subject)
		}
		for line := range strings.Lines(m.Text) {
			if len(line) > 84 || strings.HasPrefix(line, "--") || strings.HasPrefix(line, "#") {
				t.Errorf("%s: got the line %q, want at most 84 bytes that do not begin with \"--\" or \"#\", which mean something in a catalog", m.ID, line)
			}
		}
	}
}

// The catalog that is installed is that of the table.
func TestCatalogIsGenerated(t *testing.T) {
	b, err := os.ReadFile("../../../units/lull.catalog")
	if err != nil || string(b) != messages.Catalog() {
		t.Errorf("units/lull.catalog is not what `go generate ./agent/lib/messages` writes (%v)", err)
	}
}

// Every kind is logged somewhere, with the fields that its explanation speaks of.
func TestEveryKindIsLogged(t *testing.T) {
	const own = "messages"
	names := map[string]messages.ID{}
	file, err := parser.ParseFile(token.NewFileSet(), "messages.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	i := 0
	ast.Inspect(file, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok && len(v.Values) == 1 {
			if id, ok := v.Type.(*ast.Ident); ok && id.Name == "ID" {
				names[v.Names[0].Name] = messages.All[i].ID
				if text := v.Values[0].(*ast.BasicLit).Value; text != `"`+string(messages.All[i].ID)+`"` {
					t.Errorf("%s stands at another place in the table", v.Names[0].Name)
				}
				i++
			}
		}
		return true
	})
	if len(names) != len(messages.All) {
		t.Fatalf("%d constants and %d messages", len(names), len(messages.All))
	}
	logged := map[string]bool{}
	err = filepath.WalkDir("../../..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == own && path != "../../..":
			return fs.SkipDir
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := s.X.(*ast.Ident); ok && x.Name == own {
					logged[s.Sel.Name] = true
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range names {
		if !logged[name] {
			t.Errorf("%s is never logged, want every message of the table logged", name)
		}
	}
}
