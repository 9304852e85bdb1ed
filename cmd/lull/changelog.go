package main

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

func (a *app) changelogCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "changelog NAME",
		Short: "Show what is new in the versions of an application",
		Long: `Shows the notes of the versions of an application, the newest first: of those that
the repositories offer, and of the installed revisions that are kept. The
repositories are not read for it; their last known state counts.`,
		Example: "  lull changelog org.example.notes",
		Args:    args(1, 1),
		RunE: func(cmd *cobra.Command, words []string) error {
			return a.ask(cmd.Context(), func(ctx context.Context, ag *agent) error { return a.changelog(ctx, ag, words[0]) })
		},
		ValidArgsFunction: a.completeAvailable,
	}
}

// releaseJSON is a version of an application, with its notes.
type releaseJSON struct {
	Version   string             `json:"version"`
	Hash      string             `json:"hash"`
	Notes     string             `json:"notes,omitempty"`
	Offers    []channelOfferJSON `json:"offers"`
	Installed []keptJSON         `json:"installed"`
}

// channelOfferJSON is a channel that offers a version.
type channelOfferJSON struct {
	Repository string     `json:"repository"`
	Channel    string     `json:"channel"`
	Published  *time.Time `json:"published,omitempty"`
}

// keptJSON is a revision of an installed application that has a version.
type keptJSON struct {
	Instance string     `json:"instance"`
	Revision uint32     `json:"revision"`
	State    string     `json:"state"`
	Since    *time.Time `json:"since,omitempty"`
}

func (a *app) changelog(ctx context.Context, ag *agent, typed string) error {
	k, err := ag.known(ctx, typed)
	if err != nil {
		return err
	}
	name := k.name
	releases, err := a.releases(k.installed, k.offers)
	if err != nil {
		return err
	}
	if a.JSON {
		return a.WriteJSON(changelogJSON{output.One, name, append([]releaseJSON{}, releases...)})
	}
	for i, r := range releases {
		if i > 0 {
			if err := a.Say(""); err != nil {
				return err
			}
		}
		if err := a.sayRelease(name, r); err != nil {
			return err
		}
	}
	return nil
}

// knownPackage is an application with its instances and the offers of repositories.
type knownPackage struct {
	name      string
	installed []bus.PackageProperties
	offers    []bus.AvailablePackage
	all       *snapshot // with all properties of the installed ones only
}

// known returns the application that the user means. It is an error if it is neither
// installed nor offered.
func (ag *agent) known(ctx context.Context, typed string) (*knownPackage, error) {
	s, err := ag.overview(ctx)
	if err != nil {
		return nil, err
	}
	offers, known, err := ag.available(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range s.packages {
		known = append(known, candidate{p.Name, slices.Concat(p.Apps, []string{p.Title, p.Instance})})
	}
	name, ok, err := resolve(typed, known)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, output.Error(errkind.NotFound, "cannot find %s: it is not installed, and no repository offers it", output.OneLine(typed)).
			WithHint("%s", did(typed, known, output.T("`lull search` lists what there is")))
	}
	isIt := func(p bus.PackageProperties) bool { return p.Name == name }
	if s, err = ag.details(ctx, s, isIt); err != nil {
		return nil, err
	}
	k := &knownPackage{name: name, all: s}
	for _, p := range s.packages {
		if isIt(p) {
			k.installed = append(k.installed, p)
		}
	}
	k.offers = slices.DeleteFunc(offers, func(o bus.AvailablePackage) bool { return o.Name != name })
	sortOffers(k.offers)
	return k, nil
}

// releases lists the versions, the newest first: those that are not installed by their time
// of publication, then the revisions.
func (a *app) releases(installed []bus.PackageProperties, offers []bus.AvailablePackage) ([]releaseJSON, error) {
	var list []releaseJSON
	of := func(hash, version, notes string) *releaseJSON {
		i := slices.IndexFunc(list, func(r releaseJSON) bool { return r.Hash == hash && r.Version == version })
		if i < 0 {
			i = len(list)
			list = append(list, releaseJSON{Version: version, Hash: hash, Offers: []channelOfferJSON{}, Installed: []keptJSON{}})
		}
		list[i].Notes = cmp.Or(list[i].Notes, notes)
		return &list[i]
	}
	offers = slices.Clone(offers)
	slices.SortStableFunc(offers, func(p, q bus.AvailablePackage) int { return cmp.Compare(q.Published, p.Published) })
	for _, o := range offers {
		r := of(o.Hash, o.Version, o.Notes)
		r.Offers = append(r.Offers, channelOfferJSON{o.Repository, o.Channel, output.Stamp(o.Published)})
	}
	for _, p := range installed {
		for _, v := range p.Revisions {
			l, err := a.storedPackage(v.Hash)
			if err != nil {
				return nil, err
			}
			notes := ""
			if l != nil {
				notes = l.Notes
			}
			r := of(v.Hash, v.Version, notes)
			r.Installed = append(r.Installed, keptJSON{p.Instance, v.Revision, v.State, output.Stamp(v.Since)})
		}
	}
	newest := func(r releaseJSON) (n uint32) {
		for _, v := range r.Installed {
			n = max(n, v.Revision)
		}
		return n
	}
	slices.SortStableFunc(list, func(r, s releaseJSON) int {
		switch p, q := newest(r), newest(s); {
		case p == 0 || q == 0:
			return cmp.Compare(p, q)
		default:
			return cmp.Compare(q, p)
		}
	})
	return list, nil
}

// storedPackage reads the manifest of a package from the store. Nil means that it is not
// there.
func (a *app) storedPackage(hash string) (*manifest.Launch, error) {
	root, err := a.store()
	if err != nil {
		return nil, nil // no store
	}
	if _, err := digest.Parse(hash); err != nil {
		return nil, nil // the agent has not received it yet
	}
	b, err := os.ReadFile(filepath.Join(root, "packages", hash, manifest.Reserved, "launch.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var l *manifest.Launch
	if err == nil {
		l, err = manifest.ParseLaunch(b)
	}
	if err != nil {
		return nil, output.Error(errkind.KindOf(err), "cannot read package %s: %w", output.Short(hash), err)
	}
	return l, nil
}

func (a *app) sayRelease(name string, r releaseJSON) error {
	var where []string
	for _, v := range r.Installed {
		text := output.T("installed")
		if v.State != "current" {
			text = output.StateText(v.State)
		}
		if v.Instance != name {
			text += output.T(" as %s", v.Instance)
		}
		if v.Since != nil {
			text += ", " + output.Ago(*v.Since, a.Now())
		}
		where = append(where, text)
	}
	for _, o := range r.Offers {
		text := output.T("channel %s", o.Channel)
		if o.Published != nil {
			text += output.T(", published %s", output.Ago(*o.Published, a.Now()))
		}
		where = append(where, text)
	}
	head := name + " " + output.Either(r.Version, "?")
	for _, part := range output.Wrap(output.OneLine(head+"  ("+strings.Join(where, "; ")+")"), a.Beside(0)) {
		if err := a.Say(part); err != nil {
			return err
		}
	}
	for line := range strings.SplitSeq(output.Either(strings.TrimSpace(r.Notes), output.T("no notes")), "\n") {
		for _, part := range output.Wrap(output.OneLine(line), a.Beside(2)) {
			if err := a.Say(strings.TrimRight("  "+part, " ")); err != nil {
				return err
			}
		}
	}
	return nil
}

// changelogJSON is what `lull changelog` writes.
type changelogJSON struct {
	output.Document
	Name     string        `json:"name"`
	Releases []releaseJSON `json:"releases"`
}
