package manifest

import (
	"encoding/hex"
	"maps"
	"slices"
	"strconv"

	"github.com/lull/lull/agent/lib/digest"
)

// Encode checks the manifest and returns its canonical form. Entries may be in
// any order.
func (m *Meta) Encode() ([]byte, error) {
	entries := m.Entries
	if !slices.IsSortedFunc(entries, byPath) {
		entries = slices.Clone(entries)
		slices.SortStableFunc(entries, byPath)
	}
	if err := check(&m.Launch, entries, true); err != nil {
		return nil, err
	}
	return appendMeta(make([]byte, 0, 1024+192*len(entries)), &m.Launch, entries), nil
}

// Encode checks what can be checked without the entries and returns the
// canonical form, which is that of a meta without entries.
func (l *Launch) Encode() ([]byte, error) {
	if err := check(l, nil, false); err != nil {
		return nil, err
	}
	return appendMeta(nil, l, nil), nil
}

func byPath(a, b Entry) int {
	switch {
	case a.Path < b.Path:
		return -1
	case a.Path > b.Path:
		return 1
	}
	return 0
}

// writer appends the members of one object.
type writer struct {
	b     []byte
	first bool
}

func object(b []byte) writer { return writer{append(b, '{'), true} }

func (w *writer) end() []byte { return append(w.b, '}') }

func (w *writer) key(k string) {
	if !w.first {
		w.b = append(w.b, ',')
	}
	w.first = false
	w.b = append(w.b, '"')
	w.b = append(w.b, k...)
	w.b = append(w.b, '"', ':')
}

func (w *writer) text(k, s string) {
	if s != "" {
		w.key(k)
		w.b = appendString(w.b, s)
	}
}

func (w *writer) list(k string, l []string) {
	if len(l) == 0 {
		return
	}
	w.key(k)
	for i, s := range l {
		w.b = append(w.b, "[,"[min(i, 1)])
		w.b = appendString(w.b, s)
	}
	w.b = append(w.b, ']')
}

func (w *writer) flag(k string, v bool) {
	if v {
		w.key(k)
		w.b = append(w.b, "true"...)
	}
}

func (w *writer) number(k string, n int64) {
	if n != 0 {
		w.key(k)
		w.b = strconv.AppendInt(w.b, n, 10)
	}
}

func (w *writer) digest(k string, d digest.Digest) {
	if !d.IsZero() {
		w.key(k)
		w.b = append(w.b, '"')
		w.b = hex.AppendEncode(w.b, d[:])
		w.b = append(w.b, '"')
	}
}

func appendMeta(b []byte, l *Launch, entries []Entry) []byte {
	return writeMeta(b, l, entries, func(b []byte) []byte { return b })
}

// isMeta reports whether text is what appendMeta would write, without writing
// it as a whole.
func isMeta(text string, l *Launch, entries []Entry) bool {
	same := true
	compare := func(b []byte) []byte {
		same = same && len(b) <= len(text) && text[:len(b)] == string(b)
		if same {
			text = text[len(b):]
		}
		return b[:0]
	}
	compare(writeMeta(nil, l, entries, compare))
	return same && text == ""
}

