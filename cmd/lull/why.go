package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	bus "github.com/lull/lull/dbus"
)

func (a *app) whyCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "why HASH|PATH|APP",
		Short: "Say why something is kept",
		Long: `Says why a package or a file is kept, as chains from what protects it to the
thing itself, with the process where there is one. Of an application it also
says what its refresh waits for.`,
		Example: `  lull why 3fb2a1c09d4e5f60
  lull why /var/lib/lull/packages/3fb2…/bin/notes`,
		Args: args(1, 1),
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
				chains, err := ag.manager.Why(ctx, thing)
				if err != nil {
					return err
				}
				if err := a.why(what[0], chains); err != nil || a.json {
					return err
				}
				return a.whyNot(ctx, ag, what[0])
			})
		},
	}
}

// whyNot says why an application is not refreshed yet.
func (a *app) whyNot(ctx context.Context, ag *agent, instance string) error {
	s, err := ag.snapshot(ctx)
	if err != nil {
		return err
	}
	for _, r := range s.refreshes {
		if r.Instance == instance && r.State == "waiting" {
			if err := a.say(fmt.Sprintf("not %s yet: it waits for %s", either(r.ToVersion, "changed"), waitsFor(r))); err != nil {
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

// indexWords say what it means to be in an index whose name does not.
var indexWords = map[string]string{
	"base":     "part of the system",
	"cache":    "kept for use offline",
	"retained": "retained by the system updater",
	"writing":  "being downloaded",
	"open":     "in use",
}

func (a *app) why(what string, chains []bus.Chain) error {
	if a.json {
		doc := struct {
			document
			Chains []chainJSON `json:"chains"`
		}{one, []chainJSON{}}
		for _, c := range chains {
			doc.Chains = append(doc.Chains, chainJSON(c))
		}
		return a.writeJSON(doc)
	}
	if len(chains) == 0 {
		return a.say(fmt.Sprintf("nothing keeps %s: it goes with the next `lull gc`", what))
	}
	for _, c := range chains {
		text := c.Index
		if words := indexWords[c.Index]; words != "" {
			text += ": " + words
		}
		text += " → package " + short(c.Package)
		if c.Through != "" && c.Through != c.Package {
			text += " → " + short(c.Through)
		}
		if c.Holder != "" {
			text += ", by " + c.Holder
		}
		if c.PID != 0 {
			text += fmt.Sprintf(" (PID %d)", c.PID)
		}
		if err := a.say(text); err != nil {
			return err
		}
	}
	return nil
}
