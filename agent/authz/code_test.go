package authz

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// servers are the types of agent/api that have the methods of an interface.
var servers = map[string]string{
	"managerObject": "Manager", "spaceObject": "Space", "retainedObject": "Retained", "systemObject": "System",
	"refreshObject": "Refresh", "busJob": "Job", "monitor": "UpdateMonitor",
}

// TestRightsAreThoseOfTheCode: the rows of a method in docs/rights.md name the actions that its
// code asks for, and no other. Functions of agent/api that it calls count, too.
func TestRightsAreThoseOfTheCode(t *testing.T) {
	constants := map[string]string{"Install": Install, "InstallFile": InstallFile, "Resolve": Resolve, "Refresh": Refresh, "Revert": Revert,
		"Hold": Hold, "HoldOthers": HoldOthers, "GC": GC, "SystemUpdate": SystemUpdate, "Configure": Configure}
	files, err := filepath.Glob("../api/*.go")
	if err != nil {
		t.Fatal(err)
	}
	bodies := map[string]*ast.FuncDecl{} // by TYPE.NAME, or .NAME
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if fd, ok := d.(*ast.FuncDecl); ok && fd.Body != nil {
				bodies[receiver(fd)+"."+fd.Name.Name] = fd
			}
		}
	}
	var asked func(key string, seen map[string]bool) map[string]bool
	asked = func(key string, seen map[string]bool) map[string]bool {
		all := map[string]bool{}
		fd := bodies[key]
		if fd == nil || seen[key] {
			return all
		}
		seen[key] = true
		ast.Inspect(fd.Body, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			switch x := sel.X.(type) {
			case *ast.Ident:
				if x.Name == "authz" && constants[sel.Sel.Name] != "" {
					all[constants[sel.Sel.Name]] = true
				}
				if x.Name == "o" {
					maps.Copy(all, asked(receiver(fd)+"."+sel.Sel.Name, seen))
				}
				if x.Name == "s" {
					maps.Copy(all, asked("Service."+sel.Sel.Name, seen))
				}
			case *ast.SelectorExpr:
				if x.Sel.Name == "s" {
					maps.Copy(all, asked("Service."+sel.Sel.Name, seen))
				}
			}
			return true
		})
		return all
	}

	written := map[string]map[string]bool{}
	b, err := os.ReadFile("../../docs/rights.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 7 || !strings.Contains(cells[0], ".") {
			continue
		}
		method, _, _ := strings.Cut(strings.TrimSpace(cells[0]), ",")
		if written[method] == nil {
			written[method] = map[string]bool{}
		}
		for _, a := range constants {
			if strings.TrimSpace(cells[1]) == a || strings.Contains(cells[6], "("+a+")") {
				written[method][a] = true
			}
		}
	}
	checked := 0
	for key := range bodies {
		typ, name, _ := strings.Cut(key, ".")
		rows, is := written[servers[typ]+"."+name]
		if !is || servers[typ] == "" {
			continue
		}
		checked++
		got, want := slices.Sorted(maps.Keys(rows)), slices.Sorted(maps.Keys(asked(key, map[string]bool{})))
		if !slices.Equal(got, want) {
			t.Errorf("%s.%s: got rows for the actions %q, want %q, which its code asks for", servers[typ], name, got, want)
		}
	}
	if checked != len(written) {
		t.Errorf("got the code of %d methods, want that of all %d in docs/rights.md", checked, len(written))
	}
}

// receiver is the name of the type that a method is of; "" for a function.
func receiver(fd *ast.FuncDecl) string {
	if fd.Recv == nil {
		return ""
	}
	typ := fd.Recv.List[0].Type
	if p, ok := typ.(*ast.StarExpr); ok {
		typ = p.X
	}
	if id, ok := typ.(*ast.Ident); ok {
		return id.Name
	}
	return ""
}
