package main

import (
	"regexp"
	"strings"
)

var (
	bullets = regexp.MustCompile(`^(?:[-*]|\d+\.) +`)
	rule    = regexp.MustCompile(`^\|[ |:-]+\|$`)
)

// markdown writes the blocks of a Markdown text.
func (p *page) markdown(text string) {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for len(lines) > 0 {
		l := lines[0]
		take := func(of func(string) bool) (block []string) {
			for len(lines) > 0 && of(lines[0]) {
				block, lines = append(block, lines[0]), lines[1:]
			}
			return block
		}
		switch {
		case strings.TrimSpace(l) == "":
			lines = lines[1:]
		case strings.HasPrefix(l, "## "):
			p.heading(plain(l[3:]))
			lines = lines[1:]
		case strings.HasPrefix(l, "### "):
			p.subheading(plain(l[4:]))
			lines = lines[1:]
		case strings.HasPrefix(l, "    "):
			block := take(func(l string) bool { return strings.HasPrefix(l, "    ") || strings.TrimSpace(l) == "" })
			p.code(unindent(block))
		case strings.HasPrefix(l, "|"):
			p.table(take(func(l string) bool { return strings.HasPrefix(l, "|") }))
		case bullets.MatchString(l):
			p.bullet(entry(&lines))
		case len(lines) > 1 && strings.HasPrefix(lines[1], ": "):
			tag := l
			lines = append([]string{lines[1][2:]}, lines[2:]...)
			p.item(tag, strings.Join(take(isText), " "))
		case strings.HasPrefix(l, "<!--") || strings.HasPrefix(l, "!["):
			lines = lines[1:]
		default:
			p.paragraph(strings.Join(take(isText), " "))
		}
	}
}

// isText says whether a line goes on a paragraph.
func isText(l string) bool {
	return strings.TrimSpace(l) != "" && !strings.HasPrefix(l, "#") && !strings.HasPrefix(l, "|") && !bullets.MatchString(l)
}

// entry takes one entry of a list, whose further lines are indented.
func entry(lines *[]string) string {
	text := bullets.ReplaceAllString((*lines)[0], "")
	for *lines = (*lines)[1:]; len(*lines) > 0 && strings.HasPrefix((*lines)[0], "  ") && strings.TrimSpace((*lines)[0]) != ""; *lines = (*lines)[1:] {
		text += " " + strings.TrimSpace((*lines)[0])
	}
	return text
}

// unindent removes what all lines have in front, and empty lines at the end.
func unindent(lines []string) []string {
	for len(lines) > 0 && strings.TrimSpace(lines[len(lines)-1]) == "" {
		lines = lines[:len(lines)-1]
	}
	out := make([]string, len(lines))
	for i, l := range lines {
		if len(l) > 4 {
			out[i] = l[4:]
		}
	}
	return out
}

// table writes a table as a list: the first column names what the others say.
func (p *page) table(rows []string) {
	var head []string
	for i, row := range rows {
		if rule.MatchString(row) {
			continue
		}
		cells := split(row)
		if i == 0 {
			head = cells
			continue
		}
		var text []string
		for j, c := range cells[1:] {
			if c == "" {
				continue
			}
			if len(cells) > 2 && j+1 < len(head) && head[j+1] != "" {
				c = "*" + head[j+1] + ":* " + c
			}
			text = append(text, strings.TrimSuffix(c, "."))
		}
		p.item(cells[0], strings.Join(text, "; ")+".")
	}
}

// split takes the cells of a table's row.
func split(row string) []string {
	row = strings.ReplaceAll(strings.Trim(row, "|"), `\|`, "\x00")
	cells := strings.Split(row, "|")
	for i, c := range cells {
		cells[i] = strings.ReplaceAll(strings.TrimSpace(c), "\x00", "|")
	}
	return cells
}

// plain leaves out marks.
func plain(s string) string { return strings.NewReplacer("`", "", "*", "").Replace(s) }
