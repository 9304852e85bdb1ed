package locks_test

import (
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/go/packages"
)

const module = "github.com/lull/lull/"

// excepted are the functions that hold a lock over more than memory, and why they may. They
// are all that may: any other package, function and lock is checked.
var excepted = map[string]string{
	// Signals of one object must be in the order of its states, and sending one puts it into a queue.
	"agent/api refresh": sends, "agent/api updateLocked": sends, "agent/api addLocked": sends, "agent/api finished": sends,
	"dbus Update": sends, "dbus tell": sends, "agent/api sendLocked": sends, "agent/api all": sends, "userd reportLocked": sends,
	"agent/store tell": sends, "agent/store/resolve tellLocked": sends, "agent/repo/publish add": sends,
	// Which processes are in a run, and its marker, are one: the files are the kernel's and in memory.
	"agent/runs *":                  groups,
	"agent/lib/runctl Unlock":       tries,
	"agent/lib/runctl setExclusive": tries,
	"agent/vacancy *":               leases,
	// A few system calls on the file system that must be one with what is known of it.
	"agent/store takeLocked": moves, "agent/store takeIngest": moves, "agent/store/resolve short": moves,
	"agent/state writable":    "re-opens the file after a failure, when nothing can be read or written",
	"agent/services Start":    "a child that ends at once must not be reaped before its number is noted",
	"agent/footprint look":    "the lock of a timer alone",
	"agent/lib/wallclock now": "reads the time zone after it was changed",
	"dbus GetLocked":          "reads the property Locked, and has no lock",
	// These run in a command that does nothing else meanwhile.
	"agent/repo/publish mend": "a command", "agent/repo/site write": "a command",
}

const (
	sends  = "keeps reports in order, and a report goes into a queue"
	groups = "reads and changes groups of the kernel, within bounds for each user"
	leases = "takes and gives back leases, which does not wait"
	tries  = "tries a lock of the kernel, without waiting"
	moves  = "a few system calls that are one with the indices"
)

// ordering are the mutexes that order work, and are held for as long as it takes. Their
// names say so, and no reader waits for them.
var ordering = []string{
	"agent/exports cache", "agent/exports dirs", "agent/failures writing", "agent/helpersfile writing", "agent/lib/dialer entering",
	"agent/lib/dialer sending", "agent/lib/runctl marking", "agent/lib/runctl tethering", "agent/manager reloading",
	"agent/repositories editing", "agent/roots publishing", "agent/space collecting", "agent/store residency", "agent/store/index leaving",
	"agent/sysupdate changing", "agent/sysupdate telling", "dbus rules",
}

// slow are the packages whose functions wait for a disk, a process or a peer.
var slow = []string{"os", "os/exec", "net", "net/http", "io/fs", "syscall", "golang.org/x/sys/unix", "go.etcd.io/bbolt", "github.com/godbus/dbus/v5"}

// fast are functions of slow packages that do not wait.
var fast = []string{"os.Getpid", "os.Getuid", "os.Getenv", "os.IsNotExist", "os.SameFile", "net/http.StatusText", "io/fs.ModTime", "io/fs.Size", "syscall.String",
	"github.com/godbus/dbus/v5.MakeVariant", "github.com/godbus/dbus/v5.Value", "github.com/godbus/dbus/v5.IsValid"}

// TestLocksAreHeldOverMemory follows, from each place where a mutex called mu is
// held, every call that the source names, and reports those that lead to a function
// that waits.
func TestLocksAreHeldOverMemory(t *testing.T) {
	g := load(t, module+"agent/...", module+"dbus/...", module+"policy/...", module+"userd/...")
	all, used, orders := 0, map[string]bool{}, []string{}
	for path, p := range g.pkgs {
		room := strings.TrimPrefix(path, module)
		if strings.Contains(room, "testdata") || strings.HasSuffix(room, "test") || strings.HasSuffix(room, "conformance") || p.TypesInfo == nil {
			continue
		}
		found, sections := g.check(p)
		all += sections
		for _, f := range found {
			name, _, _ := strings.Cut(f, " ")
			switch {
			case excepted[room+" "+name] != "":
				used[room+" "+name] = true
			case excepted[room+" *"] != "":
				used[room+" *"] = true
			default:
				t.Errorf("%s: %s", room, f)
			}
		}
		for _, name := range mutexes(p) {
			if !isMu(name) {
				orders = append(orders, room+" "+name)
			}
		}
	}
	if all < 400 {
		t.Errorf("got %d sections with a lock, want at least 400", all)
	}
	for e := range excepted {
		if !used[e] {
			t.Errorf("%s holds its lock over memory, and is excepted", e)
		}
	}
	slices.Sort(orders)
	if got := slices.Compact(orders); !slices.Equal(got, ordering) {
		t.Errorf("got locks that are not checked %q\nwant %q", got, ordering)
	}
	t.Logf("%d sections", all)
}

// isMu reports whether a mutex guards fields, by its name.
func isMu(name string) bool { return name == "mu" || strings.HasSuffix(name, "Mu") }

