package main

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
)

// page is a manual page that is being written, see man(7).
type page struct {
	bytes.Buffer
	fresh bool // the heading has no text yet
}

func newPage(name, section, date, source, summary string) *page {
	p := &page{}
	fmt.Fprintf(p, ".TH %s %s %s %s \"lull\"\n", quote(strings.ToUpper(name)), section, date, quote(source))
	p.heading("NAME")
	p.line(escape(name) + ` \- ` + escape(strings.TrimSuffix(summary, ".")))
	return p
}

func quote(s string) string { return `"` + strings.ReplaceAll(escape(s), `"`, `\(dq`) + `"` }

// escape makes text that means itself.
func escape(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\\':
			b.WriteString(`\e`)
		case r == '-':
			b.WriteString(`\-`)
		case r == '\'':
			b.WriteString(`\(aq`)
		case r == '^':
			b.WriteString(`\(ha`)
		case r == '~':
			b.WriteString(`\(ti`)
		case r == '`':
			b.WriteString(`\(ga`)
		case r > 126:
			fmt.Fprintf(&b, `\[u%04X]`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// line writes a line that has been escaped; it is no request.
func (p *page) line(s string) {
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	p.WriteString(s + "\n")
	p.fresh = false
}

func (p *page) heading(s string) {
	fmt.Fprintf(p, ".SH %s\n", quote(strings.ToUpper(s)))
	p.fresh = true
}

func (p *page) subheading(s string) {
	fmt.Fprintf(p, ".SS %s\n", quote(s))
	p.fresh = true
}

// gap begins a paragraph; after a heading there is one already.
func (p *page) gap() {
	if !p.fresh {
		p.WriteString(".PP\n")
	}
}

// paragraph writes running text.
func (p *page) paragraph(s string) {
	p.gap()
	p.text(s)
}

// text writes words, each sentence on a line of its own.
func (p *page) text(s string) {
	s = strings.Join(strings.Fields(s), " ")
	for _, sentence := range strings.Split(sentences.ReplaceAllString(s, "$1\n"), "\n") {
		line := ""
		for _, word := range strings.Split(inline(sentence), " ") {
			switch {
			case line == "":
				line = word
			case len(line)+1+len(word) <= 78:
				line += " " + word
			default:
				p.line(line)
				line = word
			}
		}
		p.line(line)
	}
}

var sentences = regexp.MustCompile(`([a-z0-9)][.?!]) `)

// item writes an entry of a list: a tag, then text.
func (p *page) item(tag, text string) {
	p.WriteString(".TP\n")
	p.line(inline(tag))
	p.text(text)
}

// bullet writes one of a list.
func (p *page) bullet(text string) {
	p.WriteString(".IP \\(bu 2\n")
	p.text(text)
}

// code writes lines as they are.
func (p *page) code(lines []string) {
	p.gap()
	p.WriteString(".RS 4\n.nf\n")
	for _, l := range lines {
		if l = escape(strings.ReplaceAll(l, "\t", "    ")); l == "" {
			l = `\&`
		}
		p.line(l)
	}
	p.WriteString(".fi\n.RE\n")
}

var (
	spans = regexp.MustCompile("`[^`]+`|\\*\\*[^*]+\\*\\*|\\*[^*\\s][^*]*\\*|!?\\[[^]]*\\]\\([^)]*\\)|\\b(?:[a-z][a-z.-]*)\\([1-8]\\)")
	link  = regexp.MustCompile(`^(!?)\[([^]]*)\]\(([^)]*)\)$`)
)

// inline writes the marks within a line of Markdown.
func inline(s string) string {
	var b strings.Builder
	for s != "" {
		at := spans.FindStringIndex(s)
		if at == nil {
			b.WriteString(escape(s))
			break
		}
		b.WriteString(escape(s[:at[0]]))
		span := s[at[0]:at[1]]
		s = s[at[1]:]
		switch {
		case span[0] == '`':
			b.WriteString(`\fB` + escape(span[1:len(span)-1]) + `\fR`)
		case strings.HasPrefix(span, "**"):
			b.WriteString(`\fB` + escape(span[2:len(span)-2]) + `\fR`)
		case span[0] == '*':
			b.WriteString(`\fI` + escape(span[1:len(span)-1]) + `\fR`)
		case link.MatchString(span):
			m := link.FindStringSubmatch(span)
			b.WriteString(reference(m[2], m[3]))
		default: // another manual page
			name, section, _ := strings.Cut(span, "(")
			b.WriteString(`\fB` + escape(name) + `\fR(` + section)
		}
	}
	return b.String()
}

// reference writes a link: to a page of ours as that, else with its address.
func reference(text, to string) string {
	file, _, _ := strings.Cut(to, "#")
	if name, ok := both[file]; ok {
		i := strings.LastIndexByte(name, '.')
		return fmt.Sprintf(`\fB%s\fR(%s)`, escape(name[:i]), name[i+1:])
	}
	if strings.Contains(to, "://") && to != text {
		return inline(text) + " (" + escape(to) + ")"
	}
	return inline(text)
}
