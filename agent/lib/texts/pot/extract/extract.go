// Package extract finds the messages of a program in its source: see package texts. The
// generator of the list uses it, and the test that fails if the list is stale.
//
// A message is a constant string in one of these places:
//   - the arguments of T, N and Mark;
//   - the text of Error and WithHint, the words of Count and Doing (cmd/lull/output);
//   - Short, Long and Example of a command, the usage of a flag, the title of a group of
//     commands or of a column;
//   - the first of two strings in a [2]string: the label of a line.
//
// In the agent, whose errors the command line translates:
//   - the text of errkind.New and WithHint, the arguments of errkind.Errorf, errkind.Fixed, errkind.Text and
//     errkind.Mark.
//
// It reads source files and changes nothing.
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
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Message is a string that is translated.
type Message struct {
	One, Many string   // Many: "" where there is no plural
	Places    []string // file names, sorted
}

// Messages finds those of a program in the Go files, tests left out, of the directories.
func Messages(program string, dirs []string) ([]Message, error) {
	found := map[[2]string]map[string]bool{}
	err := walk(dirs, program == "lulld" || program == "lull-run", func(s *source) error {
		return s.messages(func(m [2]string) {
			if found[m] == nil {
				found[m] = map[string]bool{}
			}
			found[m][s.place] = true
		})
	})
	if err != nil {
		return nil, err
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

// source is one parsed file.
type source struct {
	place  string // its name, with its directory's
	fset   *token.FileSet
	file   *ast.File
	cobra  bool // it defines commands
	calls  map[string]call
	errors bool // the messages are those of errors alone
}

func walk(dirs []string, errors bool, visit func(*source) error) error {
	for _, dir := range dirs {
		names, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			return err
		}
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, name, nil, 0)
			if err != nil {
				return err
			}
			whole, err := filepath.Abs(name)
			if err != nil {
				return err
			}
			place := filepath.Join(filepath.Base(filepath.Dir(whole)), filepath.Base(whole))
			if err := visit(&source{place, fset, file, imports(file, "github.com/spf13/cobra"), callsOf(file, errors), errors}); err != nil {
				return err
			}
		}
	}
	return nil
}

func imports(file *ast.File, path string) bool {
	return slices.ContainsFunc(file.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == strconv.Quote(path) })
}

// call describes a function whose arguments are messages.
type call struct {
	at     []int // their indices; two are a singular and its plural
	strict bool  // they have to be constants
}

var calls = map[string]call{
	"T": {[]int{0}, true}, "N": {[]int{0, 1}, true}, "Mark": {[]int{0}, true},
	"Error": {[]int{1}, true}, "WithHint": {[]int{0}, true}, "Count": {[]int{1, 2}, true}, "Doing": {[]int{0}, false},
}

// errorCalls are those of the agent, which translates nothing itself.
var errorCalls = map[string]call{
	"errkind.New": {[]int{1}, false}, "errkind.Text": {[]int{0}, false}, "errkind.Errorf": {[]int{0}, false}, "errkind.Fixed": {[]int{0}, true}, "errkind.Mark": {[]int{0}, true}, "WithHint": {[]int{0}, false},
	"doc.Errorf": {[]int{1}, false}, // of a strictyaml.Document
}

// policyCalls are those of the packages that read YAML, which name the place first.
var policyCalls = map[string]call{
	"errkind.New": errorCalls["errkind.New"], "errkind.Text": errorCalls["errkind.Text"], "WithHint": errorCalls["WithHint"],
	"fail": {[]int{1}, false}, "failf": {[]int{1}, false}, "refuse": {[]int{1}, false}, "Errorf": {[]int{1}, false},
}

// causeCalls are those of the package that lists the errors of the kernel.
var causeCalls = map[string]call{"Mark": errorCalls["errkind.Mark"]}

// callsOf returns the calls whose arguments are messages in a file.
func callsOf(file *ast.File, errors bool) map[string]call {
	switch {
	case errors && file.Name.Name == "errkind":
		return causeCalls
	case errors && (file.Name.Name == "policy" || file.Name.Name == "strictyaml"):
		return policyCalls
	case errors:
		return errorCalls
	}
	return calls
}

// flagCall matches the methods of pflag.FlagSet that define a flag.
var flagCall = regexp.MustCompile(`^[A-Z][A-Za-z0-9]*VarP?$`)

