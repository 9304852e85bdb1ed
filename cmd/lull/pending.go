package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	bus "github.com/lull/lull/dbus"
)

func (a *app) pendingCmd() *cobra.Command {
	var self bool
	cmd := &cobra.Command{
		Use:   "pending",
		Short: "Show what waits, and for what",
		Long: `Shows the refreshes that wait until an application is closed: whose processes
they wait for, and what happens when. Root sees all, others see those of the
applications that they run. Those that somebody holds, or that wait for what
policy requires (mains power, an unmetered network, nobody at work, a
maintenance window), are seen by everybody.

With --self, inside an application that lull has started, only what waits for
that application is shown.`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(cmd.Context(), func(ctx context.Context, ag *agent) error {
				pending, err := ag.manager.Pending(ctx)
				if err != nil {
					return err
				}
				if self {
					own, err := ag.self(ctx)
					if err != nil {
						return err
					}
					pending = slices.DeleteFunc(pending, func(p bus.PendingRefresh) bool { return p.Instance != own })
				}
				return a.pending(pending)
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&self, "self", false, "only what waits for the application in which this runs")
	return cmd
}

type pendingJSON struct {
	ID           string        `json:"id"`
	Instance     string        `json:"instance"`
	Name         string        `json:"name"`
	FromVersion  string        `json:"from-version"`
	ToVersion    string        `json:"to-version"`
	FromRevision uint32        `json:"from-revision"`
	ToRevision   uint32        `json:"to-revision"`
	Urgency      string        `json:"urgency"`
	Notes        string        `json:"notes,omitempty"`
	Since        *time.Time    `json:"since,omitempty"`
	Deadline     *time.Time    `json:"deadline,omitempty"`
	AtDeadline   string        `json:"at-deadline,omitempty"`
	Processes    []processJSON `json:"processes"`

	Held       *heldPackageJSON  `json:"held,omitempty"`
	Conditions map[string]string `json:"conditions,omitempty"`
}

func (a *app) pending(pending []bus.PendingRefresh) error {
	if a.json {
		doc := struct {
			document
			Pending []pendingJSON `json:"pending"`
		}{one, []pendingJSON{}}
		for _, p := range pending {
			var held *heldPackageJSON
			if p.HeldUntil != 0 {
				held = &heldPackageJSON{stamp(p.HeldUntil), p.HeldBy, p.HeldReason}
			}
			doc.Pending = append(doc.Pending, pendingJSON{
				p.ID, p.Instance, p.Name, p.FromVersion, p.ToVersion, p.FromRevision, p.ToRevision, p.Urgency, p.Notes,
				stamp(p.Since), stamp(p.Deadline), p.AtDeadline, processesJSON(p.Processes), held, p.Conditions,
			})
		}
		return a.writeJSON(doc)
	}
	if len(pending) == 0 {
		return a.say("nothing waits")
	}
	for i, p := range pending {
		if i > 0 {
			if err := a.say(""); err != nil {
				return err
			}
		}
		head := fmt.Sprintf("%s  %s → %s", p.Instance, either(p.FromVersion, "?"), either(p.ToVersion, "?"))
		if p.Urgency != "" && p.Urgency != "medium" {
			head += "  (" + p.Urgency + ")"
		}
		if err := a.say(head); err != nil {
			return err
		}
		since := ""
		if p.Since != 0 {
			since = ago(fromBus(p.Since), a.now())
		}
		waits, happens, held := either(waitsForThese(p.Conditions, p.Processes), "its turn"), "when it is closed, or "+deadlineWords(p.Deadline, p.AtDeadline, a.now()), ""
		if len(p.Conditions) > 0 {
			step := ""
			if p.Since == 0 { // its window begins when it is there
				step = "fetch"
			}
			happens = "when that is so, or "
			if len(p.Processes) > 0 {
				happens = "when that is so and it is closed, or "
			}
			happens += latestWords(step, p.Conditions, len(p.Processes), p.Deadline, p.AtDeadline, a.now())
		}
		if p.HeldUntil != 0 {
			waits, happens, held = "the end of a hold", "", holdText(p.HeldUntil, p.HeldBy, p.HeldReason, a.now())
		}
		err := a.fields([][2]string{
			{"  waits for", waits},
			{"  held", held},
			{"  since", since},
			{"  happens", happens},
			{"  what is new", p.Notes},
		})
		if err != nil {
			return err
		}
	}
	return nil
}
