package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

func (a *app) pendingCmd() *cobra.Command {
	var self bool
	cmd := &cobra.Command{
		Use:   "pending",
		Short: "Show what waits, and for what",
		Long: `Shows the refreshes that wait until an application is closed: whose processes
they wait for, and what happens when. Root sees all, others see those of the
applications that they run. All users see those that are held, those that wait
for what policy requires (mains power, an unmetered network, an idle computer, a
maintenance window), and those whose large download begins in a moment.

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
				s, err := ag.detailed(ctx, notable)
				if err != nil {
					return err
				}
				return a.pending(pending, s.stuck(), s.undone())
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

	Begins *time.Time `json:"download-begins,omitempty"` // of a large download that is announced first
	Size   uint64     `json:"bytes-to-fetch,omitempty"`  // by it
}

// stuck lists the refreshes that need intervention, by instance.
func (s *snapshot) stuck() (list []bus.RefreshProperties) {
	for _, r := range s.refreshes {
		if r.State == output.Stuck {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(p, q bus.RefreshProperties) int { return strings.Compare(p.Instance, q.Instance) })
	return list
}

// undone lists the instances whose last update was undone.
func (s *snapshot) undone() (list []bus.PackageProperties) {
	for _, p := range s.packages {
		if p.UndoneVersion != "" {
			list = append(list, p)
		}
	}
	return list
}

// indented indents fields below a line of their own.
func indented(pairs [][2]string) (out [][2]string) {
	for _, p := range pairs {
		if p[0] != "" { // else it continues the one above
			p[0] = "  " + output.Lower(p[0])
		}
		out = append(out, p)
	}
	return out
}

// stuckFields describes why a refresh is stuck and how to proceed.
func (a *app) stuckFields(r bus.RefreshProperties) [][2]string {
	inUse := output.T("the version before is in use until then")
	if r.FromVersion != "" {
		inUse = output.T("version %s is in use until then", r.FromVersion)
	}
	return [][2]string{
		{"Stuck", a.Foreign(r.ErrorText)},
		{"", a.Foreign(r.ErrorHint)},
		{"", inUse},
	}
}

func (a *app) pending(pending []bus.PendingRefresh, stuck []bus.RefreshProperties, undone []bus.PackageProperties) error {
	if a.JSON {
		doc := pendingsJSON{output.One, []pendingJSON{}, []refreshJSON{}, []undoneJSON{}}
		for _, p := range undone {
			doc.Undone = append(doc.Undone, *toUndoneJSON(p))
		}
		for _, r := range stuck {
			doc.Stuck = append(doc.Stuck, toRefreshJSON(r))
		}
		for _, p := range pending {
			var held *heldPackageJSON
			if p.HeldUntil != 0 {
				held = &heldPackageJSON{output.Stamp(p.HeldUntil), p.HeldBy, p.HeldReason}
			}
			doc.Pending = append(doc.Pending, pendingJSON{
				p.ID, p.Instance, p.Name, p.FromVersion, p.ToVersion, p.FromRevision, p.ToRevision, p.Urgency, p.Notes,
				output.Stamp(p.Since), output.Stamp(p.Deadline), p.AtDeadline, processesJSON(p.Processes), held, p.Conditions, output.Stamp(p.DownloadBegins), p.DownloadSize,
			})
		}
		return a.WriteJSON(doc)
	}
	if len(pending)+len(stuck)+len(undone) == 0 {
		return a.Say(output.T("no pending refreshes"))
	}
	for i, r := range stuck {
		if i > 0 {
			if err := a.Say(""); err != nil {
				return err
			}
		}
		if err := a.Say(fmt.Sprintf("%s  %s → %s", r.Instance, output.Either(r.FromVersion, "?"), output.Either(r.ToVersion, "?"))); err != nil {
			return err
		}
		if err := a.Fields(indented(a.stuckFields(r))); err != nil {
			return err
		}
	}
	for i, p := range undone {
		if i+len(stuck) > 0 {
			if err := a.Say(""); err != nil {
				return err
			}
		}
		if err := a.Say(fmt.Sprintf("%s  %s → %s", p.Instance, p.Version, p.UndoneVersion)); err != nil {
			return err
		}
		if err := a.Fields(indented(a.undoneFields(p))); err != nil {
			return err
		}
	}
	for i, p := range pending {
		if i+len(stuck)+len(undone) > 0 {
			if err := a.Say(""); err != nil {
				return err
			}
		}
		head := fmt.Sprintf("%s  %s → %s", p.Instance, output.Either(p.FromVersion, "?"), output.Either(p.ToVersion, "?"))
		if p.Urgency != "" && p.Urgency != "medium" {
			head += "  (" + p.Urgency + ")"
		}
		if err := a.Say(head); err != nil {
			return err
		}
		since := ""
		if p.Since != 0 {
			since = output.Ago(output.FromBus(p.Since), a.Now())
		}
		waits, happens, held := output.Either(waitsForThese(p.Conditions, p.Processes), output.T("its turn")), output.T("when it is closed, or %s", deadlineWords(p.Deadline, p.AtDeadline, a.Now())), ""
		begins := ""
		if len(p.Conditions) > 0 {
			step := ""
			if p.Since == 0 { // its window begins when the package has been downloaded
				step = "fetch"
			}
			happens = output.Mark("when that is so, or %s")
			if len(p.Processes) > 0 {
				happens = output.Mark("when that is so and it is closed, or %s")
			}
			happens = fmt.Sprintf(output.Marked(happens), latestWords(step, p.Conditions, len(p.Processes), p.Deadline, p.AtDeadline, a.Now()))
		}
		if p.DownloadBegins != 0 {
			waits, happens, begins = downloadText(p.DownloadSize), "", beginsText(p.Instance, p.DownloadBegins, a.Now())
		}
		if p.HeldUntil != 0 {
			waits, happens, held = output.T("the end of a hold"), "", holdText(p.HeldUntil, p.HeldBy, p.HeldReason, a.Now())
		}
		err := a.Fields([][2]string{
			{"  waits for", waits},
			{"  held", held},
			{"  since", since},
			{"  begins", begins},
			{"  happens", happens},
			{"  what is new", p.Notes},
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// pendingsJSON is what `lull pending` writes.
type pendingsJSON struct {
	output.Document
	Pending []pendingJSON `json:"pending"`
	Stuck   []refreshJSON `json:"stuck"`
	Undone  []undoneJSON  `json:"undone"`
}
