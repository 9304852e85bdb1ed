package main

import (
	"encoding/xml"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
)

// page is the documentation in Markdown, docs/dbus.md. The text that
// applies to a whole file comes from the comments at the head of the file.
func page(sources map[string][]byte, files []string) (string, error) {
	var b strings.Builder
	b.WriteString("# The bus interface\n\n<!-- Generated from dbus/*.xml by `go generate ./dbus`. Do not edit. -->\n\n" +
		"This page describes the D-Bus interfaces of lull. `busctl introspect org.lull.Agent1 /org/lull/Agent1` and\n" +
		"`busctl --user introspect org.lull.Session1 /org/lull/Session1` show them on a running system. The\n" +
		"[D-Bus specification](https://dbus.freedesktop.org/doc/dbus-specification.html#type-system) explains types such as\n" +
		"`a{sv}`. Unless noted otherwise, changes of properties are signalled with `PropertiesChanged`.\n")
	for _, f := range files {
		var n node
		if err := xml.Unmarshal(sources[f], &n); err != nil {
			return "", fmt.Errorf("%s: %w", f, err)
		}
		fmt.Fprintf(&b, "\n## %s\n", strings.TrimSuffix(filepath.Base(f), ".xml"))
		for _, c := range comments.FindAllStringSubmatch(string(sources[f][:strings.Index(string(sources[f]), "<node")]), -1) {
			for _, paragraph := range strings.Split(c[1], "\n\n") {
				b.WriteString("\n" + strings.TrimSpace(lead.ReplaceAllString(paragraph, "\n")) + "\n")
			}
		}
		for _, i := range n.Interfaces {
			i.write(&b)
		}
	}
	return b.String(), nil
}

var (
	comments = regexp.MustCompile(`(?s)<!-- (.*?) -->`)
	lead     = regexp.MustCompile(`\n +`)
)

func (i *iface) write(b *strings.Builder) {
	fmt.Fprintf(b, "\n### %s\n\n%s\n", i.Name, cell(annotated(i.Annotations, docAnnotation)))
	if len(i.Methods) > 0 {
		b.WriteString("\n| method | description |\n| --- | --- |\n")
		for _, m := range i.Methods {
			fmt.Fprintf(b, "| `%s` | %s |\n", m.signature(), cell(m.text()))
		}
	}
	if len(i.Signals) > 0 {
		b.WriteString("\n| signal | description |\n| --- | --- |\n")
		for _, s := range i.Signals {
			fmt.Fprintf(b, "| `%s` | %s |\n", s.signature(), cell(s.text()))
		}
	}
	if len(i.Properties) > 0 {
		b.WriteString("\n| property | type | description |\n| --- | --- | --- |\n")
		for _, p := range i.Properties {
			text := annotated(p.Annotations, docAnnotation)
			switch annotated(p.Annotations, emitsAnnotation) {
			case "const":
				text = join(text, "It does not change.")
			case "false":
				text = join(text, "Changes are not signalled.")
			case "invalidates":
				text = join(text, "The change signal contains the name only, not the value.")
			}
			if p.Access != "read" {
				text = join(text, "It is writable.")
			}
			if s := fields(p.Annotations); s != "" {
				text = join(text, s)
			}
			fmt.Fprintf(b, "| `%s` | `%s` | %s |\n", p.Name, p.Type, cell(text))
		}
	}
}

// signature writes a method or signal as Name(IN…) → (OUT…).
func (m *member) signature() string {
	var in, out []string
	for _, a := range m.Args {
		text := a.Type + " " + a.Name
		if a.Direction == "out" {
			out = append(out, text)
		} else {
			in = append(in, text)
		}
	}
	s := m.Name + "(" + strings.Join(in, ", ") + ")"
	if len(out) > 0 {
		s += " → " + strings.Join(out, ", ")
	}
	return s
}

// text describes a method or signal and its arguments.
func (m *member) text() string {
	text := annotated(m.Annotations, docAnnotation)
	for _, a := range m.Args {
		if doc := annotated(a.Annotations, docAnnotation); doc != "" {
			text = join(text, "`"+a.Name+"`: "+doc)
		}
		listed := strings.Contains(text, "Options: ") || strings.Contains(text, "Keys: ")
		if f := fields(a.Annotations); f != "" && !(listed && annotated(a.Annotations, dictAnnotation) != "") {
			text = join(text, "`"+a.Name+"`: "+f)
		}
	}
	return text
}

// fields describes the fields of a structure, or the keys of a dictionary.
func fields(as []annotation) string {
	for _, kind := range []string{structAnnotation, dictAnnotation} {
		if name, rest, ok := strings.Cut(annotated(as, kind), " "); ok {
			words := strings.Fields(rest)
			if kind == dictAnnotation {
				return fmt.Sprintf("%s has the keys `%s`.", name, strings.Join(words, "`, `"))
			}
			return fmt.Sprintf("%s is (%s).", name, strings.Join(words, ", "))
		}
	}
	return ""
}

// join appends the sentence b to a.
func join(a, b string) string {
	if a == "" {
		return b
	}
	if !strings.HasSuffix(a, ".") {
		a += "."
	}
	return a + " " + b
}

// cell escapes text for a table.
func cell(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(strings.Join(strings.Fields(s), " "), "|", `\|`), "<", "&lt;")
}