// mutexes are the names of all variables and fields of a package that are mutexes.
func mutexes(p *packages.Package) (names []string) {
	for _, o := range p.TypesInfo.Defs {
		if v, ok := o.(*types.Var); ok && (v.Type().String() == "sync.Mutex" || v.Type().String() == "sync.RWMutex") {
			names = append(names, v.Name())
		}
	}
	return names
}

// TestCheckFinds: the check itself fails where it has to.
func TestCheckFinds(t *testing.T) {
	g := load(t, "./testdata/held")
	found, sections := g.check(g.pkgs[module+"agent/locks/testdata/held"])
	var names []string
	for _, f := range found {
		name, _, _ := strings.Cut(f, " ")
		names = append(names, name)
	}
	slices.Sort(names)
	if got := strings.Join(slices.Compact(names), " "); got != "branch deferred direct fieldCall throughInterface writeLocked" {
		t.Errorf("reported are %s, want %q", got, "branch deferred direct fieldCall throughInterface writeLocked")
	}
	if sections < 8 {
		t.Errorf("got %d sections, want at least 8", sections)
	}
}

// graph is the source of the module as far as it is needed.
type graph struct {
	pkgs    map[string]*packages.Package
	bodies  map[*types.Func]body
	waits   map[*types.Func]string // why a function waits; "" while it is being followed, or if it does not
	methods map[string][]*types.Func
}

type body struct {
	pkg  *packages.Package
	decl *ast.FuncDecl
}

func load(t *testing.T, patterns ...string) *graph {
	t.Helper()
	const mode = packages.NeedName | packages.NeedFiles | packages.NeedImports | packages.NeedTypes | packages.NeedSyntax | packages.NeedTypesInfo
	roots, err := packages.Load(&packages.Config{Mode: mode}, patterns...)
	if err != nil {
		t.Fatal(err)
	}
	g := &graph{pkgs: map[string]*packages.Package{}, bodies: map[*types.Func]body{}, waits: map[*types.Func]string{}, methods: map[string][]*types.Func{}}
	packages.Visit(roots, nil, func(p *packages.Package) {
		for _, e := range p.Errors {
			t.Fatal(e)
		}
		if !strings.HasPrefix(p.PkgPath, module) {
			return
		}
		g.pkgs[p.PkgPath] = p
		for _, f := range p.Syntax {
			for _, d := range f.Decls {
				fd, ok := d.(*ast.FuncDecl)
				if !ok || fd.Body == nil {
					continue
				}
				fn := p.TypesInfo.Defs[fd.Name].(*types.Func)
				g.bodies[fn] = body{p, fd}
				if fd.Recv != nil {
					g.methods[fn.Name()] = append(g.methods[fn.Name()], fn)
				}
			}
		}
	})
	return g
}

// check returns what is wrong in a package and how many sections it has.
func (g *graph) check(p *packages.Package) (found []string, sections int) {
	for _, f := range p.Syntax {
		for _, d := range f.Decls {
			fd, ok := d.(*ast.FuncDecl)
			if !ok || fd.Body == nil {
				continue
			}
			w := &walker{g: g, p: p, name: fd.Name.Name, found: &found, sections: &sections}
			held := strings.HasSuffix(fd.Name.Name, "Locked")
			if held {
				sections++
			}
			w.block(fd.Body.List, held)
			ast.Inspect(fd.Body, func(n ast.Node) bool { // literals hold nothing when they begin
				if lit, ok := n.(*ast.FuncLit); ok {
					w.block(lit.Body.List, false)
				}
				return true
			})
		}
	}
	return found, sections
}

// walker goes through one function.
type walker struct {
	g        *graph
	p        *packages.Package
	name     string
	found    *[]string
	sections *int
}

// block goes through statements and returns whether the lock is held after them.
func (w *walker) block(list []ast.Stmt, held bool) bool {
	for _, s := range list {
		held = w.stmt(s, held)
	}
	return held
}

func (w *walker) stmt(s ast.Stmt, held bool) bool {
	switch s := s.(type) {
	case *ast.ExprStmt:
		switch w.lock(s.X) {
		case "Lock", "RLock":
			*w.sections++
			return true
		case "Unlock", "RUnlock":
			return false
		}
	case *ast.DeferStmt:
		if w.lock(s.Call) != "" {
			return held
		}
	case *ast.GoStmt:
		return held
	case *ast.BlockStmt:
		return w.block(s.List, held)
	case *ast.LabeledStmt:
		return w.stmt(s.Stmt, held)
	case *ast.IfStmt:
		w.parts(held, s.Init, s.Cond)
		after := w.block(s.Body.List, held)
		if leaves(s.Body.List) {
			after = held
		}
		if s.Else != nil {
			other := w.stmt(s.Else, held)
			return after && other
		}
		return after && held
	case *ast.ForStmt:
		w.parts(held, s.Init, s.Cond, s.Post)
		w.block(s.Body.List, held)
		return held
	case *ast.RangeStmt:
		w.parts(held, s.X)
		w.block(s.Body.List, held)
		return held
	case *ast.SwitchStmt:
		w.parts(held, s.Init, s.Tag)
		w.clauses(s.Body.List, held)
		return held
	case *ast.TypeSwitchStmt:
		w.parts(held, s.Init, s.Assign)
		w.clauses(s.Body.List, held)
		return held
	case *ast.SelectStmt:
		w.clauses(s.Body.List, held)
		return held
	}
	w.parts(held, s)
	return held
}

