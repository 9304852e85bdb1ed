package extract

import (
	"fmt"
	"go/ast"
	"go/token"
	"regexp"
	"slices"
	"strings"
)

// Literal is a string literal in a source file.
type Literal struct{ Place, Text string } // Place is FILE:LINE

// sinks are the functions whose arguments people read as they are.
var sinks = []string{"Say", "SayWhole", "Warn", "Prompt", "already", "Either", "Fprintln", "Fprint", "Fprintf"}

// raw are the functions whose arguments are no text for people.
var raw = []string{
	"Command", "CommandContext", "Join", "HasPrefix", "HasSuffix", "TrimPrefix", "TrimSuffix", "CutPrefix", "Contains", "ReplaceAll",
	"NewReplacer", "MustCompile", "Format", "CallWithContext", "SetUsageTemplate", "SetHelpTemplate", "Getenv", "Marked",
}

var (
	sentence = regexp.MustCompile(`\pL[,.:;]* \pL{2}|\pL{2}[,.:;]* \pL`)
	command  = regexp.MustCompile(`^(lull|systemctl|journalctl)( -{0,2}[a-z-]+)*$`)
)

// Unmarked lists the literals that look like text for people and are no messages: those of
// several words, and single words that are arguments of a function that prints.
func Unmarked(dirs []string) (list []Literal, err error) {
	err = walk(dirs, false, func(s *source) error {
		known := s.constants()
		skip := map[ast.Expr]bool{} // messages, and what is never shown
		printed := map[ast.Expr]bool{}
		ast.Inspect(s.file, func(n ast.Node) bool {
			found, _ := s.messagesIn(n)
			for _, e := range found {
				skip[e] = true
				if id, ok := e.(*ast.Ident); ok && known[id.Name] != nil { // a constant is one where it is used
					skip[known[id.Name]] = true
				}
			}
			switch n := n.(type) {
			case *ast.ImportSpec:
				skip[n.Path] = true
			case *ast.Field:
				if n.Tag != nil {
					skip[n.Tag] = true
				}
			case *ast.KeyValueExpr:
				skip[n.Key] = true
				if k := name(n.Key); k == "Use" || k == "Example" {
					skip[n.Value] = true
				}
			case *ast.CallExpr:
				f := name(n.Fun)
				for _, e := range n.Args {
					skip[e] = skip[e] || slices.Contains(raw, f)
					printed[e] = slices.Contains(sinks, f)
				}
			}
			return true
		})
		var print []bool // of the expressions around
		ast.Inspect(s.file, func(n ast.Node) bool {
			if n == nil {
				print = print[:len(print)-1]
				return true
			}
			e, isExpr := n.(ast.Expr)
			if isExpr && skip[e] {
				return false
			}
			print = append(print, isExpr && printed[e] || len(print) > 0 && print[len(print)-1] && isExpr && !isCall(e))
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				text, _ := constant(lit, nil)
				shown := Verb.ReplaceAllString(text, "")
				if (sentence.MatchString(shown) || print[len(print)-1] && Words(text)) && !command.MatchString(text) && !strings.Contains(text, "{{") {
					list = append(list, Literal{fmt.Sprintf("%s:%d", s.place, s.fset.Position(lit.Pos()).Line), text})
				}
			}
			return true
		})
		return nil
	})
	return list, err
}

func isCall(e ast.Expr) bool { _, ok := e.(*ast.CallExpr); return ok }
