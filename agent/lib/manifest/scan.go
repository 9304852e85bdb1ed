package manifest

import (
	"fmt"
	"strconv"
	"strings"
)

// scanner reads canonical JSON. The first error sticks; after it every method
// returns zero values and moves no further.
type scanner struct {
	s   string
	i   int
	err error
}

func (p *scanner) fail(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf(format, args...)
		p.i = len(p.s)
	}
}

// want consumes the byte c.
func (p *scanner) want(c byte) bool {
	if p.i < len(p.s) && p.s[p.i] == c {
		p.i++
		return true
	}
	p.unexpected(strconv.QuoteRune(rune(c)))
	return false
}

func (p *scanner) unexpected(wanted string) {
	switch {
	case p.i >= len(p.s):
		p.fail("it ends where %s should stand", wanted)
	case strings.IndexByte(" \t\r\n", p.s[p.i]) >= 0:
		p.fail("insignificant space at byte %d", p.i)
	default:
		p.fail("%s at byte %d where %s should stand", strconv.QuoteRune(rune(p.s[p.i])), p.i, wanted)
	}
}

// more reports whether another member follows, in an object or array that ends
// with the byte end; first is whether none has been read.
func (p *scanner) more(end byte, first bool) bool {
	if p.err != nil {
		return false
	}
	if p.i < len(p.s) && p.s[p.i] == end {
		if first {
			p.fail("an empty list or object at byte %d, which must be left out", p.i-1)
			return false
		}
		p.i++
		return false
	}
	return first || p.want(',')
}

// object reads an object and calls member for each key; member reads the
// value.
func (p *scanner) object(member func(key string)) {
	p.want('{')
	previous := ""
	for first := true; p.more('}', first); first = false {
		key := p.text()
		switch {
		case p.err != nil:
			return
		case !first && key == previous:
			p.fail("the key %q is there twice", key)
			return
		case !first && key < previous:
			p.fail("the key %q stands after %q: keys must be sorted", key, previous)
			return
		}
		previous = key
		p.want(':')
		member(key)
	}
}

// array reads an array and calls element for each.
func (p *scanner) array(element func()) {
	p.want('[')
	for first := true; p.more(']', first); first = false {
		element()
	}
}

// text reads a string.
func (p *scanner) text() string {
	if !p.want('"') {
		return ""
	}
	from := p.i
	for i := p.i; i < len(p.s); i++ {
		switch c := p.s[i]; {
		case c == '"':
			p.i = i + 1
			return p.s[from:i]
		case c == '\\':
			p.i = i
			return p.escaped(from)
		case c < 0x20:
			p.i = i
			p.fail("a control character in a string at byte %d", i)
			return ""
		}
	}
	p.fail("it ends within a string")
	return ""
}

// escaped reads the rest of a string whose first escape has been reached.
func (p *scanner) escaped(from int) string {
	b := []byte(p.s[from:p.i])
	for p.i < len(p.s) {
		c := p.s[p.i]
		p.i++
		switch {
		case c == '"':
			return string(b)
		case c < 0x20:
			p.fail("a control character in a string at byte %d", p.i-1)
			return ""
		case c != '\\':
			b = append(b, c)
		default:
			d, n := unescape(p.s[p.i:])
			if n == 0 {
				p.fail("an escape at byte %d that is wrong or not the canonical one", p.i-1)
				return ""
			}
			b = append(b, d)
			p.i += n
		}
	}
	p.fail("it ends within a string")
	return ""
}

// unescape decodes the characters after a backslash and returns the number of
// its bytes, 0 if appendString would not have written it so.
func unescape(s string) (byte, int) {
	if s == "" {
		return 0, 0
	}
	if i := strings.IndexByte(`"\btnfr`, s[0]); i >= 0 {
		return "\"\\\b\t\n\f\r"[i], 1
	}
	if len(s) < 5 || s[:3] != "u00" {
		return 0, 0
	}
	c, err := strconv.ParseUint(s[3:5], 16, 8)
	if err != nil || c >= 0x20 || shortEscape(byte(c)) != 0 || s[4] >= 'A' && s[4] <= 'F' {
		return 0, 0
	}
	return byte(c), 5
}

// number reads an integer above 0.
func (p *scanner) number() int64 {
	from := p.i
	for p.i < len(p.s) && isDigit(p.s[p.i]) {
		p.i++
	}
	digits := p.s[from:p.i]
	n, err := strconv.ParseInt(digits, 10, 64)
	switch {
	case digits == "":
		p.unexpected("a whole number")
	case err != nil:
		p.fail("the number %.30s at byte %d is too large", digits, from)
	case digits[0] == '0':
		p.fail("the number %.30s at byte %d, where zeros must be left out", digits, from)
	}
	return n
}

// truth reads true, the only boolean that is ever written.
func (p *scanner) truth() bool {
	if strings.HasPrefix(p.s[p.i:], "true") {
		p.i += 4
		return true
	}
	if strings.HasPrefix(p.s[p.i:], "false") {
		p.fail("false at byte %d, which must be left out", p.i)
		return false
	}
	p.unexpected("true")
	return false
}

// texts reads an array of strings.
func (p *scanner) texts() []string {
	var l []string
	p.array(func() { l = append(l, p.text()) })
	return l
}
