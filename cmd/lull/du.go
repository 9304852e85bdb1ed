package main

import (
	"cmp"
	"context"
	"slices"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

func (a *app) duCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "du",
		Short: "Show what takes how much space, and why",
		Long: `Shows for each package how many bytes it alone needs, how many it shares with
others, and what keeps it. What nothing keeps goes with the next ` + "`lull gc`" + `.
A process that has files of a package open, a backup for example, keeps it too,
and is named.

Below are the data that the applications have in your own home, a directory for
each revision. Superseded data goes when its successor has run, or with
` + "`lull gc`" + `. Data of other users is shown to them alone.`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(cmd.Context(), func(ctx context.Context, ag *agent) error {
				_, packages, bytes, err := ag.space.Plan(ctx)
				if err != nil {
					return err
				}
				used, err := ag.space.GetUsed(ctx)
				if err != nil {
					return err
				}
				users, err := packageUsers(ctx, ag, packages)
				if err != nil {
					return err
				}
				return a.du(ctx, packages, users, used, bytes)
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

type usageJSON struct {
	Hash      string `json:"hash"`
	Name      string `json:"name"`
	Version   string `json:"version"`
	Exclusive uint64 `json:"exclusive-bytes"`
	Shared    uint64 `json:"shared-bytes"`
	KeptBy    string `json:"kept-by"`
}

func usagesJSON(packages []bus.PackageUsage) []usageJSON {
	out := []usageJSON{}
	for _, p := range packages {
		out = append(out, usageJSON(p))
	}
	return out
}

// packageUserJSON is a process that keeps a package.
type packageUserJSON struct {
	Hash    string `json:"hash"`
	Name    string `json:"name"`
	Version string `json:"version"`
	Holder  string `json:"holder"`
	PID     uint32 `json:"pid"`
}

// maxUsed bounds the packages whose users are read, each with a call.
const maxUsed = 16

// packageUsers lists the processes that use packages that only an open use keeps.
func packageUsers(ctx context.Context, ag *agent, packages []bus.PackageUsage) (list []packageUserJSON, err error) {
	asked := 0
	for _, p := range packages {
		if p.KeptBy != "open" {
			continue
		}
		if asked++; asked > maxUsed {
			break
		}
		chains, err := ag.manager.Why(ctx, p.Hash)
		switch {
		case errkind.Is(err, errkind.NotFound):
			continue // collected meanwhile
		case err != nil:
			return nil, err
		}
		for _, c := range chains {
			if c.Index == "open" && c.PID != 0 {
				list = append(list, packageUserJSON{p.Hash, p.Name, p.Version, c.Holder, c.PID})
			}
		}
	}
	return list, nil
}

func (a *app) du(ctx context.Context, packages []bus.PackageUsage, users []packageUserJSON, used, freeable uint64) error {
	data, err := a.ownData(ctx)
	if err != nil {
		return err
	}
	packages = slices.Clone(packages)
	slices.SortStableFunc(packages, func(p, q bus.PackageUsage) int {
		return cmp.Or(-cmp.Compare(p.Exclusive, q.Exclusive), cmp.Compare(p.Name, q.Name), cmp.Compare(p.Hash, q.Hash))
	})
	if a.JSON {
		return a.WriteJSON(duJSON{output.One, usagesJSON(packages), users, used, freeable, datasJSON(data)})
	}
	if len(packages) > 0 {
		if err := a.usages(packages); err != nil {
			return err
		}
	}
	if err := a.sayUsers(users); err != nil {
		return err
	}
	if err := a.Say(output.T("%s, %s used, %s can be freed", output.Count(len(packages), "package", "packages"), output.Size(used), output.Size(freeable))); err != nil {
		return err
	}
	return a.dataTable(data)
}

func (a *app) sayUsers(users []packageUserJSON) error {
	for _, u := range users {
		if err := a.Say(output.T("%s %s is in use by %s (PID %d)", u.Name, u.Version, holderText(u.Holder), u.PID)); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) usages(packages []bus.PackageUsage) error {
	rows := make([][]string, len(packages))
	for i, p := range packages {
		rows[i] = []string{output.Short(p.Hash), p.Name, p.Version, output.Size(p.Exclusive), output.Size(p.Shared), output.Either(indexName(p.KeptBy), output.T("nothing"))}
	}
	return a.Table([]output.Column{
		{Title: "PACKAGE", Least: 8}, {Title: "NAME", Least: 12}, {Title: "VERSION", Least: 7},
		{Title: "OWN", Right: true}, {Title: "SHARED", Right: true}, {Title: "KEPT BY", Least: 8},
	}, rows)
}

// duJSON is what `lull du` writes.
type duJSON struct {
	output.Document
	Packages []usageJSON       `json:"packages"`
	Users    []packageUserJSON `json:"in-use-by,omitempty"`
	Used     uint64            `json:"used-bytes"`
	Freeable uint64            `json:"freeable-bytes"`
	Data     []dataJSON        `json:"user-data"`
}
