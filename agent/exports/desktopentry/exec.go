package desktopentry

import (
	"errors"
	"fmt"
	"path"
	"slices"
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

// Programs finds the programs of Exec lines.
type Programs struct {
	// Find returns the path that replaces the name of a program in a line.
	Find func(program string) (string, error)
	// Named returns the path of the program with a name on the session bus. Nil means
	// that there are none.
	Named func(busName string) (string, error)
}

// RewriteExec replaces the program of each Exec line, of the entry, of its actions, of a D-Bus
// service and of a thumbnailer. A program after env, or in a script of one command after sh -c, counts as
// the program of its line, and so does the one that gapplication(1) starts. The rest of the
// line remains as it is written. An error names the line.
func (f *File) RewriteExec(p Programs) error {
	for i := range f.lines {
		l := &f.lines[i]
		if l.key != "Exec" || l.group != Main && l.group != DBusService && l.group != Thumbnailer && !strings.HasPrefix(l.group, action) {
			continue
		}
		value, err := p.rewrite(l.text, l.group != DBusService)
		if err != nil {
			return fmt.Errorf("line %d: Exec=%.200s: %w", l.number, l.text, err)
		}
		l.text = value
	}
	return nil
}

// rewrite is RewriteExec for one value. Field codes, which begin with '%', exist if codes is
// set; D-Bus service files have none.
func (p Programs) rewrite(value string, codes bool) (string, error) {
	words, err := splitExec(value)
	if err != nil {
		return "", err
	}
	if words, err = skipEnv(words); err != nil {
		return "", err
	}
	first, last := words[0], words[0]
	var to string
	switch base := path.Base(first.text); {
	case slices.Contains(shells, base) && len(words) > 2 && words[1].text == "-c":
		return p.script(value, words[2])
	case base == "gapplication":
		if to, last, err = p.gapplication(words); to == "" && err == nil {
			return value, nil
		}
	default:
		to, err = p.Find(first.text)
	}
	if err != nil {
		return "", err
	}
	if codes {
		to = strings.ReplaceAll(to, "%", "%%")
	}
	return value[:first.from] + quote(to) + value[last.to:], nil
}

// shells are the programs that run a script after -c.
var shells = []string{"sh", "bash", "dash"}

// script rewrites the only command of a script in the word w of value.
func (p Programs) script(value string, w word) (string, error) {
	from, to, err := command(w.text)
	if err != nil {
		return "", err
	}
	program, err := p.Find(w.text[from:to])
	switch {
	case err != nil:
		return "", err
	case w.at[to-1]-w.at[from] != to-1-from: // a quote begins or ends in it
		return "", fmt.Errorf("the program %.80q of its script cannot be rewritten", w.text[from:to])
	case strings.IndexFunc(program, func(r rune) bool { return !isPlain(r) }) >= 0:
		return "", fmt.Errorf("the path %.200q cannot be written in a script", program)
	}
	return value[:w.at[from]] + program + value[w.at[to-1]+1:], nil
}

// command returns the position of the program in a script of one command.
func command(script string) (from, to int, err error) {
	if strings.ContainsAny(script, ";&|`()<>\n") {
		return 0, 0, errors.New("a script with more than one command cannot be rewritten")
	}
	for {
		from = to + len(script[to:]) - len(strings.TrimLeft(script[to:], " \t"))
		to = from
		for to < len(script) && script[to] != ' ' && script[to] != '\t' {
			to++
		}
		name := script[from:to]
		switch {
		case name == "":
			return 0, 0, errors.New("its script names no program")
		case strings.IndexFunc(name, func(r rune) bool { return r != '=' && !isPlain(r) }) >= 0:
			return 0, 0, fmt.Errorf("the program %.80q of its script cannot be rewritten", name)
		case name != "exec" && !strings.Contains(name, "="):
			return from, to, nil
		}
	}
}

// isPlain reports whether a character means itself for a shell and in an Exec line.
func isPlain(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-./+,:@", r)
}

// gapplication returns the program that gapplication(1) starts, and the last word of the line
// that names it. No program and no error means that the line can stay as it is.
func (p Programs) gapplication(words []word) (program string, last word, err error) {
	if len(words) < 3 || p.Named == nil || words[1].text != "launch" && words[1].text != "action" {
		return "", last, errors.New("this use of gapplication cannot be rewritten")
	}
	program, err = p.Named(words[2].text)
	if words[1].text == "action" {
		return "", last, err
	}
	return program, words[2], err
}

// word is an argument. From and to are its position in the line, and at that of each byte of
// text.
type word struct {
	text     string
	from, to int
	at       []int
}

// splitExec splits a line at blanks outside of quotes. It resolves the escapes of strings
// first and those of quotes second, as "The Exec key" demands. Double quotes are the
// specification's. Single ones are accepted in the same way as by GLib and KDE.
func splitExec(value string) ([]word, error) {
	plain, at := unescape(value)
	var words []word
	w := word{from: -1}
	var text []byte
	var open byte
	put := func(i int) {
		text = append(text, plain[i])
		w.at = append(w.at, at[i+1]-1)
	}
	end := func(i int) {
		if w.from >= 0 {
			w.text, w.to = string(text), at[i]
			words = append(words, w)
		}
		w, text = word{from: -1}, nil
	}
	for i := 0; i < len(plain); i++ {
		c := plain[i]
		if open == 0 && (c == ' ' || c == '\t' || c == '\n') {
			end(i)
			continue
		}
		if w.from < 0 {
			w.from = at[i]
		}
		switch {
		case c == '\\' && open != '\'' && i+1 < len(plain) && (open == 0 || strings.IndexByte("\"`$\\", plain[i+1]) >= 0):
			i++
			put(i)
		case c == open:
			open = 0
		case open == 0 && (c == '"' || c == '\''):
			open = c
		default:
			put(i)
		}
	}
	end(len(plain))
	switch {
	case open != 0:
		return nil, errors.New("a quote is not closed")
	case len(words) == 0 || words[0].text == "":
		return nil, errors.New("it names no program")
	}
	return words, nil
}

// unescape resolves the escapes of a string value ("Possible value types"). At has the
// position in value of each byte of the result, and the length of value at its end. Unknown
// escapes remain.
func unescape(value string) (plain string, at []int) {
	b := make([]byte, 0, len(value))
	at = make([]int, 0, len(value)+1)
	for i := 0; i < len(value); i++ {
		at = append(at, i)
		c := value[i]
		if c == '\\' && i+1 < len(value) {
			if e := strings.IndexByte(`sntr\`, value[i+1]); e >= 0 {
				i++
				c = " \n\t\r\\"[e]
			}
		}
		b = append(b, c)
	}
	return string(b), append(at, len(value))
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