// writeMeta appends to b, and hands it on after each entry.
func writeMeta(b []byte, l *Launch, entries []Entry, spill func([]byte) []byte) []byte {
	w := object(b)
	if len(l.Apps) > 0 {
		w.key("apps")
		for i := range l.Apps {
			w.b = appendApp(append(w.b, "[,"[min(i, 1)]), &l.Apps[i])
		}
		w.b = append(w.b, ']')
	}
	if !l.Data.IsZero() {
		w.key("data")
		d := object(w.b)
		d.list("import", l.Data.Import)
		d.flag("versioned", l.Data.Versioned)
		d.flag("xdg", l.Data.XDG)
		w.b = d.end()
	}
	if len(entries) > 0 {
		w.key("entries")
		for i := range entries {
			w.b = spill(appendEntry(append(w.b, "[,"[min(i, 1)]), &entries[i]))
		}
		w.b = append(w.b, ']')
	}
	if len(l.Environment) > 0 {
		w.key("environment")
		e := object(w.b)
		for _, name := range slices.Sorted(maps.Keys(l.Environment)) {
			v := l.Environment[name]
			e.key(name)
			o := object(e.b)
			o.list("append", v.Append)
			o.list("prepend", v.Prepend)
			o.text("value", v.Value)
			e.b = o.end()
		}
		w.b = e.end()
	}
	w.number("format", int64(l.Format))
	if len(l.Hooks) > 0 {
		w.key("hooks")
		h := object(w.b)
		for _, name := range slices.Sorted(maps.Keys(l.Hooks)) {
			h.list(name, l.Hooks[name])
		}
		w.b = h.end()
	}
	w.text("icon", l.Icon)
	if len(l.Layout) > 0 {
		w.key("layout")
		o := object(w.b)
		for _, at := range slices.Sorted(maps.Keys(l.Layout)) {
			o.text(at, l.Layout[at])
		}
		w.b = o.end()
	}
	w.text("license", l.License)
	w.text("name", l.Name)
	w.text("needs-lull", l.NeedsLull)
	w.text("notes", l.Notes)
	if l.Refresh != (Wishes{}) {
		w.key("refresh")
		r := object(w.b)
		if l.Refresh.MaxPostponement != 0 {
			r.text("max-postponement", l.Refresh.MaxPostponement.String())
		}
		r.text("mode", l.Refresh.Mode)
		r.text("refresh-pending", l.Refresh.RefreshPending)
		w.b = r.end()
	}
	w.text("root", l.Root)
	if len(l.Services) > 0 {
		w.key("services")
		for i := range l.Services {
			w.b = appendService(append(w.b, "[,"[min(i, 1)]), &l.Services[i])
		}
		w.b = append(w.b, ']')
	}
	if len(l.Subpackages) > 0 {
		w.key("subpackages")
		s := object(w.b)
		for _, name := range slices.Sorted(maps.Keys(l.Subpackages)) {
			s.digest(name, l.Subpackages[name])
		}
		w.b = s.end()
	}
	w.text("summary", l.Summary)
	w.text("title", l.Title)
	w.text("version", l.Version)
	return w.end()
}

func appendApp(b []byte, a *App) []byte {
	w := object(b)
	w.text("autostart", a.Autostart)
	w.list("command", a.Command)
	w.text("dbus-name", a.DBusName)
	w.text("dbus-service", a.DBusService)
	w.text("desktop", a.Desktop)
	w.text("name", a.Name)
	return w.end()
}

func appendService(b []byte, s *Service) []byte {
	w := object(b)
	w.list("command", s.Command)
	w.text("name", s.Name)
	w.text("ready", s.Ready)
	w.text("refresh-mode", s.RefreshMode)
	w.text("scope", s.Scope)
	w.text("stop-signal", s.StopSignal)
	if s.StopTimeout != 0 {
		w.text("stop-timeout", s.StopTimeout.String())
	}
	w.text("user", s.User)
	return w.end()
}

func appendEntry(b []byte, e *Entry) []byte {
	w := object(b)
	w.digest("blob", e.Blob)
	w.flag("exec", e.Exec)
	w.text("path", e.Path)
	w.number("size", e.Size)
	w.text("symlink", e.Symlink)
	if !e.IsFile() {
		w.text("type", e.Type)
	}
	return w.end()
}

// appendString follows RFC 8785, section 3.2.2.2: only '"', '\' and control
// characters are escaped, the latter in their short form where there is one.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	from := 0
	for i := range len(s) {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		b = append(b, s[from:i]...)
		from = i + 1
		if short := shortEscape(c); short != 0 {
			b = append(b, '\\', short)
		} else {
			b = append(b, '\\', 'u', '0', '0', "0123456789abcdef"[c>>4], "0123456789abcdef"[c&15])
		}
	}
	b = append(b, s[from:]...)
	return append(b, '"')
}

func shortEscape(c byte) byte {
	switch c {
	case '"', '\\':
		return c
	case '\b':
		return 'b'
	case '\t':
		return 't'
	case '\n':
		return 'n'
	case '\f':
		return 'f'
	case '\r':
		return 'r'
	}
	return 0
}
