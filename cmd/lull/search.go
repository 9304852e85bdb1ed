package main

import (
	"cmp"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

func (a *app) searchCmd() *cobra.Command {
	var o bus.ListAvailableOptions
	cmd := &cobra.Command{
		Use:   "search [WORD...]",
		Short: "Find applications in the repositories",
		Long: `Lists what the repositories offer: the applications whose name, summary or notes
contain all words; without a word, all of them. The repositories are not read for
it; their last known state counts.`,
		Example: `  lull search notes
  lull search --check editor      read the repositories first`,
		Args: args(0, -1),
		RunE: func(cmd *cobra.Command, words []string) error {
			ag, err := a.dial(cmd.Context())
			if err != nil {
				return err
			}
			return a.search(cmd.Context(), ag, o, words)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&o.Read, "check", false, "read the repositories first")
	cmd.Flags().StringVar(&o.Repository, "repository", "", "`name` of the repository to search alone")
	return cmd
}

// offerJSON is what a channel of a repository offers.
type offerJSON struct {
	Name       string     `json:"name"`
	Repository string     `json:"repository"`
	Channel    string     `json:"channel"`
	Version    string     `json:"version"`
	Hash       string     `json:"hash"`
	Urgency    string     `json:"urgency,omitempty"`
	Published  *time.Time `json:"published,omitempty"`
	Bytes      uint64     `json:"bytes"`
	Notes      string     `json:"notes,omitempty"`
	Summary    string     `json:"summary,omitempty"`
	Offered    bool       `json:"offered"` // its rollout has reached this machine
	Installed  []string   `json:"installed"`
}

func toOfferJSON(o bus.AvailablePackage) offerJSON {
	return offerJSON{o.Name, o.Repository, o.Channel, o.Version, o.Hash, o.Urgency, output.Stamp(o.Published), o.Size, o.Notes, o.Summary, o.Offered, append([]string{}, o.Installed...)}
}

// sortOffers sorts by name, then the stable channel first.
func sortOffers(list []bus.AvailablePackage) {
	slices.SortFunc(list, func(p, q bus.AvailablePackage) int {
		rank := func(o bus.AvailablePackage) string { return strings.TrimPrefix(o.Channel, "stable") }
		return cmp.Or(cmp.Compare(p.Name, q.Name), cmp.Compare(rank(p), rank(q)), cmp.Compare(p.Repository, q.Repository))
	})
}

func (a *app) search(ctx context.Context, ag *agent, o bus.ListAvailableOptions, words []string) error {
	offers, failed, err := ag.manager.ListAvailable(ctx, o)
	if err != nil {
		return err
	}
	s, err := ag.overview(ctx)
	if err != nil {
		return err
	}
	titles, described := map[string]string{}, map[string]string{} // of the installed ones
	for _, p := range s.packages {
		titles[p.Name], described[p.Name] = p.Title, p.Summary
	}
	known := []candidate{}
	for _, f := range offers {
		known = append(known, candidate{name: f.Name})
	}
	found := slices.DeleteFunc(offers, func(f bus.AvailablePackage) bool {
		text := strings.ToLower(f.Name + " " + f.Summary + " " + f.Notes + " " + titles[f.Name] + " " + described[f.Name])
		return slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(text, strings.ToLower(w)) })
	})
	sortOffers(found)
	a.unread(failed)
	if a.JSON {
		doc := searchJSON{output.One, []offerJSON{}}
		for _, f := range found {
			doc.Packages = append(doc.Packages, toOfferJSON(f))
		}
		return a.WriteJSON(doc)
	}
	if len(found) == 0 {
		return output.Error(errkind.NotFound, "cannot find an application with %s", output.OneLine(output.Either(strings.Join(words, " "), output.T("any name")))).
			WithHint("%s", did(strings.Join(words, " "), known, output.T("`lull repo list` shows the repositories and when they were read")))
	}
	rows, below := make([][]string, len(found)), map[int][]string{}
	for i, f := range found {
		if i == 0 || found[i-1].Name != f.Name { // that of the stable channel
			if summary := cmp.Or(f.Summary, described[f.Name]); summary != "" {
				below[i] = []string{a.cutBeside(2, summary)}
			}
		}
		rows[i] = []string{f.Name, f.Version, f.Channel, f.Repository, output.Size(f.Size), offerState(f)}
	}
	return a.TableNoted([]output.Column{{Title: "NAME", Least: 16}, {Title: "VERSION", Least: 7}, {Title: "CHANNEL", Least: 7},
		{Title: "REPOSITORY", Least: 8}, {Title: "SIZE", Right: true}, {Title: "STATE", Least: 9}}, rows, below)
}