func (w *walker) clauses(list []ast.Stmt, held bool) {
	for _, c := range list {
		switch c := c.(type) {
		case *ast.CaseClause:
			for _, e := range c.List {
				w.parts(held, e)
			}
			w.block(c.Body, held)
		case *ast.CommClause:
			w.parts(held, c.Comm)
			w.block(c.Body, held)
		}
	}
}

// leaves reports whether control does not go on behind a block.
func leaves(list []ast.Stmt) bool {
	if len(list) == 0 {
		return false
	}
	switch list[len(list)-1].(type) {
	case *ast.ReturnStmt, *ast.BranchStmt:
		return true
	}
	return false
}

// lock returns the method if x is a call of one of a mutex that isMu.
func (w *walker) lock(x ast.Expr) string {
	call, ok := x.(*ast.CallExpr)
	if !ok {
		return ""
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	fn, ok := w.p.TypesInfo.Uses[sel.Sel].(*types.Func)
	if !ok || fn.Pkg() == nil || fn.Pkg().Path() != "sync" {
		return ""
	}
	switch x := sel.X.(type) {
	case *ast.SelectorExpr:
		if isMu(x.Sel.Name) {
			return fn.Name()
		}
	case *ast.Ident:
		if isMu(x.Name) {
			return fn.Name()
		}
	}
	return ""
}

// parts reports the calls in nodes that are reached with the lock held.
func (w *walker) parts(held bool, nodes ...ast.Node) {
	if !held {
		return
	}
	for _, n := range nodes {
		if n == nil || n == ast.Stmt(nil) || n == ast.Expr(nil) {
			continue
		}
		calls(w.p, n, func(pos token.Pos, fn *types.Func, field string) {
			why := field
			if fn != nil && !strings.HasSuffix(fn.Name(), "Locked") { // that is checked by itself, and may unlock
				why = w.g.why(fn)
			}
			if why != "" {
				*w.found = append(*w.found, fmt.Sprintf("%s (%s) holds a lock and calls %s", w.name, w.p.Fset.Position(pos), why))
			}
		})
	}
}

// calls gives each call in a node to f: the function, or the text of a field of a
// function type, which is unknown. The calls of a go statement or a literal are
// left out: they are not made here.
func calls(p *packages.Package, n ast.Node, f func(pos token.Pos, fn *types.Func, field string)) {
	ast.Inspect(n, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt, *ast.FuncLit:
			return false
		case *ast.CallExpr:
			switch fun := ast.Unparen(n.Fun).(type) {
			case *ast.Ident:
				if fn, ok := p.TypesInfo.Uses[fun].(*types.Func); ok {
					f(n.Pos(), fn, "")
				}
			case *ast.SelectorExpr:
				switch o := p.TypesInfo.Uses[fun.Sel].(type) {
				case *types.Func:
					f(n.Pos(), o, "")
				case *types.Var:
					if _, ok := o.Type().Underlying().(*types.Signature); ok && o.IsField() && o.Type().String() != "context.CancelFunc" {
						f(n.Pos(), nil, "the field "+o.Name())
					}
				}
			}
		}
		return true
	})
}

// why returns the chain of calls by which a function waits, or "".
func (g *graph) why(fn *types.Func) string {
	fn = fn.Origin()
	if why, known := g.waits[fn]; known {
		return why
	}
	g.waits[fn] = ""
	why := ""
	full := fn.Name()
	if fn.Pkg() != nil {
		full = fn.Pkg().Path() + "." + full
	}
	recv := fn.Signature().Recv()
	switch {
	case fn.Pkg() != nil && slices.Contains(slow, fn.Pkg().Path()):
		if !slices.Contains(fast, full) {
			why = full
		}
	case recv != nil && types.IsInterface(recv.Type()):
		iface := recv.Type().Underlying().(*types.Interface)
		for _, m := range g.methods[fn.Name()] {
			if t := m.Signature().Recv().Type(); types.Implements(t, iface) || types.Implements(types.NewPointer(t), iface) {
				if why = g.why(m); why != "" {
					break
				}
			}
		}
	default:
		if b, ok := g.bodies[fn]; ok {
			calls(b.pkg, b.decl.Body, func(_ token.Pos, called *types.Func, _ string) {
				if why == "" && called != nil {
					if w := g.why(called); w != "" {
						why = fn.Name() + " → " + w
					}
				}
			})
		}
	}
	g.waits[fn] = why
	return why
}
