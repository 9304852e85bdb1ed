package main

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

func (a *app) whyCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "why HASH|PATH|APP",
		Short: "Explain what keeps a package",
		Long: `Shows why a package or a file is kept, as chains from what protects it to the
thing itself, with the process where there is one. Of an application it also
shows what its refresh waits for.`,
		Example: `  lull why 3fb2                        the first four digits of a hash, or more
  lull why /var/lib/lull/packages/3fb2…/bin/notes`,
		Args:              args(1, 1),
		ValidArgsFunction: a.completeOneInstance,
		RunE: func(cmd *cobra.Command, what []string) error {
			thing := what[0]
			if strings.Contains(thing, "/") {
				abs, err := filepath.Abs(thing)
				if err != nil {
					return err
				}
				thing = abs
			}
			return a.ask(cmd.Context(), func(ctx context.Context, ag *agent) error {
				s, err := ag.overview(ctx)
				if err == nil {
					thing, err = s.named(thing)
				}
				if err != nil {
					return err
				}
				chains, err := ag.manager.Why(ctx, thing)
				if err != nil {
					return err
				}
				if err := a.why(output.OneLine(what[0]), chains); err != nil || a.JSON {
					return err
				}
				return a.whyNot(s, thing)
			})
		},
	}
}

// whyNot describes why an application is not refreshed yet.
func (a *app) whyNot(s *snapshot, instance string) error {
	for _, r := range s.refreshes {
		if r.Instance == instance && r.State == "waiting" {
			if err := a.Say(output.T("not %s yet: it waits for %s", output.Either(r.ToVersion, output.T("changed")), waitsFor(r))); err != nil {
				return err
			}
		}
	}
	return nil
}

type chainJSON struct {
	Index   string `json:"index"`
	Package string `json:"package"`
	Through string `json:"through,omitempty"`
	Holder  string `json:"holder,omitempty"`
	PID     uint32 `json:"pid,omitempty"`
}

// indexWords explain the indexes whose name is not enough.
var indexWords = map[string]string{
	"base":     output.Mark("part of the system"),
	"cache":    output.Mark("kept for use offline"),
	"retained": output.Mark("retained by the system updater"),
	"writing":  output.Mark("being downloaded"),
	"open":     output.Mark("in use"),
}

// indexNames are the indexes, by name.
var indexNames = []string{
	output.Mark("installed"), output.Mark("base"), output.Mark("cache"), output.Mark("retained"), output.Mark("writing"), output.Mark("open"),
	output.Mark("running"),
}

// indexName returns the name of an index in the language.
func indexName(index string) string {
	if slices.Contains(indexNames, index) {
		return output.Marked(index)
	}
	return index
}

// holderMessage is what the agent calls a kind of holder of packages, and the message for it.
type holderMessage struct {
	form    *regexp.Regexp
	message string
}

// holders are all kinds of holders.
var holders = sync.OnceValue(func() []holderMessage {
	return []holderMessage{
		{regexp.MustCompile(`^(\S+) revision (\d+)$`), output.Mark("%[1]s revision %[2]s")},
		{regexp.MustCompile(`^run of (\S+)$`), output.Mark("a run of %[1]s")},
		{regexp.MustCompile(`^ephemeral run of (\S+), user (.*)$`), output.Mark("a run of %[1]s without installation by user %[2]s")},
		{regexp.MustCompile(`^application (\S+)$`), output.Mark("the application %[1]s")},
		{regexp.MustCompile(`^stray process (.*) of user (.*), executing (.*)$`), output.Mark("the process %[1]s of user %[2]s, outside of any run, executing %[3]s")},
	}
})

// holderText returns what keeps a package, in the language. Other holders than those of the
// agent remain unchanged.
func holderText(holder string) string {
	for _, h := range holders() {
		if parts := h.form.FindStringSubmatch(holder); parts != nil {
			var args []any
			for _, p := range parts[1:] {
				args = append(args, p)
			}
			return fmt.Sprintf(output.Marked(h.message), args...)
		}
	}
	return holder
}

func (a *app) why(what string, chains []bus.Chain) error {
	if a.JSON {
		doc := whyJSON{output.One, []chainJSON{}}
		for _, c := range chains {
			doc.Chains = append(doc.Chains, chainJSON(c))
		}
		return a.WriteJSON(doc)
	}
	if len(chains) == 0 {
		return a.Say(output.T("nothing keeps %s: it goes with the next `lull gc`", what))
	}
	for _, c := range chains {
		text := indexName(c.Index)
		if words := indexWords[c.Index]; words != "" {
			text += ": " + output.Marked(words)
		}
		text += output.T(" → package %s", output.Short(c.Package))
		if c.Through != "" && c.Through != c.Package {
			text += " → " + output.Short(c.Through)
		}
		if c.Holder != "" {
			text += output.T(", by %s", holderText(c.Holder))
		}
		if c.PID != 0 {
			text += output.T(" (PID %d)", c.PID)
		}
		if err := a.Say(text); err != nil {
			return err
		}
	}
	return nil
}

// whyJSON is what `lull why` writes.
type whyJSON struct {
	output.Document
	Chains []chainJSON `json:"chains"`
}