// cutBeside shortens a text of a package to a line of the terminal that begins at a column.
func (a *app) cutBeside(column int, text string) string {
	if width := a.Beside(column); width > 0 {
		return output.Cut(output.OneLine(text), width)
	}
	return text
}

func offerState(o bus.AvailablePackage) string {
	switch {
	case len(o.Installed) > 0:
		return output.T("installed")
	case !o.Offered:
		return output.T("being rolled out")
	}
	return "-"
}

// unread warns of repositories or applications that could not be listed.
func (a *app) unread(failed []bus.ListFailure) {
	names := map[string][]string{} // by the reason
	for _, f := range failed {
		names[f.Text] = append(names[f.Text], f.Name)
	}
	for _, f := range failed {
		if list := names[f.Text]; list != nil {
			a.Warn(output.T("cannot list %[1]s: %[2]s", output.List(list), a.Foreign(f.Text)), "")
			delete(names, f.Text)
		}
	}
}

func (a *app) infoCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "info NAME",
		Short: "Show what is known of an application, installed or not",
		Long: `Shows an application that is installed or that a repository offers: its versions
by channel, their sizes and what is new in them. Of an installed one it also shows
what a refresh of it waits for, and what may happen with more than the rights of
the user who runs it: services, programs that run during a refresh, names on the
message bus, start at log-in.`,
		Example: "  lull info org.example.notes",
		Args:    args(1, 1),
		RunE: func(cmd *cobra.Command, words []string) error {
			return a.ask(cmd.Context(), func(ctx context.Context, ag *agent) error { return a.info(ctx, ag, words[0]) })
		},
		ValidArgsFunction: a.completeAvailable,
	}
}

type infoJSON struct {
	output.Document
	Name      string        `json:"name"`
	Installed []packageJSON `json:"installed"`
	Offers    []offerJSON   `json:"offers"`
	License   string        `json:"license,omitempty"` // of the first installed one that names one
	Rights    []rightJSON   `json:"rights"`            // of the installed ones
	Commands  []string      `json:"commands"`          // in PATH, of the installed ones
}

