package main

import (
	"fmt"
	"strings"
)

// gen writes the file of one interface.
type gen struct {
	writer
	t    *types
	i    iface
	base string
}

func (g *gen) file() (string, error) {
	g.f("// %sInterface is the name of the interface. %s", g.base, annotated(g.i.Annotations, docAnnotation))
	g.f("const %sInterface = %q\n", g.base, g.i.Name)
	for _, part := range []func() error{g.info, g.server, g.properties, g.export, g.client, g.signals} {
		if err := part(); err != nil {
			return "", err
		}
	}
	body := g.String()
	imports := []string{}
	for _, p := range []struct{ path, use string }{
		{"context", "context."}, {"os", "os."}, {"github.com/godbus/dbus/v5", "dbus."},
	} {
		if strings.Contains(body, p.use) {
			imports = append(imports, p.path)
		}
	}
	w := &writer{}
	w.f("%s", header)
	w.f("import (")
	for _, p := range imports {
		if strings.Contains(p, ".") && len(imports) > 1 {
			w.f("")
		}
		w.f("%q", p)
	}
	w.f(")\n")
	return w.String() + body, nil
}

var emitsNames = map[string]string{"": "emitsValue", "true": "emitsValue", "invalidates": "emitsInvalidate", "false": "emitsNothing", "const": "emitsConst"}

// info writes the runtime's description of the interface.
func (g *gen) info() error {
	g.f("var info%s = &ifaceInfo{", g.base)
	g.f("name: %sInterface,", g.base)
	if len(g.i.Methods) > 0 {
		g.f("methods: map[string]string{")
		for _, m := range g.i.Methods {
			in := ""
			for _, a := range m.Args {
				if a.Direction != "out" {
					in += a.Type
				}
			}
			g.f("%q: %q,", m.Name, in)
		}
		g.f("},")
	}
	if len(g.i.Properties) > 0 {
		g.f("props: []propInfo{")
		for _, p := range g.i.Properties {
			e, ok := emitsNames[annotated(p.Annotations, emitsAnnotation)]
			if !ok || p.Access != "read" {
				return fmt.Errorf("property %s: only reading is supported, and true, invalidates, false, const", p.Name)
			}
			g.f("{%q, %s},", p.Name, e)
		}
		g.f("},")
	}
	g.f("}\n")
	return nil
}

// args sorts the arguments of a method.
func (g *gen) args(m member) (in, out []value, err error) {
	for _, a := range m.Args {
		v, err := g.value(a)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", m.Name, err)
		}
		if a.Direction == "out" {
			out = append(out, v)
			continue
		}
		if v.file {
			return nil, nil, fmt.Errorf("%s: descriptors that go in are not supported", m.Name)
		}
		in = append(in, v)
	}
	return in, out, nil
}

func list(vs []value, f func(value) string) string {
	parts := make([]string, len(vs))
	for i, v := range vs {
		parts[i] = f(v)
	}
	return strings.Join(parts, ", ")
}

func results(out []value) string {
	s := list(out, func(v value) string { return v.name + " " + v.goType })
	if s != "" {
		s += ", "
	}
	return "(" + s + "err error)"
}

// server writes the Go interface that the server implements.
func (g *gen) server() error {
	if len(g.i.Methods) == 0 {
		return nil
	}
	g.f("// %s is implemented by a server. Methods are called in parallel.", g.base)
	g.f("type %s interface {", g.base)
	for _, m := range g.i.Methods {
		in, out, err := g.args(m)
		if err != nil {
			return err
		}
		g.comment("\t", m.Name+": "+annotated(m.Annotations, docAnnotation))
		params := list(append([]value{{name: "caller", goType: "Caller"}}, in...), func(v value) string { return v.name + " " + v.goType })
		g.f("%s(%s) %s", m.Name, params, results(out))
	}
	g.f("}\n")
	return nil
}

