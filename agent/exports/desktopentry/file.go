// Package desktopentry reads, checks and rewrites desktop files, and the D-Bus
// service files that share their syntax.
//
// It follows the Desktop Entry Specification 1.5: "Basic format of the file",
// "Recognized desktop entry keys" and "The Exec key". A file that desktops would
// read differently, or not at all, is refused with the line: a group header with
// trailing space, a key without a value, two keys of one name, a missing Type, Name
// or Exec.
//
// A File is changed by its methods and belongs to one goroutine; everything else is
// a pure function.
package desktopentry

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Limits of the input. The specification has none; real files have lines of a few hundred
// bytes, and a MimeType of some thousand.
const (
	MaxFile = 256 << 10 // bytes
	maxLine = 32 << 10  // bytes
)

// The groups that this package supports.
const (
	Main        = "Desktop Entry"
	DBusService = "D-BUS Service"
	Thumbnailer = "Thumbnailer Entry"
	action      = "Desktop Action "
)

// File is a desktop file. Comments and unknown keys are kept.
type File struct {
	lines []line
}

// line is a comment or an empty line (no key), a group header (no key), or a key.
type line struct {
	number int    // in the parsed file, from 1; 0 for an added line
	group  string // the group that contains the line, or that it begins
	header bool
	key    string
	text   string // the value of a key, else the whole line
}

// Parse reads a file whose first group is first. An error names the line.
func Parse(content []byte, first string) (*File, error) {
	if len(content) > MaxFile {
		return nil, fmt.Errorf("it has %d bytes, where %d are allowed", len(content), MaxFile)
	}
	if !utf8.Valid(content) {
		return nil, fmt.Errorf("it is not UTF-8")
	}
	f := &File{}
	groups, keys := map[string]bool{}, map[string]bool{}
	group, number := "", 0
	for text := range bytes.Lines(content) {
		number++
		l, err := parseLine(strings.TrimRight(string(text), "\r\n"))
		if err == nil {
			switch {
			case l.header && len(groups) == 0 && l.group != first:
				err = fmt.Errorf("the first group is %.80q, want %q", l.group, first)
			case l.header && groups[l.group]:
				err = fmt.Errorf("the group %.80q is there twice", l.group)
			case l.header:
				group = l.group
				groups[group] = true
				clear(keys)
			case l.key != "" && group == "":
				err = fmt.Errorf("a key before the first group")
			case l.key != "" && keys[l.key]:
				err = fmt.Errorf("the key %.80q is there twice", l.key)
			case l.key != "":
				keys[l.key] = true
			}
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		l.number, l.group = number, group
		f.lines = append(f.lines, l)
	}
	if len(groups) == 0 {
		return nil, fmt.Errorf("it has no group %q", first)
	}
	return f, nil
}

func parseLine(text string) (line, error) {
	switch {
	case len(text) > maxLine:
		return line{}, fmt.Errorf("%d bytes, where %d are allowed", len(text), maxLine)
	case strings.IndexFunc(text, func(r rune) bool { return r < 0x20 && r != '\t' || r == 0x7f }) >= 0:
		return line{}, fmt.Errorf("a control character")
	case strings.TrimSpace(text) == "" || text[0] == '#':
		return line{text: text}, nil
	case text[0] == '[':
		name, ok := strings.CutSuffix(text[1:], "]")
		if !ok || name == "" || strings.ContainsAny(name, "[]") {
			return line{}, fmt.Errorf("%.80q is no group header", text)
		}
		return line{group: name, header: true, text: text}, nil
	}
	key, value, ok := strings.Cut(text, "=")
	key = strings.TrimRight(key, " \t")
	if !ok || !isKey(key) {
		return line{}, fmt.Errorf("%.80q is neither a group header nor a key with a value", text)
	}
	return line{key: key, text: strings.Trim(value, " \t")}, nil
}

// isKey accepts A-Za-z0-9- with an optional [locale].
func isKey(s string) bool {
	name, locale, localised := strings.Cut(s, "[")
	if localised {
		inside, ok := strings.CutSuffix(locale, "]")
		if !ok || inside == "" || strings.ContainsAny(inside, "[] ") {
			return false
		}
	}
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-':
		default:
			return false
		}
	}
	return name != ""
}

// Value returns the value of a key as it is written, or "" if the key is missing.
func (f *File) Value(group, key string) string {
	for i := range f.lines {
		if l := &f.lines[i]; l.group == group && l.key == key {
			return l.text
		}
	}
	return ""
}

// Set replaces the value of a key, or adds the key right below the header of its group, which
// must exist. The value is written unchanged.
func (f *File) Set(group, key, value string) {
	at := -1
	for i := range f.lines {
		l := &f.lines[i]
		if l.group != group {
			continue
		}
		if l.key == key {
			l.text = value
			return
		}
		if l.header {
			at = i + 1
		}
	}
	if at > 0 {
		rest := append([]line{{group: group, key: key, text: value}}, f.lines[at:]...)
		f.lines = append(f.lines[:at], rest...)
	}
}

// Drop removes a key.
func (f *File) Drop(group, key string) {
	kept := f.lines[:0]
	for _, l := range f.lines {
		if l.group != group || l.key != key {
			kept = append(kept, l)
		}
	}
	f.lines = kept
}

// DropLocalised removes the localised forms of a key.
func (f *File) DropLocalised(group, key string) {
	kept := f.lines[:0]
	for _, l := range f.lines {
		if l.group != group || !strings.HasPrefix(l.key, key+"[") {
			kept = append(kept, l)
		}
	}
	f.lines = kept
}

// Bytes returns the content of the file.
func (f *File) Bytes() []byte {
	var out bytes.Buffer
	for _, l := range f.lines {
		if l.key != "" {
			out.WriteString(l.key + "=")
		}
		out.WriteString(l.text + "\n")
	}
	return out.Bytes()
}

// List splits a value of type string(s), whose separator is ';'. Escaped separators
// do not occur in the lists that lull reads (MIME types).
func List(value string) []string {
	var list []string
	for item := range strings.SplitSeq(value, ";") {
		if item = strings.TrimSpace(item); item != "" {
			list = append(list, item)
		}
	}
	return list
}