func (a *app) info(ctx context.Context, ag *agent, typed string) error {
	k, err := ag.known(ctx, typed)
	if err != nil {
		return err
	}
	name, installed, offers := k.name, k.installed, k.offers
	doc := infoJSON{Document: output.One, Name: name, Installed: []packageJSON{}, Offers: []offerJSON{}, Rights: []rightJSON{}, Commands: []string{}}
	pairs := [][2]string{{"Name", name}}
	for _, p := range installed {
		doc.Installed = append(doc.Installed, k.all.json(p, a.Now()))
		text := output.T("%[1]s from %[2]s, channel %[3]s", p.Version, output.Either(p.Repository, "?"), output.Either(p.Channel, "?"))
		if p.Instance != p.Name {
			text += output.T(", as %s", p.Instance)
		}
		pairs = append(pairs, [2]string{"Summary", p.Summary}, [2]string{"Installed", text})
		if r, ok := k.all.refreshes[p.Refresh]; ok && !output.Over(r.State) {
			pairs = append(pairs, a.refreshFields(ctx, ag, k.all, r)...)
		}
		for _, v := range p.Services {
			pairs = append(pairs, [2]string{"Service", v.Name + " (" + output.StateText(v.State) + ")"})
		}
	}
	if len(doc.Installed) == 0 {
		pairs = append(pairs, [2]string{"Installed", output.T("no")})
	}
	agentUser := "root"
	if a.user {
		agentUser = output.UserName(uint32(os.Getuid()))
	}
	for _, p := range installed {
		l, err := a.storedPackage(p.Hash)
		if err != nil {
			return err
		}
		if l != nil && doc.License == "" && l.License != "" {
			doc.License = l.License
			pairs = append(pairs, [2]string{"License", output.OneLine(l.License)})
		}
		rights := rightsOf(p.Instance, agentUser, l)
		doc.Rights = append(doc.Rights, rights...)
		commands := a.commandsOf(p.Instance)
		doc.Commands = append(doc.Commands, commands...)
		pairs = append(pairs, [2]string{"Commands", output.List(commands)})
		pairs = append(pairs, rightsFields(rights)...)
	}
	for i, o := range offers {
		if i == 0 && len(installed) == 0 {
			pairs = append(pairs, [2]string{"Summary", o.Summary})
		}
		doc.Offers = append(doc.Offers, toOfferJSON(o))
		text := output.T("%[1]s, %[2]s, from %[3]s", o.Version, output.Size(o.Size), o.Repository)
		if o.Published != 0 {
			text += output.T(", published %s", output.Ago(output.FromBus(o.Published), a.Now()))
		}
		if !o.Offered {
			text += output.T(", being rolled out")
		}
		pairs = append(pairs, [2]string{output.T("Channel %s", output.OneLine(o.Channel)), text}, [2]string{"", o.Notes})
	}
	if a.JSON {
		return a.WriteJSON(doc)
	}
	return a.Fields(pairs)
}

// commandsOf returns the commands in PATH that start the apps of an instance, the shortest
// first. A short name that the system or another application has is not among them.
func (a *app) commandsOf(instance string) (names []string) {
	root, err := a.store()
	if err != nil || manifest.ValidInstance(instance) != nil {
		return nil
	}
	b, err := os.ReadFile(filepath.Join(root, "exports", "owners", instance))
	if err != nil {
		return nil // an agent of another machine's, or one that has exported nothing
	}
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "bin/"); ok {
			names = append(names, name)
		}
	}
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(len(a), len(b)) })
	return names
}

func (a *app) switchCmd() *cobra.Command {
	var o bus.SwitchOptions
	cmd := &cobra.Command{
		Use:   "switch APP",
		Short: "Follow another channel or repository",
		Long: `Has an application follow another channel or another repository that offers it.
The next refresh brings what is there, which may be an older version.`,
		Example: `  lull switch --channel edge org.example.notes
  lull switch --repository other org.example.notes`,
		Args: args(1, 1),
		RunE: func(cmd *cobra.Command, words []string) error {
			if o.Channel == "" && o.Repository == "" {
				return output.Error(errkind.Usage, "cannot switch: neither a channel nor a repository is named").WithHint("`lull info APP` shows the channels")
			}
			names, err := a.instances(cmd.Context(), words)
			if err != nil {
				return err
			}
			ag, err := a.dial(cmd.Context())
			if err != nil {
				return err
			}
			if err := ag.manager.Switch(cmd.Context(), names[0], o); err != nil {
				return sent(cmd.Context(), output.T("switch of %s", names[0]), output.T("`lull status %s` shows the channel", names[0]), err)
			}
			s, err := ag.detailed(cmd.Context(), thatIs(names[0]))
			if err != nil {
				return err
			}
			p, err := s.find(names[0])
			if err != nil {
				return err
			}
			if a.JSON {
				return a.WriteJSON(packageStatusJSON{output.One, s.json(p, a.Now())})
			}
			return a.Say(output.T("%[1]s follows channel %[2]s of repository %[3]s; `lull refresh %[4]s` brings its version", p.Instance, p.Channel, p.Repository, p.Instance))
		},
		ValidArgsFunction: a.completeOneInstance,
	}
	cmd.Flags().StringVar(&o.Channel, "channel", "", "`channel` to follow")
	cmd.Flags().StringVar(&o.Repository, "repository", "", "`name` of the repository to follow")
	a.completeChannels(cmd)
	return cmd
}