// keys are the fields of composite literals that are messages, by type.
var keys = map[string][]string{"Command": {"Short", "Long", "Example"}, "Group": {"Title"}, "Column": {"Title"}}

// name is the last part of the name of a function or type.
func name(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	case *ast.IndexExpr: // of a type parameter
		return name(e.X)
	}
	return ""
}

// isPair reports whether a type is [2]string.
func isPair(e ast.Expr) bool {
	a, ok := e.(*ast.ArrayType)
	if !ok || a.Len == nil {
		return false
	}
	n, ok := a.Len.(*ast.BasicLit)
	return ok && n.Value == "2" && name(a.Elt) == "string"
}

// function is the name by which a call is found among those of the file.
func (s *source) function(c *ast.CallExpr) string {
	f := name(c.Fun)
	if sel, ok := c.Fun.(*ast.SelectorExpr); ok {
		if _, known := s.calls[name(sel.X)+"."+f]; known {
			return name(sel.X) + "." + f
		}
	}
	return f
}

// messagesIn returns the expressions in one node that are messages; strict means that they
// have to be constants.
func (s *source) messagesIn(n ast.Node) (found []ast.Expr, strict bool) {
	switch n := n.(type) {
	case *ast.CallExpr:
		f := s.function(n)
		if c, ok := s.calls[f]; ok && len(n.Args) > c.at[len(c.at)-1] {
			for _, i := range c.at {
				found = append(found, n.Args[i])
			}
			return found, c.strict
		}
		if s.cobra && flagCall.MatchString(f) && len(n.Args) >= 4 || s.cobra && f == "Bool" && len(n.Args) == 3 {
			return n.Args[len(n.Args)-1:], true
		}
	case *ast.CompositeLit:
		if s.errors {
			return nil, false
		}
		if isPair(n.Type) && len(n.Elts) > 0 {
			return n.Elts[:1], false
		}
		if a, ok := n.Type.(*ast.ArrayType); ok {
			n, elements := a.Elt, n.Elts
			for _, e := range elements {
				if c, ok := e.(*ast.CompositeLit); ok && c.Type == nil && len(c.Elts) > 0 {
					if isPair(n) {
						found = append(found, c.Elts[0])
					} else {
						found = append(found, fields(keys[name(n)], c)...)
					}
				}
			}
			return found, false
		}
		return fields(keys[name(n.Type)], n), false
	}
	return nil, false
}

func fields(names []string, c *ast.CompositeLit) (found []ast.Expr) {
	for _, e := range c.Elts {
		if kv, ok := e.(*ast.KeyValueExpr); ok && slices.Contains(names, name(kv.Key)) {
			found = append(found, kv.Value)
		}
	}
	return found
}

// constants are those of the file by name.
func (s *source) constants() map[string]ast.Expr {
	all := map[string]ast.Expr{}
	for _, d := range s.file.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		for _, spec := range g.Specs {
			if v := spec.(*ast.ValueSpec); len(v.Values) == len(v.Names) {
				for i, n := range v.Names {
					all[n.Name] = v.Values[i]
				}
			}
		}
	}
	return all
}

// passedOn reports whether a function that takes a message passes it on to another one.
func passedOn(f *ast.FuncDecl, e ast.Expr) bool {
	if c, ok := e.(*ast.CallExpr); ok && name(c.Fun) == "Marked" && len(c.Args) == 1 {
		e = c.Args[0]
	}
	id, ok := e.(*ast.Ident)
	if !ok || f == nil || len(calls[f.Name.Name].at) == 0 {
		return false
	}
	return slices.ContainsFunc(f.Type.Params.List, func(p *ast.Field) bool {
		return slices.ContainsFunc(p.Names, func(n *ast.Ident) bool { return n.Name == id.Name })
	})
}

