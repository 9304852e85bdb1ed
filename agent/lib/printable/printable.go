// Package printable makes texts of others fit to be shown: on terminals, in the
// journal and in notices.
//
// A process chooses its own name, a publisher the title of a package, a user the
// reason of a hold. None of these texts may move a terminal's cursor (the C0 and C1
// controls of ECMA-48), turn the direction of writing, be invisible (the format
// characters of Unicode, bidirectional controls among them), or begin a line of its
// own. Every program of lull passes such texts through Line, or JSON, before it
// writes them. All functions may be called from several goroutines.
package printable

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Hostile reports whether a character could make a terminal or a reader take a text
// for something else. Invalid UTF-8, which terminals of eight bits read as C1
// controls, is read as unicode.ReplacementChar, which is hostile.
func Hostile(r rune) bool {
	return unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp) || r == unicode.ReplacementChar
}

// Line returns s as one line: ends of lines and tabs are blanks, and other hostile
// characters question marks.
func Line(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\t', r == '\r', r == '\u2028', r == '\u2029':
			return ' '
		case Hostile(r):
			return '?'
		}
		return r
	}, s)
}

// JSON returns a writer of JSON documents, whole ones as json.Encoder writes them, in
// which hostile characters are escaped. RFC 8259 asks that of the ASCII controls
// alone. A program that reads the document gets the same texts.
func JSON(w io.Writer) io.Writer { return jsonWriter{w} }

type jsonWriter struct{ w io.Writer }

// Write implements io.Writer.
func (j jsonWriter) Write(b []byte) (int, error) {
	var out []byte
	last := 0
	for at, r := range string(b) {
		if r < 0x7f || !Hostile(r) || r == unicode.ReplacementChar {
			continue
		}
		out = append(out, b[last:at]...)
		for _, unit := range utf16.Encode([]rune{r}) {
			out = fmt.Appendf(out, `\u%04x`, unit)
		}
		last = at + utf8.RuneLen(r)
	}
	if _, err := j.w.Write(append(out, b[last:]...)); err != nil {
		return 0, err
	}
	return len(b), nil
}
