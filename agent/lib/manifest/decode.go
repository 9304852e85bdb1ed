package manifest

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
)

// Parse reads a meta in its canonical form. Anything else is refused with an
// error of kind Invalid that names the path or key. Given a string it makes no
// copy: the strings of the result are parts of it.
func Parse[T string | []byte](text T) (*Meta, error) {
	m := &Meta{}
	if err := parse(string(text), &m.Launch, &m.Entries); err != nil {
		return nil, err
	}
	return m, nil
}

// ParseLaunch reads the canonical form of a Launch, as Launch.Encode wrote it.
func ParseLaunch(b []byte) (*Launch, error) {
	l := &Launch{}
	if err := parse(string(b), l, nil); err != nil {
		return nil, err
	}
	return l, nil
}

func parse(text string, l *Launch, entries *[]Entry) error {
	if len(text) > MaxSize {
		return errkind.New(errkind.Invalid, "cannot use a meta of %d bytes: %d are allowed", len(text), MaxSize)
	}
	if !utf8.ValidString(text) {
		return errkind.New(errkind.Invalid, "cannot use the meta: it is not UTF-8")
	}
	d := decoder{scanner: scanner{s: text}, launch: l}
	if entries != nil {
		// Few entries are shorter than this, so that the list grows once.
		d.entries = make([]Entry, 0, len(text)/160)
	}
	d.object(func(key string) { d.member(key, entries != nil) })
	if d.err == nil && d.i != len(d.s) {
		d.fail("something follows it at byte %d", d.i)
	}
	if d.err != nil {
		return errkind.New(errkind.Invalid, "cannot use the meta%s: %w", of(l), d.err)
	}
	if entries != nil && len(d.entries) > 0 {
		*entries = d.entries
	}
	// The scanner accepts nothing but the canonical form; should it ever, the
	// same meta would have two hashes.
	canonical := make(chan bool, 1)
	go func() { canonical <- isMeta(text, l, d.entries) }()
	err := check(l, d.entries, entries != nil)
	if same := <-canonical; err == nil && !same {
		err = errkind.New(errkind.Invalid, "cannot use the meta%s: it is not in the canonical form", of(l))
	}
	return err
}

// of names the package in an error, once its name is known.
func of(l *Launch) string {
	if isName(l.Name) {
		return " of " + l.Name
	}
	return ""
}

type decoder struct {
	scanner
	launch  *Launch
	entries []Entry
}

func (d *decoder) member(key string, withEntries bool) {
	l := d.launch
	switch key {
	case "apps":
		d.array(d.app)
	case "data":
		d.object(d.data)
	case "entries":
		if !withEntries {
			d.fail("the key %q does not belong here", key)
			return
		}
		d.array(d.entry)
	case "environment":
		l.Environment = map[string]Variable{}
		d.object(func(name string) { l.Environment[name] = d.variable(name) })
	case "format":
		if n := d.number(); n == Format2 {
			l.Format = Format2
		} else {
			d.fail("format %d: want 2; this lull supports no later one", n)
		}
	case "hooks":
		l.Hooks = map[string][]string{}
		d.object(func(key string) { l.Hooks[key] = d.texts() })
	case "icon":
		l.Icon = d.text()
	case "layout":
		l.Layout = map[string]string{}
		d.object(func(at string) { l.Layout[at] = d.text() })
	case "license":
		l.License = d.text()
	case "name":
		l.Name = d.text()
	case "needs-lull":
		l.NeedsLull = d.text()
	case "notes":
		l.Notes = d.text()
	case "refresh":
		d.object(d.wish)
	case "root":
		l.Root = d.text()
	case "services":
		d.array(d.service)
	case "subpackages":
		l.Subpackages = map[string]digest.Digest{}
		d.object(func(key string) { l.Subpackages[key] = d.digest() })
	case "summary":
		l.Summary = d.text()
	case "title":
		l.Title = d.text()
	case "version":
		l.Version = d.text()
	default:
		d.fail("unknown key %q", key)
	}
}

func (d *decoder) data(key string) {
	data := &d.launch.Data
	switch key {
	case "import":
		data.Import = d.texts()
	case "versioned":
		data.Versioned = d.truth()
	case "xdg":
		data.XDG = d.truth()
	default:
		d.fail("unknown key %q in data", key)
	}
}

