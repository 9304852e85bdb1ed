package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	bus "github.com/lull/lull/dbus"
)

func (a *app) duCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "du",
		Short: "Show what takes how much space, and why",
		Long: `Shows for each package how many bytes it alone needs, how many it shares with
others, and what keeps it. What nothing keeps goes with the next ` + "`lull gc`.",
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
				return a.du(packages, used, bytes)
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

func (a *app) du(packages []bus.PackageUsage, used, freeable uint64) error {
	packages = slices.Clone(packages)
	slices.SortStableFunc(packages, func(p, q bus.PackageUsage) int {
		return cmp.Or(-cmp.Compare(p.Exclusive, q.Exclusive), cmp.Compare(p.Name, q.Name), cmp.Compare(p.Hash, q.Hash))
	})
	if a.json {
		return a.writeJSON(struct {
			document
			Packages []usageJSON `json:"packages"`
			Used     uint64      `json:"used-bytes"`
			Freeable uint64      `json:"freeable-bytes"`
		}{one, usagesJSON(packages), used, freeable})
	}
	if len(packages) > 0 {
		if err := a.usages(packages); err != nil {
			return err
		}
	}
	return a.say(fmt.Sprintf("%s, %s used, %s can be freed", count(len(packages), "package", "packages"), size(used), size(freeable)))
}

func (a *app) usages(packages []bus.PackageUsage) error {
	rows := make([][]string, len(packages))
	for i, p := range packages {
		rows[i] = []string{short(p.Hash), p.Name, p.Version, size(p.Exclusive), size(p.Shared), either(p.KeptBy, "nothing")}
	}
	return a.table([]column{
		{title: "PACKAGE", least: 8}, {title: "NAME", least: 12}, {title: "VERSION", least: 7},
		{title: "OWN", right: true}, {title: "SHARED", right: true}, {title: "KEPT BY", least: 8},
	}, rows)
}