type updateJSON struct {
	Instance    string     `json:"instance"`
	Repository  string     `json:"repository"`
	Channel     string     `json:"channel"`
	FromVersion string     `json:"from-version"`
	Version     string     `json:"version"`
	Hash        string     `json:"hash"`
	Urgency     string     `json:"urgency,omitempty"`
	Published   *time.Time `json:"published,omitempty"`
	Bytes       uint64     `json:"bytes"`
	FetchBytes  uint64     `json:"fetch-bytes,omitempty"` // missing: not known yet
	Notes       string     `json:"notes,omitempty"`
	Withheld    string     `json:"withheld,omitempty"`
	UnderWay    bool       `json:"under-way"`
}

// updates lists the effects of a refresh of the instances.
func (a *app) updates(ctx context.Context, names []string) error {
	return a.ask(ctx, func(ctx context.Context, ag *agent) error {
		updates, failed, err := ag.manager.ListUpdates(ctx, append([]string{}, names...), bus.ListUpdatesOptions{})
		if err != nil {
			return err
		}
		a.unread(failed)
		doc := updatesJSON{output.One, []updateJSON{}}
		var rows [][]string
		for _, u := range updates {
			doc.Updates = append(doc.Updates, updateJSON{u.Instance, u.Repository, u.Channel, u.FromVersion, u.Version, u.Hash, u.Urgency, output.Stamp(u.Published),
				u.Size, u.Fetch, u.Notes, u.Withheld, u.Refresh.IsValid() && u.Refresh != "/"})
			bytes := output.Size(u.Fetch)
			if u.Fetch == 0 {
				bytes = "≤ " + output.Size(u.Size)
			}
			rows = append(rows, []string{u.Instance, u.FromVersion, u.Version, bytes, output.Either(u.Urgency, "-"), updateState(u)})
		}
		if a.JSON {
			return a.WriteJSON(doc)
		}
		switch {
		case len(rows) > 0:
		case len(failed) > 0: // which have been named
			return a.Say(output.T("of the others everything is up to date"))
		default:
			return a.Say(output.T("everything is up to date, by the last known state of the repositories"))
		}
		return a.Table([]output.Column{{Title: "APPLICATION", Least: 16}, {Title: "FROM", Least: 7}, {Title: "TO", Least: 7},
			{Title: "DOWNLOAD", Right: true}, {Title: "URGENCY"}, {Title: "STATE", Least: 10}}, rows)
	})
}

func updateState(u bus.AvailableUpdate) string {
	switch u.Withheld {
	case "reverted":
		return output.T("left out: you went back from it")
	case "failed":
		return output.T("left out: it did not work, retried later")
	case "rollout":
		return output.T("left out: being rolled out")
	case "lull":
		return output.T("left out: it needs a later lull")
	case "halted":
		return output.T("left out: halted by its publisher")
	case "":
		if u.Refresh != "" && u.Refresh != "/" {
			return output.T("in progress")
		}
		return "-"
	}
	return output.T("left out: %s", u.Withheld)
}

// searchJSON is what `lull search` writes.
type searchJSON struct {
	output.Document
	Packages []offerJSON `json:"packages"`
}

// packageStatusJSON is what `lull status APP` and `lull switch` write.
type packageStatusJSON struct {
	output.Document
	Package packageJSON `json:"package"`
}

// updatesJSON is what `lull refresh --list` writes.
type updatesJSON struct {
	output.Document
	Updates []updateJSON `json:"updates"`
}