func (s *source) messages(add func([2]string)) (err error) {
	calls := s.calls
	known := s.constants()
	var within *ast.FuncDecl
	ast.Inspect(s.file, func(n ast.Node) bool {
		if n == nil || err != nil {
			return err == nil
		}
		if f, ok := n.(*ast.FuncDecl); ok {
			within = f
		}
		found, strict := s.messagesIn(n)
		var read []string
		for _, e := range found {
			text, ok := constant(e, known)
			if !ok && strict && !passedOn(within, e) {
				err = fmt.Errorf("%s: the message is no constant string", s.fset.Position(n.Pos()))
				return false
			}
			if ok {
				read = append(read, strings.TrimLeft(text, " "))
			}
			if c, isCall := n.(*ast.CallExpr); ok && isCall {
				read[len(read)-1] = text
				if want := Arguments(text); name(c.Fun) == "T" && !c.Ellipsis.IsValid() && len(c.Args) > 1 && want != len(c.Args)-1 {
					err = fmt.Errorf("%s: %q has %d arguments, want %d", s.fset.Position(n.Pos()), text, len(c.Args)-1, want)
					return false
				}
			}
		}
		if c, ok := n.(*ast.CallExpr); ok && len(read) == 2 && len(calls[s.function(c)].at) == 2 {
			add([2]string{read[0], read[1]})
			return true
		}
		for _, text := range read {
			if Words(text) {
				add([2]string{text, ""})
			}
		}
		return true
	})
	return err
}

// Verb matches a verb of fmt in a message.
var Verb = regexp.MustCompile(`%(?:\[(\d+)\])?[-+# 0]*\d*(?:\.\d+)?([a-zA-Z%])`)

// Verbs lists those of a message, with the index of the argument, sorted. They do not
// depend on the order in which a translation has them.
func Verbs(message string) (list []string) {
	next := 1
	for _, m := range Verb.FindAllStringSubmatch(message, -1) {
		if m[2] == "%" {
			continue
		}
		if m[1] != "" {
			next, _ = strconv.Atoi(m[1]) // digits alone
		}
		list = append(list, fmt.Sprintf("%d%s", next, m[2]))
		next++
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// Arguments is how many arguments a message takes.
func Arguments(message string) int { return len(Verbs(message)) }

// Words reports whether there is something to translate in a text.
func Words(text string) bool { return letters.MatchString(Verb.ReplaceAllString(text, "")) }

var letters = regexp.MustCompile(`\pL`)

// constant reads a string literal or a constant of the same file, or several of them with
// "+" between them.
func constant(e ast.Expr, known map[string]ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		s, err := strconv.Unquote(e.Value)
		return s, err == nil && e.Kind == token.STRING
	case *ast.Ident:
		if v, ok := known[e.Name]; ok {
			return constant(v, nil)
		}
	case *ast.ParenExpr:
		return constant(e.X, known)
	case *ast.BinaryExpr:
		a, aok := constant(e.X, known)
		b, bok := constant(e.Y, known)
		return a + b, aok && bok && e.Op == token.ADD
	}
	return "", false
}

const head = `# The messages of %s. Written by go generate; do not edit.
msgid ""
msgstr ""
"Project-Id-Version: lull\n"
"MIME-Version: 1.0\n"
"Content-Type: text/plain; charset=UTF-8\n"
"Content-Transfer-Encoding: 8bit\n"
"Plural-Forms: nplurals=2; plural=(n != 1);\n"
`

// POT is the list of the messages of a program in the format of gettext.
func POT(program string, dirs []string) ([]byte, error) {
	list, err := Messages(program, dirs)
	if err != nil {
		return nil, err
	}
	b := new(bytes.Buffer)
	fmt.Fprintf(b, head, program)
	for _, m := range list {
		fmt.Fprintf(b, "\n#: %s\n", strings.Join(m.Places, " "))
		if strings.Contains(m.One, "%") {
			b.WriteString("#, go-format\n")
		}
		fmt.Fprintf(b, "msgid %s\n", Quote(m.One))
		if m.Many == "" {
			b.WriteString("msgstr \"\"\n")
			continue
		}
		fmt.Fprintf(b, "msgid_plural %s\nmsgstr[0] \"\"\nmsgstr[1] \"\"\n", Quote(m.Many))
	}
	return b.Bytes(), nil
}

// Quote writes a string as a catalog has it. One of several lines begins on a line of its
// own.
func Quote(s string) string {
	escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`)
	if !strings.Contains(strings.TrimSuffix(s, "\n"), "\n") {
		return `"` + escape.Replace(s) + `"`
	}
	b := new(strings.Builder)
	b.WriteString(`""`)
	for line := range strings.Lines(s) {
		b.WriteString("\n\"" + escape.Replace(line) + `"`)
	}
	return b.String()
}
