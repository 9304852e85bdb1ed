package main

import (
	"bytes"
	"encoding/json"
	"strings"
)

// column is a column of a table.
type column struct {
	title string
	right bool // numbers
	least int  // shrinks down to this on a narrow terminal; 0: it does not shrink
}

// table lays out rows below titles. On a terminal that is too narrow the
// columns that may shrink do so, the last ones first, until the table fits.
// Programs get everything.
func (a *app) table(cols []column, rows [][]string) error {
	widths := make([]int, len(cols))
	for i, c := range cols {
		widths[i] = columns(c.title)
	}
	for _, row := range rows {
		for i := range row {
			row[i] = oneLine(row[i])
			widths[i] = max(widths[i], columns(row[i]))
		}
	}
	if a.outWidth > 0 {
		over := 2 * (len(cols) - 1)
		for _, w := range widths {
			over += w
		}
		over -= a.outWidth
		for i := len(cols) - 1; i >= 0 && over > 0; i-- {
			if cols[i].least == 0 {
				continue
			}
			take := min(over, widths[i]-max(cols[i].least, min(columns(cols[i].title), widths[i])))
			if take > 0 {
				widths[i] -= take
				over -= take
			}
		}
	}
	var b bytes.Buffer
	line := func(cell func(i int) string) {
		var l strings.Builder
		for i, c := range cols {
			text := cut(cell(i), widths[i])
			pad := strings.Repeat(" ", widths[i]-columns(text))
			if i > 0 {
				l.WriteString("  ")
			}
			if c.right {
				l.WriteString(pad + text)
			} else {
				l.WriteString(text + pad)
			}
		}
		b.WriteString(strings.TrimRight(l.String(), " ") + "\n")
	}
	line(func(i int) string { return cols[i].title })
	for _, row := range rows {
		line(func(i int) string { return row[i] })
	}
	_, err := a.stdout.Write(b.Bytes())
	return notWritten(err)
}

// leastText is how narrow text beside labels gets, in columns.
const leastText = 20

// beside is how wide text may be that begins at a column; 0: as wide as it is.
func (a *app) beside(column int) int {
	if a.outWidth == 0 {
		return 0
	}
	return max(a.outWidth-column, leastText)
}

// fields prints labelled lines, leaving out the empty ones. On a terminal they
// are broken so that they fit.
func (a *app) fields(pairs [][2]string) error {
	widest := 0
	for _, p := range pairs {
		if p[1] != "" {
			widest = max(widest, columns(p[0]))
		}
	}
	var b strings.Builder
	for _, p := range pairs {
		if p[1] != "" {
			label := p[0] + ":"
			if p[0] == "" { // goes on with the one above
				label = " "
			}
			label += strings.Repeat(" ", widest-columns(p[0])+2)
			for _, part := range wrap(oneLine(p[1]), a.beside(widest+3)) {
				b.WriteString(strings.TrimRight(label+part, " ") + "\n")
				label = strings.Repeat(" ", widest+3)
			}
		}
	}
	_, err := a.stdout.Write([]byte(b.String()))
	return notWritten(err)
}

// say prints one line.
func (a *app) say(text string) error {
	_, err := a.stdout.Write([]byte(oneLine(text) + "\n"))
	return notWritten(err)
}

// writeJSON writes a document for programs; v has a field Version that is 1.
func (a *app) writeJSON(v any) error {
	e := json.NewEncoder(a.stdout)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return notWritten(e.Encode(v))
}

// writeLine writes a document as one line, for streams of them.
func (a *app) writeLine(v any) error {
	e := json.NewEncoder(a.stdout)
	e.SetEscapeHTML(false)
	return notWritten(e.Encode(v))
}

// document is the head of every JSON output.
type document struct {
	Version int `json:"version"`
}

var one = document{Version: 1}

// paint colours text where the terminal takes it.
func (a *app) paint(color, text string) string {
	if !a.color {
		return text
	}
	return map[string]string{"red": "\x1b[31m", "green": "\x1b[32m", "yellow": "\x1b[33m", "bold": "\x1b[1m"}[color] + text + "\x1b[0m"
}
