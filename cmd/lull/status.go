package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	bus "github.com/lull/lull/dbus"
)

func (a *app) statusCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "status [APP]",
		Short: "Show how things stand, or all about one application",
		Example: `  lull status
  lull status org.example.notes`,
		Args: args(0, 1),
		RunE: func(cmd *cobra.Command, names []string) error {
			return a.ask(cmd.Context(), func(ctx context.Context, ag *agent) error {
				s, err := ag.snapshot(ctx)
				if err != nil {
					return err
				}
				if len(names) == 1 {
					return a.packageStatus(ctx, ag, s, names[0])
				}
				return a.status(ctx, ag, s)
			})
		},
		ValidArgsFunction: a.completeOneInstance,
	}
}

type statusJSON struct {
	document
	Agent          string           `json:"agent"`
	Tracker        string           `json:"tracker"`
	TrackerEvents  string           `json:"tracker-events"`
	Root           string           `json:"root"`
	RunDir         string           `json:"run-dir"`
	Repositories   []repositoryJSON `json:"repositories"`
	LastCheck      *time.Time       `json:"last-check"`
	LastCheckError string           `json:"last-check-error,omitempty"`
	PolicyError    string           `json:"policy-error,omitempty"`
	Packages       int              `json:"packages"`
	Running        int              `json:"running"`
	Refreshes      []refreshJSON    `json:"refreshes"`
	UsedBytes      uint64           `json:"used-bytes"`
	FreeBytes      uint64           `json:"free-bytes"`
}

type repositoryJSON struct {
	Name string `json:"name"`
	URL  string `json:"url"`
}

func (a *app) status(ctx context.Context, ag *agent, s *snapshot) error {
	m, err := ag.manager.Properties(ctx)
	if err != nil {
		return err
	}
	space, err := ag.space.Properties(ctx)
	if err != nil {
		return err
	}
	running, waiting, working := 0, 0, 0
	for _, p := range s.packages {
		if p.Running {
			running++
		}
	}
	doc := statusJSON{
		document: one, Agent: m.Version, Tracker: m.Tracker, TrackerEvents: m.TrackerEvents, Root: m.Root, RunDir: m.RunDir,
		Repositories: []repositoryJSON{}, LastCheck: stamp(m.LastCheck), LastCheckError: m.LastCheckError, PolicyError: m.PolicyError,
		Packages: len(s.packages), Running: running, Refreshes: []refreshJSON{}, UsedBytes: space.Used, FreeBytes: space.Free,
	}
	var names []string
	for _, r := range m.Repositories {
		doc.Repositories = append(doc.Repositories, repositoryJSON(r))
		names = append(names, r.Name)
	}
	for _, r := range s.refreshes {
		switch {
		case over(r.State):
			continue
		case r.State == "waiting":
			waiting++
		default:
			working++
		}
		doc.Refreshes = append(doc.Refreshes, toRefreshJSON(r))
	}
	if a.json {
		return a.writeJSON(doc)
	}
	checked := ago(fromBus(m.LastCheck), a.now())
	if m.LastCheckError != "" {
		checked += "; since then: " + m.LastCheckError
	}
	refreshes := "none"
	switch {
	case waiting > 0 && working > 0:
		refreshes = fmt.Sprintf("%d at work, %d waiting; see `lull pending`", working, waiting)
	case waiting > 0:
		refreshes = fmt.Sprintf("%d waiting; see `lull pending`", waiting)
	case working > 0:
		refreshes = fmt.Sprintf("%d at work", working)
	}
	pairs := [][2]string{
		{"Applications", fmt.Sprintf("%d installed, %d running", len(s.packages), running)},
		{"Refreshes", refreshes},
	}
	pairs = append(pairs, a.waitingFields(ctx, ag, s)...)
	pairs = append(pairs, [2]string{"System", ag.systemText(ctx)})
	if m.PolicyError != "" {
		pairs = append(pairs, [2]string{"Policy", "refused, the one before holds: " + m.PolicyError})
	}
	return a.fields(append(pairs, [][2]string{
		{"Last check", checked},
		{"Repositories", either(strings.Join(names, ", "), "none; `lull repo add` makes one known")},
		{"Disk", fmt.Sprintf("%s used, %s free", size(space.Used), size(space.Free))},
		{"Machine", machineText(m)},
		{"Tracking", either(m.Tracker, "none") + ", " + either(m.TrackerEvents, "no events")},
		{"Agent", "lulld " + m.Version + ", store in " + m.Root},
	}...))
}

