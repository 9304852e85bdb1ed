// Package extract finds the messages of a program: see userd/texts. It is used
// by the generator of the list, and by the test that says when the list is
// stale. Pure but for reading source files.
package extract

import (
	"bytes"
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Message is a string that is translated.
type Message struct {
	One, Many string   // Many: "" where there is no plural
	Places    []string // file names, sorted
}

// Messages finds those in the Go files, tests left out, of the folders.
func Messages(dirs []string) ([]Message, error) {
	found := map[[2]string]map[string]bool{}
	for _, dir := range dirs {
		names, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			if err := inFile(name, found); err != nil {
				return nil, err
			}
		}
	}
	var list []Message
	for m, places := range found {
		list = append(list, Message{m[0], m[1], slices.Sorted(maps.Keys(places))})
	}
	slices.SortFunc(list, func(a, b Message) int {
		return cmp.Or(slices.Compare(a.Places, b.Places), cmp.Compare(a.One, b.One), cmp.Compare(a.Many, b.Many))
	})
	return list, nil
}

// takes is how many messages a method is given.
var takes = map[string]int{"T": 1, "N": 2}

func inFile(name string, found map[[2]string]map[string]bool) error {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, nil, 0)
	if err != nil {
		return err
	}
	place, err := filepath.Abs(name)
	if err != nil {
		return err
	}
	place = filepath.Join(filepath.Base(filepath.Dir(place)), filepath.Base(place))
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || err != nil {
			return err == nil
		}
		method, ok := call.Fun.(*ast.SelectorExpr)
		if !ok || takes[method.Sel.Name] == 0 || len(call.Args) < takes[method.Sel.Name] {
			return true
		}
		var m [2]string
		for i := range takes[method.Sel.Name] {
			if m[i], ok = constant(call.Args[i]); !ok {
				err = fmt.Errorf("%s: the message is no constant string", fset.Position(call.Pos()))
				return false
			}
		}
		if found[m] == nil {
			found[m] = map[string]bool{}
		}
		found[m][place] = true
		return true
	})
	return err
}

// constant reads a string literal, or several with "+" between them.
func constant(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		s, err := strconv.Unquote(e.Value)
		return s, err == nil && e.Kind == token.STRING
	case *ast.BinaryExpr:
		a, aok := constant(e.X)
		b, bok := constant(e.Y)
		return a + b, aok && bok && e.Op == token.ADD
	}
	return "", false
}

const head = `# The messages of lull-userd. Written by go generate; do not edit.
msgid ""
msgstr ""
"Project-Id-Version: lull\n"
"MIME-Version: 1.0\n"
"Content-Type: text/plain; charset=UTF-8\n"
"Content-Transfer-Encoding: 8bit\n"
"Plural-Forms: nplurals=2; plural=(n != 1);\n"
`

// POT is the list as gettext has it.
func POT(dirs []string) ([]byte, error) {
	list, err := Messages(dirs)
	if err != nil {
		return nil, err
	}
	b := bytes.NewBufferString(head)
	for _, m := range list {
		fmt.Fprintf(b, "\n#: %s\n", strings.Join(m.Places, " "))
		if strings.Contains(m.One, "%") {
			b.WriteString("#, go-format\n")
		}
		fmt.Fprintf(b, "msgid %s\n", quote(m.One))
		if m.Many == "" {
			b.WriteString("msgstr \"\"\n")
			continue
		}
		fmt.Fprintf(b, "msgid_plural %s\nmsgstr[0] \"\"\nmsgstr[1] \"\"\n", quote(m.Many))
	}
	return b.Bytes(), nil
}

func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`).Replace(s) + `"`
}
