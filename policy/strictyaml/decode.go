package strictyaml

import (
	"encoding"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// Document is one parsed file. It remembers where each key stands, so that
// checks of meaning can name the line as well.
type Document struct {
	name  string
	root  *node
	lines map[string]int
}

// Unmarshaler is implemented by types whose shape varies, say a list or a
// string. UnmarshalYAML calls decode with pointers to the shapes that it takes,
// most likely one first, until one fits.
type Unmarshaler interface {
	UnmarshalYAML(decode func(into any) error) error
}

// Parse reads data, the content of the file called name. An empty file, or one
// with comments only, is an empty Document.
func Parse(name string, data []byte) (*Document, error) {
	root, err := parse(name, data)
	if err != nil {
		return nil, err
	}
	return &Document{name: name, root: root, lines: map[string]int{}}, nil
}

// Decode reads data, the content of the file called name, into the struct that
// into points to. Keys that the file does not set keep their values. The error
// is an Errors with all problems of the file.
func Decode(name string, data []byte, into any) error {
	d, err := Parse(name, data)
	if err != nil {
		return err
	}
	return d.Decode(into)
}

// Decode fills the struct that into points to; see the function of that name.
func (d *Document) Decode(into any) error {
	if d.root == nil {
		return nil
	}
	dec := decoder{doc: d}
	dec.value(d.root, reflect.ValueOf(into).Elem(), "")
	return sorted(dec.bad)
}

// Line returns the line of the value of a key path such as "gc.reserve" or
// "apps[0]"; 0 if the file does not set it or was not decoded.
func (d *Document) Line(path string) int { return d.lines[path] }

// Errorf makes a problem of the value at the key path. Without such a value it
// is reported at the nearest one around it.
func (d *Document) Errorf(path, format string, args ...any) *Error {
	line := d.lines[path]
	for p := path; line == 0 && p != ""; line = d.lines[p] {
		p = p[:max(strings.LastIndexAny(p, ".["), 0)]
	}
	return newError(d.name, line, format, args...)
}

type decoder struct {
	doc *Document
	bad Errors
}

func (d *decoder) failf(n *node, format string, args ...any) {
	d.bad = append(d.bad, newError(d.doc.name, n.line, format, args...))
}

// want reports a value of the wrong shape.
func (d *decoder) want(n *node, path, what string) {
	switch {
	case n.kind != scalar:
		d.failf(n, "cannot use %s as %s: want %s", n.kind, orDocument(path), what)
	case n.tag == "null":
		d.failf(n, "cannot leave %s empty: want %s", orDocument(path), what)
	default:
		d.failf(n, "cannot use %.80q as %s: want %s", n.text, orDocument(path), what)
	}
}

func orDocument(path string) string {
	if path == "" {
		return "the file's content"
	}
	return path
}

func (d *decoder) value(n *node, v reflect.Value, path string) {
	if path != "" {
		d.doc.lines[path] = n.line
	}
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		d.value(n, v.Elem(), path)
		return
	}
	if v.CanAddr() {
		switch u := v.Addr().Interface().(type) {
		case Unmarshaler:
			d.varying(n, u, path)
			return
		case encoding.TextUnmarshaler:
			d.text(n, u, path)
			return
		}
	}
	switch v.Kind() {
	case reflect.Struct:
		d.fields(n, v, path)
	case reflect.Map:
		d.entries(n, v, path)
	case reflect.Slice:
		d.elements(n, v, path)
	default:
		d.scalar(n, v, path)
	}
}

// absent reports whether a collection was left out after its key.
func absent(n *node) bool { return n.kind == scalar && n.tag == "null" }

func (d *decoder) fields(n *node, v reflect.Value, path string) {
	if absent(n) {
		return
	}
	if n.kind != mapping {
		d.want(n, path, mapping.String())
		return
	}
	known := map[string]reflect.Value{}
	var names []string
	for i := range v.NumField() {
		if key := v.Type().Field(i).Tag.Get("yaml"); key != "" && key != "-" {
			known[key] = v.Field(i)
			names = append(names, key)
		}
	}
	for i, k := range n.keys {
		f, ok := known[k.text]
		if !ok {
			where := ""
			if path != "" {
				where = " in " + path
			}
			d.failf(k, "cannot use the key %.80q%s: known are %s", k.text, where, strings.Join(names, ", "))
			continue
		}
		d.value(n.items[i], f, join(path, k.text))
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func (d *decoder) entries(n *node, v reflect.Value, path string) {
	if absent(n) {
		return
	}
	if n.kind != mapping {
		d.want(n, path, mapping.String())
		return
	}
	if v.IsNil() {
		v.Set(reflect.MakeMap(v.Type()))
	}
	for i, k := range n.keys {
		e := reflect.New(v.Type().Elem()).Elem()
		d.value(n.items[i], e, join(path, k.text))
		// An error of the key itself is better reported at the key.
		if p := join(path, k.text); n.items[i].kind != scalar {
			d.doc.lines[p] = k.line
		}
		v.SetMapIndex(reflect.ValueOf(k.text).Convert(v.Type().Key()), e)
	}
}

func (d *decoder) elements(n *node, v reflect.Value, path string) {
	if absent(n) {
		return
	}
	if n.kind != sequence {
		d.want(n, path, sequence.String())
		return
	}
	l := reflect.MakeSlice(v.Type(), len(n.items), len(n.items))
	for i, c := range n.items {
		d.value(c, l.Index(i), fmt.Sprintf("%s[%d]", path, i))
	}
	v.Set(l)
}

func (d *decoder) text(n *node, u encoding.TextUnmarshaler, path string) {
	if n.kind != scalar || n.tag == "null" {
		what := "a single value"
		if w, ok := u.(interface{ Want() string }); ok {
			what = w.Want()
		}
		d.want(n, path, what)
		return
	}
	if err := u.UnmarshalText([]byte(n.text)); err != nil {
		d.failf(n, "cannot use %.80q as %s: %s", n.text, path, err)
	}
}

func (d *decoder) varying(n *node, u Unmarshaler, path string) {
	err := u.UnmarshalYAML(func(into any) error {
		sub := decoder{doc: d.doc}
		sub.value(n, reflect.ValueOf(into).Elem(), path)
		return sorted(sub.bad)
	})
	switch e := err.(type) {
	case nil:
	case Errors:
		d.bad = append(d.bad, e...)
	default:
		d.failf(n, "cannot use this as %s: %s", path, err)
	}
}

func (d *decoder) scalar(n *node, v reflect.Value, path string) {
	ok := n.kind == scalar
	switch v.Kind() {
	case reflect.String:
		// 1.10 is a version to its author, so numbers and dates keep
		// their spelling; true and null are slips.
		if ok = ok && n.tag != "bool" && n.tag != "null"; ok {
			v.SetString(n.text)
		} else if n.kind == scalar && n.tag == "bool" {
			d.want(n, path, "text, in quotes")
		} else {
			d.want(n, path, "text")
		}
	case reflect.Bool:
		// YAML's "yes" and "on" are not accepted: half of the tools of today
		// read them as text.
		if ok = ok && n.tag == "bool"; ok {
			v.SetBool(strings.EqualFold(n.text, "true"))
		} else {
			d.want(n, path, "true or false")
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		i, err := strconv.ParseInt(n.text, 10, v.Type().Bits())
		if ok = ok && n.tag == "int" && err == nil; ok {
			v.SetInt(i)
		} else {
			d.want(n, path, "a whole number")
		}
	default:
		panic("internal error: strictyaml cannot fill a " + v.Type().String())
	}
}
