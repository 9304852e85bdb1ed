package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

func (a *app) statusCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "status [APP]",
		Short: "Show system or application status",
		Example: `  lull status
  lull status org.example.notes`,
		Args: args(0, 1),
		RunE: func(cmd *cobra.Command, names []string) error {
			return a.ask(cmd.Context(), func(ctx context.Context, ag *agent) error {
				want := notable
				if len(names) == 1 {
					want = thatIs(names[0])
				}
				s, err := ag.detailed(ctx, want)
				if err != nil {
					return err
				}
				if len(names) == 1 {
					name, _, err := resolve(names[0], s.candidates())
					if err != nil {
						return err
					}
					return a.packageStatus(ctx, ag, s, name)
				}
				return a.status(ctx, ag, s)
			})
		},
		ValidArgsFunction: a.completeOneInstance,
	}
}

type statusJSON struct {
	output.Document
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
	Name     string     `json:"name"`
	URL      string     `json:"url"`
	Checking *time.Time `json:"checking-since,omitempty"`
	Read     *time.Time `json:"last-success,omitempty"`
	Failed   *time.Time `json:"last-failure,omitempty"`
	Error    string     `json:"error,omitempty"`
	LeftOut  bool       `json:"left-out,omitempty"`

	Mirrors []mirrorJSON `json:"mirrors,omitempty"`
}

// mirrorJSON is a mirror of a repository.
type mirrorJSON struct {
	URL    string     `json:"url"`
	Failed *time.Time `json:"last-failure,omitempty"` // since when it is passed over
	Behind bool       `json:"behind,omitempty"`
	Error  string     `json:"error,omitempty"`
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
		Document: output.One, Agent: m.Version, Tracker: m.Tracker, TrackerEvents: m.TrackerEvents, Root: m.Root, RunDir: m.RunDir,
		Repositories: []repositoryJSON{}, LastCheck: output.Stamp(m.LastCheck), LastCheckError: m.LastCheckError, PolicyError: m.PolicyError,
		Packages: len(s.packages), Running: running, Refreshes: []refreshJSON{}, UsedBytes: space.Used, FreeBytes: space.Free,
	}
	var names []string
	for _, r := range repositoriesOf(m) {
		doc.Repositories = append(doc.Repositories, r)
		names = append(names, r.Name)
	}
	for _, path := range slices.Sorted(maps.Keys(s.refreshes)) {
		r := s.refreshes[path]
		switch {
		case output.Over(r.State):
			continue
		case r.State == "waiting":
			waiting++
		case r.State == output.Stuck:
		default:
			working++
		}
		doc.Refreshes = append(doc.Refreshes, toRefreshJSON(r))
	}
	if a.JSON {
		return a.WriteJSON(doc)
	}
	checked := output.Ago(lastRead(m), a.Now())
	if m.LastCheckError != "" {
		checked += output.T("; since then: %s", a.Foreign(m.LastCheckError))
	}
	refreshes := output.T("none")
	switch {
	case waiting > 0 && working > 0:
		refreshes = output.T("%d in progress, %d waiting; see `lull pending`", working, waiting)
	case waiting > 0:
		refreshes = output.T("%d waiting; see `lull pending`", waiting)
	case working > 0:
		refreshes = output.T("%d in progress", working)
	}
	pairs := [][2]string{
		{"Applications", output.T("%d installed, %d running", len(s.packages), running)},
		{"Refreshes", refreshes},
	}
	for _, r := range s.stuck() {
		pairs = append(pairs, a.stuckFields(r)...)
	}
	for _, p := range s.packages {
		pairs = append(pairs, a.undoneFields(p)...)
		for _, v := range p.Services {
			if v.State == "failed" {
				pairs = append(pairs, [2]string{"Service", output.T("%[1]s of %[2]s has failed", v.Name, p.Instance)})
			}
		}
	}
	pairs = append(pairs, a.waitingFields(ctx, ag, s)...)
	pairs = append(pairs, [2]string{"Held", s.holdsText(a.Now())})
	pairs = append(pairs, [2]string{"System", ag.systemText(ctx)})
	if m.PolicyError != "" {
		pairs = append(pairs, [2]string{"Policy", output.T("not all of it can be used: %s", a.Foreign(m.PolicyError))})
	}
	pairs = append(pairs, [][2]string{
		{"Last check", checked},
		{"Repositories", output.Either(strings.Join(names, ", "), output.T("none; `lull repo add` makes one known"))},
	}...)
	return a.Fields(append(append(pairs, goneFields(s.gone(m))...), [][2]string{
		{"Disk", output.T("%s used, %s free", output.Size(space.Used), output.Size(space.Free))},
		{"Machine", machineText(m)},
		{"Tracking", output.Either(m.Tracker, output.T("none")) + ", " + output.Either(a.Foreign(output.AgentWord(m.TrackerEvents)), output.T("no events"))},
		{"Agent", output.T("lulld %[1]s, store in %[2]s", m.Version, m.Root)},
	}...))
}

