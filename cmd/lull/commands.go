package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lull/lull/cmd/lull/output"
)

// commandJSON is one command, as the manual is made of.
type commandJSON struct {
	Name     string        `json:"name"` // with those above it: "lull repo add"
	Usage    string        `json:"usage"`
	Group    string        `json:"group,omitempty"`
	Summary  string        `json:"summary"`
	Text     string        `json:"text,omitempty"`
	Examples string        `json:"examples,omitempty"`
	Flags    []flagJSON    `json:"flags,omitempty"` // its own
	Commands []commandJSON `json:"commands,omitempty"`
}

type flagJSON struct {
	Name      string `json:"name"`
	Shorthand string `json:"shorthand,omitempty"`
	Argument  string `json:"argument,omitempty"`
	Text      string `json:"text"`
	Default   string `json:"default,omitempty"`
}

// commandsCmd lists the commands, for the generation of the manual pages.
func (a *app) commandsCmd() *cobra.Command {
	return &cobra.Command{
		Use:    "commands",
		Short:  "List all commands",
		Args:   args(0, 0),
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			tree := describe(cmd.Root())
			if a.JSON {
				return a.WriteJSON(commandsJSON{output.One, tree})
			}
			_, err := fmt.Fprintln(a.Stdout, strings.Join(names(tree), "\n"))
			return output.NotWritten(err)
		},
	}
}

func names(c commandJSON) []string {
	all := []string{fmt.Sprintf("%-24s  %s", c.Name, output.Marked(c.Summary))}
	for _, sub := range c.Commands {
		all = append(all, names(sub)...)
	}
	return all
}

func describe(c *cobra.Command) commandJSON {
	d := commandJSON{Name: c.CommandPath(), Usage: c.UseLine(), Summary: c.Short, Text: c.Long, Examples: c.Example}
	if p := c.Parent(); p != nil {
		for _, g := range p.Groups() {
			if g.ID == c.GroupID {
				d.Group = strings.TrimSuffix(g.Title, ":")
			}
		}
	}
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		argument, text := pflag.UnquoteUsage(f)
		flag := flagJSON{Name: f.Name, Shorthand: f.Shorthand, Argument: argument, Text: text}
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" && c.Parent() != nil {
			flag.Default = f.DefValue
		}
		d.Flags = append(d.Flags, flag)
	})
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() && sub.Name() != "help" {
			d.Commands = append(d.Commands, describe(sub))
		}
	}
	return d
}

// commandsJSON is what `lull commands` writes.
type commandsJSON struct {
	output.Document
	Command commandJSON `json:"command"`
}
