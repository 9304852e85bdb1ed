package main

import (
	"fmt"
	"strings"
)

// client writes the proxy.
func (g *gen) client() error {
	if len(g.i.Methods)+len(g.i.Properties) == 0 {
		return nil
	}
	g.f("// %sProxy calls the interface of an object of %s. Errors are problems.", g.base, g.i.dest)
	g.f("type %sProxy struct { remote }\n", g.base)
	g.f("// New%sProxy returns a proxy. It does not call the bus.", g.base)
	g.f("func New%sProxy(conn *dbus.Conn, path dbus.ObjectPath) %sProxy {", g.base, g.base)
	g.f("return %sProxy{remote{conn, %q, path, %sInterface}}\n}\n", g.base, g.i.dest, g.base)
	for _, m := range g.i.Methods {
		if err := g.clientMethod(m); err != nil {
			return err
		}
	}
	if len(g.i.Properties) == 0 {
		return nil
	}
	g.f("// Properties reads all properties in one call.")
	g.f("func (p %sProxy) Properties(ctx context.Context) (%sProperties, error) {", g.base, g.base)
	g.f("return getAll[%sProperties](ctx, p.remote, info%s)\n}\n", g.base, g.base)
	for _, prop := range g.i.Properties {
		v, err := g.value(arg{Name: prop.Name, Type: prop.Type, Annotations: prop.Annotations})
		if err != nil {
			return err
		}
		name := exported(prop.Name)
		g.f("// Get%s reads one property.", name)
		g.f("func (p %sProxy) Get%s(ctx context.Context) (v %s, err error) {", g.base, name, v.goType)
		g.f("err = p.get(ctx, %q, &v)\nreturn v, err\n}\n", prop.Name)
	}
	return nil
}

func (g *gen) clientMethod(m member) error {
	in, out, err := g.args(m)
	if err != nil {
		return err
	}
	g.comment("", m.Name+": "+annotated(m.Annotations, docAnnotation))
	params := list(append([]value{{name: "ctx", goType: "context.Context"}}, in...), func(v value) string { return v.name + " " + v.goType })
	g.f("func (p %sProxy) %s(%s) %s {", g.base, m.Name, params, results(out))
	args := "nil"
	if len(in) > 0 {
		args = "[]any{" + list(in, func(v value) string { return v.encode(v.name) }) + "}"
	}
	refs := ""
	plain := true
	for n, v := range out {
		if v.dict != "" || v.file {
			plain = false
			g.f("var w%d %s", n, v.wire)
			refs += fmt.Sprintf(", &w%d", n)
		} else {
			refs += ", &" + v.name
		}
	}
	g.f("err = p.call(ctx, %q, %s%s)", m.Name, args, refs)
	if !plain {
		g.f("if err != nil { return }")
	}
	for n, v := range out {
		switch {
		case v.file:
			g.f("%s = file(w%d, %q)", v.name, n, v.name)
		case v.dict != "":
			g.f("%s, err = %s", v.name, v.decode(fmt.Sprintf("w%d", n), false))
		}
	}
	g.f("return\n}\n")
	return nil
}

// signals writes a type for each signal.
func (g *gen) signals() error {
	for _, m := range g.i.Signals {
		name := g.base + m.Name
		in, _, err := g.args(m)
		if err != nil {
			return err
		}
		g.comment("", name+": "+annotated(m.Annotations, docAnnotation))
		g.f("type %s struct {", name)
		for n, v := range in {
			g.f("%s %s", exported(m.Args[n].Name), v.goType)
		}
		g.f("}\n")
		g.f("// SignalName implements Signal.")
		g.f("func (%s) SignalName() string { return %sInterface + %q }\n", name, g.base, "."+m.Name)
		var bodies, refs []string
		for n, v := range in {
			field := "s." + exported(m.Args[n].Name)
			bodies = append(bodies, v.encode(field))
			refs = append(refs, "&"+field)
		}
		g.f("func (s %s) body() []any { return []any{%s} }\n", name, strings.Join(bodies, ", "))
		g.f("// Parse%s decodes sig. It returns false for any other signal.", name)
		g.f("func Parse%s(sig *dbus.Signal) (s %s, ok bool) {", name, name)
		g.f("if sig.Name != s.SignalName() { return s, false }")
		for n, v := range in {
			if v.dict != "" {
				g.f("var w%d %s", n, v.wire)
				refs[n] = fmt.Sprintf("&w%d", n)
			}
		}
		g.f("if store(sig.Body, %s) != nil { return s, false }", strings.Join(refs, ", "))
		for n, v := range in {
			if v.dict != "" {
				g.f("var err error")
				g.f("if s.%s, err = %s; err != nil { return s, false }", exported(m.Args[n].Name), v.decode(fmt.Sprintf("w%d", n), false))
			}
		}
		g.f("return s, true\n}\n")
	}
	return nil
}