func (g *gen) properties() error {
	if len(g.i.Properties) == 0 {
		return nil
	}
	g.f("// %sProperties are the properties of %sInterface.", g.base, g.base)
	g.f("type %sProperties struct {", g.base)
	for _, p := range g.i.Properties {
		v, err := g.value(arg{Name: p.Name, Type: p.Type, Annotations: p.Annotations})
		if err != nil {
			return err
		}
		doc := annotated(p.Annotations, docAnnotation)
		if doc != "" {
			doc = " // " + doc
		}
		g.f("%s %s%s", exported(p.Name), v.goType, doc)
	}
	g.f("}\n")
	g.f("// Apply sets the properties that a PropertiesChanged signal or a GetAll reply contains.")
	g.f("func (p *%sProperties) Apply(values map[string]dbus.Variant) error {", g.base)
	g.f("return applyProperties(p, info%s, values)\n}\n", g.base)
	return nil
}

// export writes the server's end.
func (g *gen) export() error {
	methods, props := len(g.i.Methods) > 0, len(g.i.Properties) > 0
	g.f("// %sExport is the interface on an object of a Server.", g.base)
	g.f("type %sExport struct {", g.base)
	if props {
		g.f("Props[%sProperties]", g.base)
	}
	if methods {
		g.f("impl %s", g.base)
	}
	g.f("}\n")
	var params, set []string
	if methods {
		params, set = append(params, "impl "+g.base), append(set, "e.impl = impl")
	}
	if props {
		params, set = append(params, "values "+g.base+"Properties"), append(set, "e.values = values")
	}
	g.f("// Export%s returns a new %sExport.", g.base, g.base)
	g.f("func Export%s(%s) *%sExport {", g.base, strings.Join(params, ", "), g.base)
	g.f("e := &%sExport{}", g.base)
	g.f("%s", strings.Join(set, "\n"))
	g.f("return e\n}\n")
	g.f("func (e *%sExport) info() *ifaceInfo { return info%s }\n", g.base, g.base)
	if props {
		g.f("func (e *%sExport) properties() propSource { return &e.Props }\n", g.base)
	} else {
		g.f("func (e *%sExport) properties() propSource { return nil }\n", g.base)
	}
	return g.invoke()
}

// invoke writes the switch over the methods.
func (g *gen) invoke() error {
	g.f("func (e *%sExport) invoke(c Caller, method string, body []any) ([]any, error) {", g.base)
	if len(g.i.Methods) > 0 {
		g.f("switch method {")
	}
	for _, m := range g.i.Methods {
		in, out, err := g.args(m)
		if err != nil {
			return err
		}
		g.f("case %q:", m.Name)
		call := []string{"c"}
		for n, v := range in {
			g.f("var a%d %s", n, v.wire)
			call = append(call, fmt.Sprintf("a%d", n))
		}
		if len(in) > 0 {
			refs := strings.Join(call[1:], ", &")
			g.f("if err := store(body, &%s); err != nil { return nil, badArguments(\"%s: %%v\", err) }", refs, m.Name)
		}
		for n, v := range in {
			if v.dict == "" {
				continue
			}
			g.f("d%d, err := %s", n, v.decode(call[n+1], true))
			g.f("if err != nil { return nil, err }")
			call[n+1] = fmt.Sprintf("d%d", n)
		}
		var rets, encoded []string
		for n, v := range out {
			rets = append(rets, fmt.Sprintf("r%d", n))
			encoded = append(encoded, v.encode(rets[n]))
		}
		if len(out) == 0 {
			g.f("return nil, e.impl.%s(%s)", m.Name, strings.Join(call, ", "))
			continue
		}
		g.f("%s, err := e.impl.%s(%s)", strings.Join(rets, ", "), m.Name, strings.Join(call, ", "))
		g.f("if err != nil { return nil, err }")
		g.f("return []any{%s}, nil", strings.Join(encoded, ", "))
	}
	if len(g.i.Methods) > 0 {
		g.f("}")
	}
	g.f("return nil, badArguments(\"%%s is no method\", method)\n}\n")
	return nil
}