// lastRead returns when the agent last had the state of all repositories: at its last check of
// all, or when it had read the last of them.
func lastRead(m bus.ManagerProperties) time.Time {
	var oldest uint64
	for _, r := range m.RepositoryStates {
		if r.Read == 0 {
			return output.FromBus(m.LastCheck)
		}
		if oldest == 0 || r.Read < oldest {
			oldest = r.Read
		}
	}
	return output.FromBus(max(oldest, m.LastCheck))
}

// holdsText counts the applications that are held and describes their hold, if it is the same
// one.
func (s *snapshot) holdsText(now time.Time) string {
	var list []bus.PackageProperties
	same := true
	for _, p := range s.packages {
		if held(p, now) {
			list = append(list, p)
			first := list[0]
			same = same && p.HeldUntil == first.HeldUntil && p.HeldBy == first.HeldBy
		}
	}
	if len(list) == 0 {
		return ""
	}
	count := output.Count(len(list), "application", "applications")
	if !same {
		return output.T("%s; see `lull list`", count)
	}
	return output.T("%[1]s until %[2]s by %[3]s", count, output.Day(output.FromBus(list[0].HeldUntil), now), output.Either(list[0].HeldBy, "?"))
}

// maxWaiting bounds the waiting refreshes that the overview shows one by one.
const maxWaiting = 5

// waitingFields shows the processes that the waiting refreshes wait for, and the deadlines.
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
		then := latestWords(r.Step, r.Conditions, len(r.Waiting), r.Deadline, at[r.ID], a.Now())
		if r.DownloadBegins != 0 {
			then = output.T("it begins %s", beginsText(r.Instance, r.DownloadBegins, a.Now()))
		}
		pairs = append(pairs,
			[2]string{"Waiting", output.T("%s %s → %s for %s", r.Instance, output.Either(r.FromVersion, "?"), output.Either(r.ToVersion, "?"), output.Either(s.heldText(r, a.Now()), waitsShort(r)))},
			[2]string{"", then})
	}
	if more > 0 {
		pairs = append(pairs, [2]string{"", output.T("and %d more", more)})
	}
	return pairs
}

// packageStatus shows the state of one instance.
func (a *app) packageStatus(ctx context.Context, ag *agent, s *snapshot, instance string) error {
	p, err := s.find(instance)
	if err != nil {
		return err
	}
	if a.JSON {
		return a.WriteJSON(packageStatusJSON{output.One, s.json(p, a.Now())})
	}
	title := p.Title
	if title == "" || title == p.Instance {
		title = p.Name
	}
	source := output.T("channel %s", p.Channel)
	if p.Repository != "" {
		source = output.T("%[1]s, channel %[2]s", p.Repository, p.Channel)
	}
	pairs := [][2]string{
		{"Application", strings.TrimSuffix(title+" ("+p.Instance+")", " ("+title+")")},
		{"Summary", p.Summary},
		{"Version", output.T("%s, revision %d", p.Version, p.Revision)},
		{"From", source},
		{"Package", a.hash(p.Hash)},
	}
	if p.Running {
		pairs = append(pairs, [2]string{"Running", output.Either(who(p.Processes), output.T("yes"))})
	} else {
		pairs = append(pairs, [2]string{"Running", output.T("no")})
	}
	for _, v := range p.Services {
		pairs = append(pairs, [2]string{"Service", output.T("%[1]s is %[2]s", v.Name, output.StateText(v.State))})
	}
	for _, h := range p.Holds {
		if output.FromBus(h.Until).After(a.Now()) {
			pairs = append(pairs, [2]string{"Held", holdText(h.Until, h.Owner, h.Reason, a.Now())})
		}
	}
	if r, ok := s.refreshes[p.Refresh]; ok && !output.Over(r.State) {
		pairs = append(pairs, a.refreshFields(ctx, ag, s, r)...)
		pairs = append(pairs, [2]string{"What is new", r.Notes})
	}
	pairs = append(pairs, a.undoneFields(p)...)
	for i, r := range p.Revisions {
		label := output.Mark("Revisions")
		if i > 0 {
			label = ""
		}
		text := fmt.Sprintf("%d  %s  %s", r.Revision, r.Version, output.StateText(r.State))
		if r.Since != 0 {
			text += ", " + output.Ago(output.FromBus(r.Since), a.Now())
		}
		pairs = append(pairs, [2]string{label, text})
	}
	return a.Fields(pairs)
}

