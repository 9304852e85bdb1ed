package output

import (
	"os/user"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/dustin/go-humanize"

	"github.com/lull/lull/agent/lib/printable"
)

// OneLine makes foreign text safe for a terminal.
func OneLine(s string) string { return printable.Line(s) }

// wide are the blocks of characters that take two columns.
var wide = &unicode.RangeTable{
	R16: []unicode.Range16{{0x1100, 0x115f, 1}, {0x2e80, 0x303e, 1}, {0x3041, 0x33ff, 1}, {0x3400, 0x4dbf, 1}, {0x4e00, 0x9fff, 1},
		{0xa000, 0xa4cf, 1}, {0xac00, 0xd7a3, 1}, {0xf900, 0xfaff, 1}, {0xfe30, 0xfe6f, 1}, {0xff00, 0xff60, 1}, {0xffe0, 0xffe6, 1}},
	R32: []unicode.Range32{{0x1f300, 0x1f64f, 1}, {0x1f900, 0x1f9ff, 1}, {0x20000, 0x3fffd, 1}},
}

func runeWidth(r rune) int {
	switch {
	case unicode.Is(unicode.Mn, r) || unicode.Is(unicode.Me, r):
		return 0
	case unicode.Is(wide, r):
		return 2
	}
	return 1
}

// Columns is the width of s on a terminal.
func Columns(s string) int {
	n := 0
	for _, r := range s {
		n += runeWidth(r)
	}
	return n
}

// Cut shortens s to n columns, with an ellipsis.
func Cut(s string, n int) string {
	if Columns(s) <= n {
		return s
	}
	if n <= 0 {
		return ""
	}
	used := 0
	for i, r := range s {
		if used += runeWidth(r); used > n-1 {
			return s[:i] + "…"
		}
	}
	return s
}

// Wrap breaks a line between words so that no part is wider than n columns, as far as its
// words allow. With n below 1 the line remains whole.
func Wrap(s string, n int) []string {
	if n < 1 || Columns(s) <= n {
		return []string{s}
	}
	var lines []string
	line := ""
	for word := range strings.SplitSeq(s, " ") {
		if line != "" && Columns(line)+1+Columns(word) > n {
			lines = append(lines, strings.TrimRight(line, " "))
			line = word
			continue
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, strings.TrimRight(line, " "))
}

// Count returns a number with its noun: "1 process", "3 processes". The words are messages.
func Count[I int | uint32 | uint64](n I, one, many string) string {
	number := strings.ReplaceAll(humanize.Comma(int64(min(uint64(n), 1<<62))), ",", choice(Mark("thousands separator|,")))
	return number + " " + N(one, many, n)
}

// Size formats a number of bytes for people.
func Size(n uint64) string {
	return Decimal(humanize.Bytes(n))
}

// Decimal writes a number with a decimal point, which a unit follows, as the language does.
func Decimal(number string) string {
	return strings.Replace(number, ".", choice(Mark("decimal separator|.")), 1)
}

// Duration returns a length of time, see printable.Duration.
func Duration(d time.Duration) string { return Decimal(printable.Duration(d)) }

// UserName returns the name of a user, or the user's number.
func UserName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil && u.Username != "" {
		return OneLine(u.Username)
	}
	return T("number %s", id)
}

// Short returns the beginning of a hash for tables.
func Short(hash string) string {
	if len(hash) > 16 {
		return hash[:16]
	}
	return hash
}

// Either returns s, or nothing if s is "".
func Either(s, nothing string) string {
	if s == "" {
		return nothing
	}
	return s
}

// Yes reports whether an answer to a question that ends in [y/N] is a yes: in English or in
// the language of this process.
func Yes(answer string) bool {
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes" || answer == choice(Mark("short answer|y")) || answer == choice(Mark("long answer|yes"))
}

// List joins words for a sentence: "a, b and c".
func List(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return T("%[1]s and %[2]s", strings.Join(words[:len(words)-1], ", "), words[len(words)-1])
}

// Choice joins alternatives: "a, b or c".
func Choice(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return T("%[1]s or %[2]s", strings.Join(words[:len(words)-1], ", "), words[len(words)-1])
}
