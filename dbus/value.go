package bus

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/errkind"
)

// clean makes text valid for the bus, which requires UTF-8 without zero bytes. A process
// chooses its own name, and an invalid name must not prevent a reply.
func clean(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// cleaned returns v with all text in it made valid, and copies the parts that it changes. The
// zero object path, which the bus forbids, becomes "/".
func cleaned(v any) any {
	rv := reflect.ValueOf(v)
	if !rv.IsValid() || !needsCleaning(rv) {
		return v
	}
	return cleanCopy(rv).Interface()
}

func needsCleaning(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.String:
		if v.Type() == pathType {
			return v.Len() == 0
		}
		return clean(v.String()) != v.String()
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			if needsCleaning(v.Index(i)) {
				return true
			}
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			if needsCleaning(it.Key()) || needsCleaning(it.Value()) {
				return true
			}
		}
	case reflect.Struct:
		if v.Type() == variantType {
			return needsCleaning(reflect.ValueOf(v.Interface().(dbus.Variant).Value()))
		}
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() && needsCleaning(v.Field(i)) {
				return true
			}
		}
	case reflect.Interface:
		return !v.IsNil() && needsCleaning(v.Elem())
	}
	return false
}

var (
	pathType    = reflect.TypeFor[dbus.ObjectPath]()
	variantType = reflect.TypeFor[dbus.Variant]()
)

func cleanCopy(v reflect.Value) reflect.Value {
	out := reflect.New(v.Type()).Elem()
	switch v.Kind() {
	case reflect.String:
		switch {
		case v.Type() != pathType:
			out.SetString(clean(v.String()))
		case v.Len() == 0:
			out.SetString("/")
		default:
			out.Set(v)
		}
	case reflect.Slice:
		if v.IsNil() {
			return v
		}
		out.Set(reflect.MakeSlice(v.Type(), v.Len(), v.Len()))
		for i := range v.Len() {
			out.Index(i).Set(cleanCopy(v.Index(i)))
		}
	case reflect.Map:
		out.Set(reflect.MakeMap(v.Type()))
		for it := v.MapRange(); it.Next(); {
			out.SetMapIndex(cleanCopy(it.Key()), cleanCopy(it.Value()))
		}
	case reflect.Struct:
		if v.Type() == variantType {
			old := v.Interface().(dbus.Variant)
			return reflect.ValueOf(dbus.MakeVariantWithSignature(cleaned(old.Value()), old.Signature()))
		}
		out.Set(v)
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				out.Field(i).Set(cleanCopy(v.Field(i)))
			}
		}
	case reflect.Interface:
		if v.IsNil() {
			return v
		}
		out.Set(cleanCopy(v.Elem()))
	default:
		out.Set(v)
	}
	return out
}

// toDict writes a struct whose fields carry `dict:"key"` as a{sv}, leaving out
// zero values.
func toDict(v any) map[string]dbus.Variant {
	rv := reflect.ValueOf(v)
	m := make(map[string]dbus.Variant, rv.NumField())
	for i := range rv.NumField() {
		if f := rv.Field(i); !f.IsZero() {
			m[rv.Type().Field(i).Tag.Get("dict")] = dbus.MakeVariant(f.Interface())
		}
	}
	return m
}

func toDicts[T any](vs []T) []map[string]dbus.Variant {
	ms := make([]map[string]dbus.Variant, len(vs))
	for i, v := range vs {
		ms[i] = toDict(v)
	}
	return ms
}

// fromDict is the reverse of toDict. A server is strict: an unknown key may be an option
// that it would silently ignore. A client is not, because the agent may be newer.
func fromDict[T any](m map[string]dbus.Variant, strict bool) (T, error) {
	var t T
	rv := reflect.ValueOf(&t).Elem()
	known := 0
	for i := range rv.NumField() {
		key := rv.Type().Field(i).Tag.Get("dict")
		value, ok := m[key]
		if !ok {
			continue
		}
		known++
		field := rv.Field(i)
		if want := dbus.SignatureOfType(field.Type()); value.Signature() != want {
			return t, errkind.New(errkind.Invalid, "cannot use option %s: it has the type %s, not %s", key, value.Signature(), want)
		}
		if err := dbus.Store([]any{value.Value()}, field.Addr().Interface()); err != nil {
			return t, errkind.New(errkind.Invalid, "cannot use option %s: %w", key, err)
		}
	}
	if strict && known < len(m) {
		for key := range m {
			if !hasKey(rv.Type(), key) {
				return t, errkind.New(errkind.Invalid, "cannot use option %.40q: there is no such option", key)
			}
		}
	}
	return t, nil
}

func fromDicts[T any](ms []map[string]dbus.Variant, strict bool) ([]T, error) {
	ts := make([]T, len(ms))
	for i, m := range ms {
		t, err := fromDict[T](m, strict)
		if err != nil {
			return nil, err
		}
		ts[i] = t
	}
	return ts, nil
}

func hasKey(t reflect.Type, key string) bool {
	for i := range t.NumField() {
		if t.Field(i).Tag.Get("dict") == key {
			return true
		}
	}
	return false
}

// store fills the results of a reply, or the arguments of a call. Values of the right type
// are assigned as they are: the library's own Store wraps the values of dictionaries a
// second time, and loses the types of structures.
func store(body []any, into ...any) error {
	if len(body) != len(into) {
		return fmt.Errorf("%d values where %d belong", len(body), len(into))
	}
	for i, v := range body {
		dest := reflect.ValueOf(into[i]).Elem()
		if src := reflect.ValueOf(v); src.IsValid() && src.Type() == dest.Type() {
			dest.Set(src)
			continue
		}
		if err := dbus.Store([]any{v}, into[i]); err != nil {
			return err
		}
	}
	return nil
}