func (d *decoder) wish(key string) {
	w := &d.launch.Refresh
	switch key {
	case "max-postponement":
		text := d.text()
		if err := w.MaxPostponement.UnmarshalText([]byte(text)); err != nil {
			d.fail("refresh: max-postponement: %v", err)
		} else if w.MaxPostponement.String() != text || w.MaxPostponement == 0 {
			d.fail("refresh: max-postponement %q must be left out or written as %q", text, w.MaxPostponement)
		}
	case "mode":
		w.Mode = d.text()
	case "refresh-pending":
		w.RefreshPending = d.text()
	default:
		d.fail("unknown key %q in refresh", key)
	}
}

func (d *decoder) variable(name string) (v Variable) {
	d.object(func(key string) {
		switch key {
		case "append":
			v.Append = d.texts()
		case "prepend":
			v.Prepend = d.texts()
		case "value":
			v.Value = d.text()
		default:
			d.fail("unknown key %q in the variable %.140q", key, name)
		}
	})
	return v
}

func (d *decoder) app() {
	var a App
	d.object(func(key string) {
		switch key {
		case "autostart":
			a.Autostart = d.text()
		case "command":
			a.Command = d.texts()
		case "dbus-name":
			a.DBusName = d.text()
		case "dbus-service":
			a.DBusService = d.text()
		case "desktop":
			a.Desktop = d.text()
		case "name":
			a.Name = d.text()
		default:
			d.fail("unknown key %q in app %d", key, len(d.launch.Apps)+1)
		}
	})
	d.launch.Apps = append(d.launch.Apps, a)
}

func (d *decoder) service() {
	var s Service
	d.object(func(key string) {
		switch key {
		case "command":
			s.Command = d.texts()
		case "name":
			s.Name = d.text()
		case "ready":
			s.Ready = d.text()
		case "refresh-mode":
			s.RefreshMode = d.text()
		case "scope":
			s.Scope = d.text()
		case "stop-signal":
			s.StopSignal = d.text()
		case "stop-timeout":
			text := d.text()
			if d.err != nil {
				return
			}
			if err := s.StopTimeout.UnmarshalText([]byte(text)); err != nil {
				d.fail("service %s: %w", s.Name, err)
			} else if s.StopTimeout.String() != text || s.StopTimeout == 0 {
				d.fail("service %s: stop-timeout %q must be left out or written as %q", s.Name, text, s.StopTimeout)
			}
		case "user":
			s.User = d.text()
		default:
			d.fail("unknown key %q in service %d", key, len(d.launch.Services)+1)
		}
	})
	d.launch.Services = append(d.launch.Services, s)
}

func (d *decoder) entry() {
	start := d.i
	e := Entry{Type: TypeFile}
	d.object(func(key string) {
		switch key {
		case "blob":
			e.Blob = d.digest()
		case "exec":
			e.Exec = d.truth()
		case "path":
			e.Path = d.text()
		case "size":
			e.Size = d.number()
		case "symlink":
			e.Symlink = d.text()
		case "type":
			if e.Type = d.text(); e.Type == TypeFile {
				d.fail("type %q must be left out", e.Type)
			}
		default:
			d.fail("unknown key %q", key)
		}
	})
	if d.err != nil {
		d.err = errkind.Errorf("entry %s: %w", d.entryName(&e, start), d.err)
		return
	}
	d.entries = append(d.entries, e)
}

// entryName names a broken entry: by its path, which may come after the broken
// part, else by its number.
func (d *decoder) entryName(e *Entry, start int) string {
	path := e.Path
	if path == "" {
		rest := d.s[start:]
		rest = rest[:min(len(rest), 8192)]
		if i := strings.IndexByte(rest, '}'); i >= 0 {
			rest = rest[:i]
		}
		if _, after, ok := strings.Cut(rest, `"path":`); ok {
			p := scanner{s: after}
			path = p.text()
		}
	}
	if path == "" {
		return fmt.Sprintf("%d", len(d.entries)+1)
	}
	return fmt.Sprintf("%.300q", path)
}

func (d *decoder) digest() digest.Digest {
	const length = 2*digest.Size + 2 // with its quotes
	if rest := d.s[d.i:]; len(rest) >= length && rest[0] == '"' && rest[length-1] == '"' {
		if v, err := digest.Parse(rest[1 : length-1]); err == nil && !v.IsZero() {
			d.i += length
			return v
		}
	}
	text := d.text()
	if d.err != nil {
		return digest.Digest{}
	}
	v, err := digest.Parse(text)
	if err != nil {
		d.fail("%w", err)
	} else if v.IsZero() {
		d.fail("a hash of nothing but zeros")
	}
	return v
}
