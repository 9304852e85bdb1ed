package output

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/lull/lull/agent/lib/printable"
)

// Column is a column of a table.
type Column struct {
	Title string // a message
	Right bool   // numbers
	Least int    // shrinks down to this on a narrow terminal; 0 means that it does not shrink
}

// Table prints rows below titles. On a terminal that is too narrow the columns that may
// shrink do so, the last ones first, until the table fits. Output for programs is not
// shortened.
func (a *Printer) Table(cols []Column, rows [][]string) error { return a.TableNoted(cols, rows, nil) }

// TableNoted is Table with further indented lines below rows, by the index of the row.
func (a *Printer) TableNoted(cols []Column, rows [][]string, below map[int][]string) error {
	widths := make([]int, len(cols))
	cols = slices.Clone(cols)
	for i, c := range cols {
		cols[i].Title = Marked(c.Title)
		widths[i] = Columns(cols[i].Title)
	}
	for _, row := range rows {
		for i := range row {
			row[i] = a.Shown(OneLine(row[i]))
			widths[i] = max(widths[i], Columns(row[i]))
		}
	}
	over := 0
	if a.Width > 0 {
		over = 2 * (len(cols) - 1)
		for _, w := range widths {
			over += w
		}
		over -= a.Width
		for i := len(cols) - 1; i >= 0 && over > 0; i-- {
			if cols[i].Least == 0 {
				continue
			}
			take := min(over, widths[i]-max(cols[i].Least, min(Columns(cols[i].Title), widths[i])))
			if take > 0 {
				widths[i] -= take
				over -= take
			}
		}
	}
	if over > 0 && len(rows) > 0 {
		return a.records(cols, rows, below)
	}
	var b bytes.Buffer
	line := func(cell func(i int) string) {
		var l strings.Builder
		for i, c := range cols {
			text := a.Shown(Cut(cell(i), widths[i]))
			pad := strings.Repeat(" ", widths[i]-Columns(text))
			if i > 0 {
				l.WriteString("  ")
			}
			if c.Right {
				l.WriteString(pad + text)
			} else {
				l.WriteString(text + pad)
			}
		}
		b.WriteString(strings.TrimRight(l.String(), " ") + "\n")
	}
	line(func(i int) string { return cols[i].Title })
	for n, row := range rows {
		line(func(i int) string { return row[i] })
		for _, note := range below[n] {
			b.WriteString("  " + a.Shown(OneLine(note)) + "\n")
		}
	}
	_, err := a.Stdout.Write(b.Bytes())
	return NotWritten(err)
}

// records prints a table that is too wide for the terminal: each row is a paragraph, with the
// first cell above the others.
func (a *Printer) records(cols []Column, rows [][]string, below map[int][]string) error {
	for n, row := range rows {
		if n > 0 {
			if err := a.SayWhole(""); err != nil {
				return err
			}
		}
		if err := a.SayWhole(row[0]); err != nil {
			return err
		}
		var pairs [][2]string
		for i := 1; i < len(cols); i++ {
			pairs = append(pairs, [2]string{"  " + Lower(cols[i].Title), row[i]})
		}
		if err := a.Fields(pairs); err != nil {
			return err
		}
		for _, note := range below[n] {
			if err := a.Say("  " + note); err != nil {
				return err
			}
		}
	}
	return nil
}

// leastText is the minimum width of text beside labels, in columns.
const leastText = 20

// Beside returns the maximum width of text that begins at a column; 0 means no limit.
func (a *Printer) Beside(column int) int {
	if a.Width == 0 {
		return 0
	}
	return max(a.Width-column, leastText)
}

// Fields prints labelled lines, without the empty ones. On a terminal they are wrapped to
// fit. The labels are messages.
func (a *Printer) Fields(pairs [][2]string) error {
	widest := 0
	pairs = slices.Clone(pairs)
	for i, p := range pairs {
		label := strings.TrimLeft(p[0], " ")
		p[0] = p[0][:len(p[0])-len(label)] + Marked(label)
		pairs[i] = p
		if p[1] != "" {
			widest = max(widest, Columns(p[0]))
		}
	}
	var b strings.Builder
	for _, p := range pairs {
		if p[1] != "" {
			label := p[0] + ":"
			if p[0] == "" { // continues the one above
				label = " "
			}
			label += strings.Repeat(" ", widest-Columns(p[0])+2)
			for _, part := range Wrap(a.Shown(OneLine(p[1])), a.Beside(widest+3)) {
				b.WriteString(strings.TrimRight(label+part, " ") + "\n")
				label = strings.Repeat(" ", widest+3)
			}
		}
	}
	_, err := a.Stdout.Write([]byte(b.String()))
	return NotWritten(err)
}

// Say prints one line, wrapped on a terminal that is too narrow.
func (a *Printer) Say(text string) error {
	_, err := a.Stdout.Write([]byte(a.paragraph(text, a.Width)))
	return NotWritten(err)
}

// SayWhole prints one line for copying, which is never wrapped.
func (a *Printer) SayWhole(text string) error {
	_, err := a.Stdout.Write([]byte(a.paragraph(text, 0)))
	return NotWritten(err)
}

// paragraph wraps a text between words for a terminal of that width. Continuation lines are
// indented. 0 means no terminal.
func (a *Printer) paragraph(text string, width int) string {
	text = a.Shown(OneLine(text))
	if width == 0 || Columns(text) <= width {
		return text + "\n"
	}
	rest := strings.TrimLeft(text, " ")
	indent := strings.Repeat(" ", len(text)-len(rest))
	var b strings.Builder
	for i, part := range Wrap(rest, max(width-len(indent)-2, leastText)) {
		if i > 0 {
			b.WriteString("  ")
		}
		b.WriteString(indent + part + "\n")
	}
	return b.String()
}

// Warn prints a line about a side issue, and a hint, on stderr.
func (a *Printer) Warn(text, hint string) {
	fmt.Fprint(a.Stderr, a.paragraph("lull: "+text, a.ErrWidth))
	if hint != "" {
		fmt.Fprint(a.Stderr, a.paragraph(T("hint: %s", hint), a.ErrWidth))
	}
}

// Prompt writes a text of this program to the user at the terminal.
func (a *Printer) Prompt(text string) { fmt.Fprint(a.Stderr, text) }

// WriteJSON writes a document for programs; v has a field Version that is 1.
func (a *Printer) WriteJSON(v any) error {
	if a.Lines {
		return a.WriteLine(v)
	}
	e := json.NewEncoder(printable.JSON(a.Stdout))
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return NotWritten(e.Encode(v))
}

// WriteLine writes a document as one line, for streams of documents.
func (a *Printer) WriteLine(v any) error {
	e := json.NewEncoder(printable.JSON(a.Stdout))
	e.SetEscapeHTML(false)
	return NotWritten(e.Encode(v))
}

// Document is the head of every JSON output.
type Document struct {
	Version int `json:"version"`
}

var One = Document{Version: 1}

// Paint colours text if the terminal supports it.
func (a *Printer) Paint(color, text string) string {
	if !a.Color {
		return text
	}
	return map[string]string{"red": "\x1b[31m", "green": "\x1b[32m", "yellow": "\x1b[33m", "bold": "\x1b[1m"}[color] + text + "\x1b[0m"
}
