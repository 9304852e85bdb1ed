package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

func (a *app) listCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List what is installed",
		Long:  "Lists the applications that are installed, and what happens to them.",
		Args:  args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(cmd.Context(), func(ctx context.Context, ag *agent) error {
				read := ag.snapshot // the JSON document has all properties
				if !a.JSON {
					read = func(ctx context.Context) (*snapshot, error) { return ag.detailed(ctx, notable) } // the owners of holds
				}
				s, err := read(ctx)
				if err != nil {
					return err
				}
				return a.list(s)
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

// packageJSON is an installed instance in JSON.
type packageJSON struct {
	Instance   string           `json:"instance"`
	Name       string           `json:"name"`
	Title      string           `json:"title"`
	Summary    string           `json:"summary"`
	Version    string           `json:"version"`
	Revision   uint32           `json:"revision"`
	Hash       string           `json:"hash"`
	Repository string           `json:"repository"`
	Channel    string           `json:"channel"`
	Apps       []string         `json:"apps"`
	Services   []serviceJSON    `json:"services"`
	Revisions  []revisionJSON   `json:"revisions"`
	Running    bool             `json:"running"`
	Processes  []processJSON    `json:"processes"`
	Refresh    *refreshJSON     `json:"refresh,omitempty"`
	Held       *heldPackageJSON `json:"held,omitempty"` // the longest of Holds
	Holds      []holdJSON       `json:"holds"`
	Undone     *undoneJSON      `json:"undone,omitempty"`
}

// undoneJSON is an update that was undone and is tried again.
type undoneJSON struct {
	Instance string     `json:"instance"`
	Version  string     `json:"version"`
	Reason   string     `json:"reason"`
	At       *time.Time `json:"at,omitempty"`
	NextTry  *time.Time `json:"next-try,omitempty"`
}

func toUndoneJSON(p bus.PackageProperties) *undoneJSON {
	if p.UndoneVersion == "" {
		return nil
	}
	return &undoneJSON{p.Instance, p.UndoneVersion, p.UndoneReason, output.Stamp(p.UndoneAt), output.Stamp(p.NextTry)}
}

type serviceJSON struct {
	Name  string `json:"name"`
	State string `json:"state"`
}

type revisionJSON struct {
	Revision uint32     `json:"revision"`
	Hash     string     `json:"hash"`
	Version  string     `json:"version"`
	Since    *time.Time `json:"since,omitempty"`
	State    string     `json:"state"`
}

type heldPackageJSON struct {
	Until  *time.Time `json:"until,omitempty"`
	By     string     `json:"by"`
	Reason string     `json:"reason,omitempty"`
}

type holdJSON struct {
	UID           uint32     `json:"uid"`
	By            string     `json:"by"`
	Since         *time.Time `json:"since,omitempty"`
	Until         *time.Time `json:"until,omitempty"`
	Administrator bool       `json:"administrator"`
	Reason        string     `json:"reason,omitempty"`
}

func (s *snapshot) json(p bus.PackageProperties, now time.Time) packageJSON {
	j := packageJSON{
		Instance: p.Instance, Name: p.Name, Title: p.Title, Summary: p.Summary, Version: p.Version, Revision: p.Revision,
		Hash: p.Hash, Repository: p.Repository, Channel: p.Channel, Apps: append([]string{}, p.Apps...),
		Services: []serviceJSON{}, Revisions: []revisionJSON{}, Running: p.Running, Processes: processesJSON(p.Processes),
		Holds: []holdJSON{}, Undone: toUndoneJSON(p),
	}
	for _, h := range p.Holds {
		if output.FromBus(h.Until).After(now) {
			j.Holds = append(j.Holds, holdJSON{h.UID, h.Owner, output.Stamp(h.Since), output.Stamp(h.Until), h.Administrator, h.Reason})
		}
	}
	for _, v := range p.Services {
		j.Services = append(j.Services, serviceJSON(v))
	}
	for _, r := range p.Revisions {
		j.Revisions = append(j.Revisions, revisionJSON{r.Revision, r.Hash, r.Version, output.Stamp(r.Since), r.State})
	}
	if r, ok := s.refreshes[p.Refresh]; ok {
		rj := toRefreshJSON(r)
		j.Refresh = &rj
	}
	if held(p, now) {
		j.Held = &heldPackageJSON{output.Stamp(p.HeldUntil), p.HeldBy, p.HeldReason}
	}
	return j
}

func held(p bus.PackageProperties, now time.Time) bool {
	return p.HeldUntil != 0 && output.FromBus(p.HeldUntil).After(now)
}

func (a *app) list(s *snapshot) error {
	if a.JSON {
		doc := listJSON{output.One, []packageJSON{}}
		for _, p := range s.packages {
			doc.Packages = append(doc.Packages, s.json(p, a.Now()))
		}
		return a.WriteJSON(doc)
	}
	if len(s.packages) == 0 {
		return a.Say(output.T("nothing is installed yet; `lull install NAME` installs an application"))
	}
	rows := make([][]string, len(s.packages))
	for i, p := range s.packages {
		rows[i] = []string{p.Instance, p.Version, fmt.Sprint(p.Revision), output.Either(p.Channel, "-"), s.state(p, a.Now())}
	}
	return a.Table([]output.Column{
		{Title: "APPLICATION", Least: 16}, {Title: "VERSION", Least: 7}, {Title: "REV", Right: true},
		{Title: "CHANNEL", Least: 7}, {Title: "STATE", Least: 12},
	}, rows)
}

// state describes the notable state of an instance in a few words.
func (s *snapshot) state(p bus.PackageProperties, now time.Time) string {
	r, under := s.refreshes[p.Refresh]
	for _, v := range p.Services {
		if v.State == "failed" && (!under || output.Over(r.State)) {
			return output.T("service %s has failed", v.Name)
		}
	}
	switch {
	case under && r.State == "waiting" && r.Kind == "remove":
		return output.T("running, will be removed")
	case under && r.State == "waiting" && r.Kind == "refresh" && held(p, now):
		return output.T("%[1]s waits, held until %[2]s by %[3]s", r.ToVersion, output.Day(output.FromBus(p.HeldUntil), now), output.Either(p.HeldBy, "?"))
	case under && r.State == "waiting" && p.Running:
		return output.T("running, %s waits", r.ToVersion)
	case under && r.State == "waiting":
		return output.T("%s waits", r.ToVersion)
	case under && r.State == output.Stuck:
		return output.T("stuck: see lull pending")
	case under && !output.Over(r.State):
		return output.StepText(r)
	case p.UndoneVersion != "":
		return output.T("%[1]s was undone, retried %[2]s", p.UndoneVersion, output.Day(output.FromBus(p.NextTry), now))
	case held(p, now) && p.Running:
		return output.T("running, held until %[1]s by %[2]s", output.Day(output.FromBus(p.HeldUntil), now), output.Either(p.HeldBy, "?"))
	case held(p, now):
		return output.T("held until %[1]s by %[2]s", output.Day(output.FromBus(p.HeldUntil), now), output.Either(p.HeldBy, "?"))
	case p.Running:
		return output.T("running")
	}
	return "-"
}

// listJSON is what `lull list` writes.
type listJSON struct {
	output.Document
	Packages []packageJSON `json:"packages"`
}
