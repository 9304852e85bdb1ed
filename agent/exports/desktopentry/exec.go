package desktopentry

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// CheckApplication returns an error if a desktop would not show or start the entry.
func (f *File) CheckApplication() error {
	switch {
	case f.Value(Main, "Type") != "Application":
		return fmt.Errorf("its Type is %.80q, want Application", f.Value(Main, "Type"))
	case f.Value(Main, "Name") == "":
		return errors.New("it has no Name")
	case f.Value(Main, "Exec") == "" && f.Value(Main, "DBusActivatable") != "true":
		return errors.New("it has no Exec")
	}
	return nil
}

// RewriteExec replaces the program of each Exec line, of the entry, of its actions and of a
// D-Bus service. find returns the path that replaces the name of a program in the line. The
// rest of the line remains as it is written. An error names the line.
func (f *File) RewriteExec(find func(program string) (string, error)) error {
	for i := range f.lines {
		l := &f.lines[i]
		if l.key != "Exec" || l.group != Main && l.group != DBusService && !strings.HasPrefix(l.group, action) {
			continue
		}
		value, err := rewriteExec(l.text, l.group != DBusService, find)
		if err != nil {
			return fmt.Errorf("line %d: Exec=%.200s: %w", l.number, l.text, err)
		}
		l.text = value
	}
	return nil
}

// rewriteExec is RewriteExec for one value. Field codes, which begin with '%', exist if codes
// is set; D-Bus service files have none.
func rewriteExec(value string, codes bool, find func(string) (string, error)) (string, error) {
	words, err := splitExec(value)
	if err != nil {
		return "", err
	}
	if words, err = skipEnv(words); err != nil {
		return "", err
	}
	to, err := find(words[0].text)
	if err != nil {
		return "", err
	}
	if codes {
		to = strings.ReplaceAll(to, "%", "%%")
	}
	return value[:words[0].from] + quote(to) + value[words[0].to:], nil
}

// word is an argument and its position in the line.
type word struct {
	text     string
	from, to int
}

// splitExec splits a line at blanks outside of quotes. Double quotes are the specification's.
// Single ones are accepted in the same way as by GLib and KDE.
func splitExec(value string) ([]word, error) {
	var words []word
	var text strings.Builder
	var open byte
	from := -1
	end := func(at int) {
		if from >= 0 {
			words = append(words, word{text.String(), from, at})
		}
		text.Reset()
		from = -1
	}
	for i := 0; i < len(value); i++ {
		c := value[i]
		if open == 0 && (c == ' ' || c == '\t') {
			end(i)
			continue
		}
		if from < 0 {
			from = i
		}
		switch {
		case c == '\\' && open != '\'' && i+1 < len(value):
			i++
			text.WriteByte(value[i])
		case c == open:
			open = 0
		case open == 0 && (c == '"' || c == '\''):
			open = c
		default:
			text.WriteByte(c)
		}
	}
	end(len(value))
	switch {
	case open != 0:
		return nil, errors.New("a quote is not closed")
	case len(words) == 0 || words[0].text == "":
		return nil, errors.New("it names no program")
	}
	return words, nil
}

// skipEnv returns the words from the program that env(1) starts, or all words if the program
// is not env.
func skipEnv(words []word) ([]word, error) {
	if p := words[0].text; path.Base(p) != "env" {
		return words, nil
	}
	for i := 1; i < len(words); i++ {
		switch w := words[i].text; {
		case w == "-u":
			i++
		case w == "-i", strings.HasPrefix(w, "--unset="):
		case strings.HasPrefix(w, "-"):
			return nil, fmt.Errorf("env with the option %.40q cannot be rewritten", w)
		case !strings.Contains(w, "="):
			return words[i:], nil
		}
	}
	return nil, errors.New("env names no program")
}

// quote writes an argument of Exec, in double quotes if it has reserved characters.
func quote(s string) string {
	if !strings.ContainsAny(s, " \t\n\"'\\><~|&;$*?#()`") {
		return s
	}
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(s) {
		switch c := s[i]; c {
		case '"', '`', '$':
			b.WriteString(`\\`) // the value is a string, where a backslash is itself escaped
			b.WriteByte(c)
		case '\\':
			b.WriteString(`\\\\`)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}
