package main

import (
	"encoding/xml"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
)

// page is the documentation in Markdown, docs/dbus.md. What holds for all of it
// stands in the comments at the head of the files, and is taken from there.
func page(sources map[string][]byte, files []string) (string, error) {
	var b strings.Builder
	b.WriteString("# The bus interface\n\n<!-- Made of dbus/*.xml by `go generate ./dbus`. Change it there. -->\n\n" +
		"This is everything that lull says and hears on D-Bus. `busctl introspect org.lull.Agent1 /org/lull/Agent1` shows it\n" +
		"live, and so does `busctl --user introspect org.lull.Session1 /org/lull/Session1`. What a type like `a{sv}` means\n" +
		"stands in the [D-Bus specification](https://dbus.freedesktop.org/doc/dbus-specification.html#type-system).\n" +
		"Properties tell of their changes by `PropertiesChanged`, unless something else is said.\n")
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
		b.WriteString("\n| method | what it does |\n| --- | --- |\n")
		for _, m := range i.Methods {
			fmt.Fprintf(b, "| `%s` | %s |\n", m.signature(), cell(m.text()))
		}
	}
	if len(i.Signals) > 0 {
		b.WriteString("\n| signal | what it tells |\n| --- | --- |\n")
		for _, s := range i.Signals {
			fmt.Fprintf(b, "| `%s` | %s |\n", s.signature(), cell(s.text()))
		}
	}
	if len(i.Properties) > 0 {
		b.WriteString("\n| property | type | what it is |\n| --- | --- | --- |\n")
		for _, p := range i.Properties {
			text := annotated(p.Annotations, docAnnotation)
			switch annotated(p.Annotations, emitsAnnotation) {
			case "const":
				text = join(text, "It does not change.")
			case "false":
				text = join(text, "Its changes are not told.")
			case "invalidates":
				text = join(text, "Of a change only its name is told.")
			}
			if p.Access != "read" {
				text = join(text, "It can be written.")
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

// text is what is said of a method or signal and of its arguments.
func (m *member) text() string {
	text := annotated(m.Annotations, docAnnotation)
	for _, a := range m.Args {
		if doc := annotated(a.Annotations, docAnnotation); doc != "" {
			text = join(text, "`"+a.Name+"`: "+doc)
		}
		told := strings.Contains(text, "Options: ") || strings.Contains(text, "Keys: ")
		if f := fields(a.Annotations); f != "" && !(told && annotated(a.Annotations, dictAnnotation) != "") {
			text = join(text, "`"+a.Name+"`: "+f)
		}
	}
	return text
}

// fields tells what is in a structure or dictionary.
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

// join puts sentences after each other.
func join(a, b string) string {
	if a == "" {
		return b
	}
	if !strings.HasSuffix(a, ".") {
		a += "."
	}
	return a + " " + b
}

// cell makes text fit for a table.
func cell(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(strings.Join(strings.Fields(s), " "), "|", `\|`), "<", "&lt;")
}
