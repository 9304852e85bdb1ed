package main

import (
	"regexp"
	"strings"
)

var (
	keyLine = regexp.MustCompile(`^( *)([a-z][a-z-]*):(.*)$`)
	entryOf = regexp.MustCompile(`^  ([a-z-]+)  +(\S.*)$`)
	choice  = regexp.MustCompile(`^([a-z0-9 ()-]+|0[a-z]?|true|false): `)
)

// keys turns the annotated defaults of the policy into a list in Markdown: each
// key with its default, and what stands above it as its text. A section begins
// at the left.
func keys(defaults string) string {
	var b strings.Builder
	var above []string
	for line := range strings.Lines(defaults) {
		line = strings.TrimRight(line, "\n")
		text, comment := strings.CutPrefix(strings.TrimSpace(line), "#")
		switch m := keyLine.FindStringSubmatch(line); {
		case comment:
			above = append(above, strings.TrimPrefix(text, " "))
		case m == nil: // a blank line: what stood above it was not about a key
			above = nil
		case m[1] == "":
			b.WriteString("\n### " + m[2] + "\n\n" + explain(above))
			above = nil
		default:
			value := strings.TrimSpace(m[3])
			tag := "`" + m[2] + "`"
			if value != "" && value != `""` {
				tag += " (default `" + value + "`)"
			}
			b.WriteString("\n" + tag + "\n: " + strings.TrimSpace(explain(above)) + "\n")
			above = nil
		}
	}
	return b.String()
}

// explain makes text of comments. Indented lines are entries, a word and what it
// means, or examples.
func explain(lines []string) string {
	var b strings.Builder
	in := false // an entry
	for i, l := range lines {
		m := entryOf.FindStringSubmatch(l)
		if m != nil || in && strings.HasPrefix(l, "    ") {
			text := strings.TrimSpace(l)
			if m != nil {
				text = "`" + m[1] + "`: " + m[2]
			}
			in = true
			switch next := append(lines, "")[i+1]; {
			case entryOf.MatchString(next):
				text += ";"
			case !strings.HasPrefix(next, "    "):
				text += "."
				in = false
			}
			b.WriteString(text + "\n")
			continue
		}
		switch {
		case strings.HasPrefix(l, "  "):
			b.WriteString("    " + strings.TrimPrefix(l, "  ") + "\n")
		case strings.TrimSpace(l) == "":
			b.WriteString("\n")
		default:
			if m := choice.FindString(l); m != "" && len(strings.Fields(m)) < 4 {
				l = "`" + strings.TrimSuffix(m, ": ") + "`: " + l[len(m):]
			}
			b.WriteString(l + "\n")
		}
	}
	return b.String()
}
