package main

import (
	"fmt"
	"go/token"
	"strings"
)

// structType is a named structure or dictionary of the XML.
type structType struct {
	name   string
	fields []field
	dict   bool
}

type field struct{ key, sig, goType string }

// types are the named types of all interfaces.
type types struct {
	byName map[string]*structType
	order  []string
	bySig  map[string][]*structType // of structures alone
}

// basic are the types that need no name.
var basic = map[byte]string{
	'y': "byte", 'b': "bool", 'n': "int16", 'q': "uint16", 'i': "int32", 'u': "uint32", 'x': "int64", 't': "uint64",
	'd': "float64", 's': "string", 'o': "dbus.ObjectPath", 'g': "dbus.Signature", 'v': "dbus.Variant", 'h': "dbus.UnixFD",
}

// one cuts the first complete type off a signature.
func one(sig string) (first, rest string, err error) {
	if sig == "" {
		return "", "", fmt.Errorf("a type is missing")
	}
	switch sig[0] {
	case 'a':
		elem, rest, err := one(sig[1:])
		return "a" + elem, rest, err
	case '(', '{':
		depth := 0
		for i := range len(sig) {
			switch sig[i] {
			case '(', '{':
				depth++
			case ')', '}':
				if depth--; depth == 0 {
					return sig[:i+1], sig[i+1:], nil
				}
			}
		}
		return "", "", fmt.Errorf("%q has no end", sig)
	}
	if basic[sig[0]] == "" {
		return "", "", fmt.Errorf("%q is no type", sig)
	}
	return sig[:1], sig[1:], nil
}

// valid returns an error unless sig is one complete type.
func valid(sig string) error {
	first, rest, err := one(sig)
	if err == nil && rest != "" {
		err = fmt.Errorf("%q is more than one type", sig)
	}
	inner := strings.TrimLeft(first, "a")
	if err != nil || inner == "" || inner[0] != '(' && inner[0] != '{' {
		return err
	}
	for rest = inner[1 : len(inner)-1]; rest != ""; {
		if first, rest, err = one(rest); err == nil {
			err = valid(first)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// goType is the Go type of a signature on the wire; named is the name of the
// structure in it, where it has one.
func (t *types) goType(sig, named string) (string, error) {
	switch {
	case sig == "ay":
		return "[]byte", nil
	case sig == "a{sv}":
		return "map[string]dbus.Variant", nil
	case strings.HasPrefix(sig, "a{"):
		key, rest, err := one(sig[2 : len(sig)-1])
		if err != nil {
			return "", err
		}
		k, err := t.goType(key, "")
		if err != nil {
			return "", err
		}
		v, err := t.goType(rest, named)
		return "map[" + k + "]" + v, err
	case sig[0] == 'a':
		elem, err := t.goType(sig[1:], named)
		return "[]" + elem, err
	case sig[0] == '(':
		if named != "" {
			return named, nil
		}
		if s := t.bySig[sig]; len(s) == 1 {
			return s[0].name, nil
		}
		return "", fmt.Errorf("the structure %s needs an annotation %s", sig, structAnnotation)
	}
	if g, ok := basic[sig[0]]; ok && len(sig) == 1 {
		return g, nil
	}
	return "", fmt.Errorf("%q is no type", sig)
}

// declare reads a Struct or Dict annotation; the same name must mean the same
// everywhere.
func (t *types) declare(sig, structure, dict string) error {
	switch {
	case structure != "":
		words := strings.Fields(structure)
		s := &structType{name: words[0]}
		inner := strings.TrimPrefix(sig, "a")
		if !strings.HasPrefix(inner, "(") {
			return fmt.Errorf("%s: %q is no structure", words[0], sig)
		}
		rest := inner[1 : len(inner)-1]
		for _, key := range words[1:] {
			var f string
			var err error
			if f, rest, err = one(rest); err != nil {
				return fmt.Errorf("%s.%s: %w", s.name, key, err)
			}
			g, err := t.goType(f, "")
			if err != nil {
				return fmt.Errorf("%s.%s: %w", s.name, key, err)
			}
			s.fields = append(s.fields, field{key, f, g})
		}
		if rest != "" {
			return fmt.Errorf("%s: %q has more fields than names", s.name, sig)
		}
		if t.byName[s.name] == nil {
			t.bySig[inner] = append(t.bySig[inner], s)
		}
		return t.add(s)
	case dict != "":
		words := strings.Fields(dict)
		s := &structType{name: words[0], dict: true}
		if strings.TrimPrefix(sig, "a") != "{sv}" && sig != "aa{sv}" {
			return fmt.Errorf("%s: %q is no dictionary", s.name, sig)
		}
		for _, w := range words[1:] {
			key, f, ok := strings.Cut(w, ":")
			if !ok {
				return fmt.Errorf("%s: %q has no type", s.name, w)
			}
			g, err := t.goType(f, "")
			if err != nil {
				return fmt.Errorf("%s.%s: %w", s.name, key, err)
			}
			s.fields = append(s.fields, field{key, f, g})
		}
		return t.add(s)
	}
	return nil
}

func (t *types) add(s *structType) error {
	old := t.byName[s.name]
	if old == nil {
		t.byName[s.name] = s
		t.order = append(t.order, s.name)
		return nil
	}
	if fmt.Sprint(*old) != fmt.Sprint(*s) {
		return fmt.Errorf("%s is declared in two ways", s.name)
	}
	return nil
}

// initialisms are the words that Go spells in capitals.
var initialisms = map[string]string{"pid": "PID", "uid": "UID", "url": "URL", "id": "ID", "json": "JSON", "dbus": "DBus"}

// exported makes a Go name of from-version or FromVersion.
func exported(name string) string {
	var b strings.Builder
	for _, w := range strings.FieldsFunc(name, func(r rune) bool { return r == '-' || r == '_' }) {
		if up, ok := initialisms[strings.ToLower(w)]; ok {
			b.WriteString(up)
		} else {
			b.WriteString(strings.ToUpper(w[:1]) + w[1:])
		}
	}
	return b.String()
}

// local makes a Go name of an argument that collides with nothing.
func local(name string) string {
	e := exported(name)
	for _, up := range initialisms {
		if e == up {
			return strings.ToLower(e)
		}
	}
	l := strings.ToLower(e[:1]) + e[1:]
	switch {
	case l == "package":
		return "pkg"
	case token.IsKeyword(l):
		return l + "_"
	}
	return l
}

// baseName is Manager for org.lull.Agent1.Manager and Session for
// org.lull.Session1.
func baseName(iface string) string {
	return strings.TrimRight(iface[strings.LastIndexByte(iface, '.')+1:], "0123456789")
}