// maxWaiting is how many waiting refreshes the overview shows one by one.
const maxWaiting = 5

// waitingFields shows whom the waiting refreshes wait for, and until when.
func (a *app) waitingFields(ctx context.Context, ag *agent, s *snapshot) (pairs [][2]string) {
	var at map[string]string
	more := 0
	for _, path := range slices.Sorted(maps.Keys(s.refreshes)) {
		r := s.refreshes[path]
		if r.State != "waiting" {
			continue
		}
		if len(pairs) == 2*maxWaiting {
			more++
			continue
		}
		if at == nil {
			at = ag.atDeadlines(ctx)
		}
		pairs = append(pairs,
			[2]string{"Waiting", fmt.Sprintf("%s %s → %s for %s", r.Instance, either(r.FromVersion, "?"), either(r.ToVersion, "?"), waitsShort(r))},
			[2]string{"", latestWords(r.Step, r.Conditions, len(r.Waiting), r.Deadline, at[r.ID], a.now())})
	}
	if more > 0 {
		pairs = append(pairs, [2]string{"", fmt.Sprintf("and %d more", more)})
	}
	return pairs
}

// packageStatus shows all about one instance.
func (a *app) packageStatus(ctx context.Context, ag *agent, s *snapshot, instance string) error {
	p, err := s.find(instance)
	if err != nil {
		return err
	}
	if a.json {
		return a.writeJSON(struct {
			document
			Package packageJSON `json:"package"`
		}{one, s.json(p, a.now())})
	}
	title := p.Title
	if title == "" || title == p.Instance {
		title = p.Name
	}
	pairs := [][2]string{
		{"Application", strings.TrimSuffix(title+" ("+p.Instance+")", " ("+title+")")},
		{"Summary", p.Summary},
		{"Version", fmt.Sprintf("%s, revision %d", p.Version, p.Revision)},
		{"From", strings.TrimPrefix(p.Repository+", channel "+p.Channel, ", ")},
		{"Package", p.Hash},
	}
	if p.Running {
		pairs = append(pairs, [2]string{"Running", either(who(p.Processes), "yes")})
	} else {
		pairs = append(pairs, [2]string{"Running", "no"})
	}
	for _, v := range p.Services {
		pairs = append(pairs, [2]string{"Service", v.Name + " is " + v.State})
	}
	for _, h := range p.Holds {
		if fromBus(h.Until).After(a.now()) {
			pairs = append(pairs, [2]string{"Held", holdText(h.Until, h.Owner, h.Reason, a.now())})
		}
	}
	if r, ok := s.refreshes[p.Refresh]; ok && !over(r.State) {
		pairs = append(pairs, a.refreshFields(ctx, ag, r)...)
	}
	for i, r := range p.Revisions {
		label := "Revisions"
		if i > 0 {
			label = ""
		}
		text := fmt.Sprintf("%d  %s  %s", r.Revision, r.Version, r.State)
		if r.Since != 0 {
			text += ", " + ago(fromBus(r.Since), a.now())
		}
		pairs = append(pairs, [2]string{label, text})
	}
	return a.fields(pairs)
}

// holdText says until when, by whom and why.
func holdText(until uint64, by, reason string, now time.Time) string {
	text := "until " + day(fromBus(until), now) + " by " + either(by, "somebody")
	if reason != "" {
		text += ": " + reason
	}
	return text
}

func (a *app) refreshFields(ctx context.Context, ag *agent, r bus.RefreshProperties) [][2]string {
	label := map[string]string{"remove": "Removal", "revert": "Revert", "install": "Install"}[r.Kind]
	label = either(label, "Refresh")
	text := stepText(r)
	if r.ToVersion != "" && r.Kind != "remove" {
		text = "to " + r.ToVersion + ": " + text
	}
	pairs := [][2]string{{label, text}}
	if r.State == "waiting" {
		pairs = append(pairs,
			[2]string{"Waits for", waitsFor(r)},
			[2]string{"At the latest", latestWords(r.Step, r.Conditions, len(r.Waiting), r.Deadline, ag.atDeadlines(ctx)[r.ID], a.now())})
	}
	return append(pairs, [2]string{"What is new", r.Notes})
}

// elsewhere says what a refresh waits for if it is no process.
func elsewhere(r bus.RefreshProperties) string {
	if len(r.Together) > 0 {
		return list(r.Together) + ", with which it goes together"
	}
	return "the end of a hold"
}
