package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

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
				s, err := ag.snapshot(ctx)
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
		Holds: []holdJSON{},
	}
	for _, h := range p.Holds {
		if fromBus(h.Until).After(now) {
			j.Holds = append(j.Holds, holdJSON{h.UID, h.Owner, stamp(h.Since), stamp(h.Until), h.Administrator, h.Reason})
		}
	}
	for _, v := range p.Services {
		j.Services = append(j.Services, serviceJSON(v))
	}
	for _, r := range p.Revisions {
		j.Revisions = append(j.Revisions, revisionJSON{r.Revision, r.Hash, r.Version, stamp(r.Since), r.State})
	}
	if r, ok := s.refreshes[p.Refresh]; ok {
		rj := toRefreshJSON(r)
		j.Refresh = &rj
	}
	if held(p, now) {
		j.Held = &heldPackageJSON{stamp(p.HeldUntil), p.HeldBy, p.HeldReason}
	}
	return j
}

func held(p bus.PackageProperties, now time.Time) bool {
	return p.HeldUntil != 0 && fromBus(p.HeldUntil).After(now)
}

func (a *app) list(s *snapshot) error {
	if a.json {
		doc := struct {
			document
			Packages []packageJSON `json:"packages"`
		}{one, []packageJSON{}}
		for _, p := range s.packages {
			doc.Packages = append(doc.Packages, s.json(p, a.now()))
		}
		return a.writeJSON(doc)
	}
	if len(s.packages) == 0 {
		return a.say("nothing is installed yet; `lull install NAME` installs an application")
	}
	rows := make([][]string, len(s.packages))
	for i, p := range s.packages {
		rows[i] = []string{p.Instance, p.Version, fmt.Sprint(p.Revision), either(p.Channel, "-"), s.state(p, a.now())}
	}
	return a.table([]column{
		{title: "APPLICATION", least: 16}, {title: "VERSION", least: 7}, {title: "REV", right: true},
		{title: "CHANNEL", least: 7}, {title: "STATE", least: 12},
	}, rows)
}

// state says in a few words what is to be known of an instance.
func (s *snapshot) state(p bus.PackageProperties, now time.Time) string {
	r, under := s.refreshes[p.Refresh]
	switch {
	case under && r.State == "waiting" && r.Kind == "remove":
		return "running, will be removed"
	case under && r.State == "waiting" && r.Kind == "refresh" && held(p, now):
		return r.ToVersion + " waits, held until " + day(fromBus(p.HeldUntil), now)
	case under && r.State == "waiting" && p.Running:
		return "running, " + r.ToVersion + " waits"
	case under && r.State == "waiting":
		return r.ToVersion + " waits"
	case under && !over(r.State):
		return stepText(r)
	case held(p, now) && p.Running:
		return "running, held until " + day(fromBus(p.HeldUntil), now)
	case held(p, now):
		return "held until " + day(fromBus(p.HeldUntil), now)
	case p.Running:
		return "running"
	}
	for _, v := range p.Services {
		if v.State == "failed" {
			return "service " + v.Name + " has failed"
		}
	}
	return "-"
}
