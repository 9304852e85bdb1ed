package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// command is one as `lull commands --json` tells it.
type command struct {
	Name     string `json:"name"`
	Usage    string `json:"usage"`
	Group    string `json:"group"`
	Summary  string `json:"summary"`
	Text     string `json:"text"`
	Examples string `json:"examples"`
	Flags    []struct {
		Name      string `json:"name"`
		Shorthand string `json:"shorthand"`
		Argument  string `json:"argument"`
		Text      string `json:"text"`
		Default   string `json:"default"`
	} `json:"flags"`
	Commands []command `json:"commands"`
}

// commands makes the pages of lull and of all its commands. The other text
// of lull(1) is in docs/man/lull.inc.
func (m *maker) commands(bin string) error {
	out, err := exec.Command(filepath.Join(bin, "lull"), "commands", "--json").Output()
	var tree struct {
		Command command `json:"command"`
	}
	if err == nil {
		err = json.Unmarshal(out, &tree)
	}
	if err != nil {
		return fmt.Errorf("cannot ask lull for its commands: %w", err)
	}
	more, err := os.ReadFile(filepath.Join(m.root, "docs/man/lull.inc"))
	if err != nil {
		return err
	}
	return m.command(tree.Command, string(more))
}

func (m *maker) command(c command, more string) error {
	err := m.write(pageOf(c.Name)+".1", strings.ToLower(c.Summary[:1])+c.Summary[1:], func(p *page) {
		p.heading("SYNOPSIS")
		usage := c.Usage
		if len(c.Commands) > 0 {
			usage = c.Name + " COMMAND [ARGUMENTS...]"
		}
		p.line(`\fB` + escape(c.Name) + `\fR` + escape(strings.TrimPrefix(usage, c.Name)))
		p.heading("DESCRIPTION")
		if c.Text == "" {
			p.text(c.Summary + ".")
		} else {
			p.markdown(examples(c.Text))
		}
		if len(c.Commands) > 0 {
			p.heading("COMMANDS")
			group := ""
			for _, sub := range c.Commands {
				if sub.Group != group {
					p.subheading(sub.Group)
					group = sub.Group
				}
				p.item(pageOf(sub.Name)+"(1)", sub.Summary+".")
			}
		}
		if len(c.Flags) > 0 {
			p.heading("OPTIONS")
			for _, f := range c.Flags {
				tag := "`--" + f.Name + "`"
				if f.Shorthand != "" {
					tag = "`-" + f.Shorthand + "`, " + tag
				}
				if f.Argument != "" {
					tag += "=*" + f.Argument + "*"
				}
				text := strings.ToUpper(f.Text[:1]) + f.Text[1:]
				if f.Default != "" {
					text += " (default " + f.Default + ")"
				}
				p.item(tag, text+".")
			}
		}
		if c.Examples != "" {
			p.heading("EXAMPLES")
			p.code(strings.Split(strings.ReplaceAll("\n"+c.Examples, "\n  ", "\n")[1:], "\n"))
		}
		if more != "" {
			p.markdown(more)
			return
		}
		p.heading("SEE ALSO")
		see := []string{"lull(1)", "lulld(8)"}
		if words := strings.Fields(c.Name); len(words) > 2 {
			see = append([]string{pageOf(strings.Join(words[:2], " ")) + "(1)"}, see...)
		}
		p.text(strings.Join(see, ", ") + ". lull(1) describes the options of all commands.")
	})
	for _, sub := range c.Commands {
		if err == nil {
			err = m.command(sub, "")
		}
	}
	return err
}

// pageOf names the page of a command.
func pageOf(name string) string { return strings.ReplaceAll(name, " ", "-") }

// examples indents the examples within a help text as Markdown wants it.
func examples(text string) string {
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, "  ") {
			lines[i] = "  " + l
		}
	}
	return strings.Join(lines, "\n")
}
