package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/lull/lull/cmd/lull/output"
	"github.com/lull/lull/e2e/rig"
)

// TestRightsOfCommands: docs/rights.md has each command in one row, with its effect on other
// users.
func TestRightsOfCommands(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(rig.Module(), "docs", "rights.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(b), "\n## Commands\n")
	if !ok {
		t.Fatal("docs/rights.md has no section on commands")
	}
	rows := map[string]int{}
	quoted := regexp.MustCompile("`([^`]+)`")
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 3 {
			continue
		}
		for _, m := range quoted.FindAllStringSubmatch(cells[0], -1) {
			rows[m[1]]++
			if strings.TrimSpace(cells[2]) == "" {
				t.Errorf("%s: got no effect on other users, want one, or \"nothing\"", m[1])
			}
		}
	}
	commands := map[string]bool{}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Runnable() && !c.Hidden && !c.HasAvailableSubCommands() && c.Name() != "help" {
			name := strings.TrimPrefix(c.CommandPath(), "lull ")
			commands[name] = true
			if rows[name] != 1 {
				t.Errorf("%s: got %d rows in docs/rights.md, want one", name, rows[name])
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk((&app{Printer: &output.Printer{}}).command())
	for name := range rows {
		if !commands[name] {
			t.Errorf("docs/rights.md has a row for %s, which is no command", name)
		}
	}
}