// hash returns a hash that fits the terminal. Each command takes the beginning of one.
func (a *app) hash(h string) string {
	if a.Width > 0 {
		return output.Short(h)
	}
	return h
}

// heldText describes the hold of a refresh that waits only for the end of that hold, or
// returns "".
func (s *snapshot) heldText(r bus.RefreshProperties, now time.Time) string {
	if r.Kind != "refresh" || r.State != "waiting" || len(r.Waiting) > 0 {
		return ""
	}
	p, err := s.find(r.Instance)
	if err != nil || !held(p, now) {
		return ""
	}
	return output.T("the end of a hold: held %s", holdText(p.HeldUntil, p.HeldBy, p.HeldReason, now))
}

// undoneFields describes the undone update, its reason, and the next step.
func (a *app) undoneFields(p bus.PackageProperties) [][2]string {
	if p.UndoneVersion == "" {
		return nil
	}
	return [][2]string{
		{"Undone", fmt.Sprintf("%s %s → %s, %s", p.Instance, p.Version, p.UndoneVersion, output.Ago(output.FromBus(p.UndoneAt), a.Now()))},
		{"", a.Foreign(p.UndoneReason)},
		{"", output.T("retried %s; lull refresh %s tries now", output.Day(output.FromBus(p.NextTry), a.Now()), p.Instance)},
	}
}

// holdText describes a hold: its end, its user and its reason.
func holdText(until uint64, by, reason string, now time.Time) string {
	text := output.T("until %[1]s by %[2]s", output.Day(output.FromBus(until), now), output.Either(by, "?"))
	if reason != "" {
		text += ": " + reason
	}
	return text
}

// refreshFields describes a refresh that has not ended: what it does or waits for, and when it
// goes on.
func (a *app) refreshFields(ctx context.Context, ag *agent, s *snapshot, r bus.RefreshProperties) [][2]string {
	label := map[string]string{"remove": output.Mark("Removal"), "revert": output.Mark("Revert"), "install": output.Mark("Install")}[r.Kind]
	label = output.Either(label, output.Mark("Refresh"))
	text := a.StepText(r)
	if r.ToVersion != "" && r.Kind != "remove" {
		text = output.T("to %[1]s: %[2]s", r.ToVersion, text)
	}
	pairs := [][2]string{{label, text}}
	if r.State == output.Stuck {
		pairs = a.stuckFields(r)
	}
	if r.DownloadBegins != 0 {
		pairs = append(pairs,
			[2]string{"Waits for", downloadText(r.BytesToFetch)},
			[2]string{"Begins", beginsText(r.Instance, r.DownloadBegins, a.Now())})
	} else if r.State == "waiting" {
		pairs = append(pairs,
			[2]string{"Waits for", output.Either(s.heldText(r, a.Now()), waitsFor(r))},
			[2]string{"At the latest", latestWords(r.Step, r.Conditions, len(r.Waiting), r.Deadline, ag.atDeadlines(ctx)[r.ID], a.Now())},
			[2]string{"It takes", takesWords(r)})
	}
	return pairs
}

// takesWords describes how long the application will be unavailable during the refresh, or
// returns "" while that is unknown.
func takesWords(r bus.RefreshProperties) string {
	if r.Estimate == 0 {
		return ""
	}
	text := output.T("about %s from then on", output.Duration(time.Duration(r.Estimate)*time.Microsecond))
	if r.BytesToCopy > 0 {
		text += output.T(", with %s of its data to copy", output.Size(r.BytesToCopy))
	}
	return text
}

// elsewhere describes the wait of a refresh if it is not for a process.
func elsewhere(r bus.RefreshProperties) string {
	if r.DownloadBegins != 0 {
		return downloadText(r.BytesToFetch)
	}
	if len(r.Together) > 0 {
		return output.T("%s, with which it goes together", output.List(r.Together))
	}
	return output.T("the end of a hold")
}
