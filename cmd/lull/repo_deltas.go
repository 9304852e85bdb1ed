package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/delta"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo/publish"
	"github.com/lull/lull/cmd/lull/output"
)

func (a *app) repoDeltasCmd() *cobra.Command {
	var s signing
	cmd := &cobra.Command{
		Use:   "deltas REPOSITORY",
		Short: "Make the deltas that publications have left",
		Long: `Makes the deltas of published versions that are not made yet, because lull publish
was interrupted or had --deltas-later, and signs them into the channels. It may run
at any time and on any machine that has the keys: others can publish meanwhile. An
interrupted run is continued by the next one.`,
		Example: `  lull repo deltas ./repo
  lull repo deltas s3://packages/main --keys ./keys`,
		Args: args(1, 1),
		RunE: func(cmd *cobra.Command, words []string) error {
			common, err := s.common(words[0])
			if err != nil {
				return err
			}
			made, err := publish.MakeDeltas(cmd.Context(), words[0], publish.DeltaOptions{Common: common})
			if err != nil {
				return err
			}
			if a.JSON {
				doc := repoDeltasJSON{output.One, words[0], []offeredDeltasJSON{}}
				for _, m := range made {
					doc.Packages = append(doc.Packages, offeredDeltasJSON{m.Name, m.Channel, m.Package.String(), append([]deltaJSON{}, deltasOf(m.Deltas)...)})
				}
				return a.WriteJSON(doc)
			}
			if len(made) == 0 {
				return a.Say(output.T("all deltas of %s are made", words[0]))
			}
			for _, m := range made {
				if err := a.Say(output.T("%[1]s in channel %[2]s has %[3]s", m.Name, m.Channel, output.Count(len(m.Deltas), "delta", "deltas"))); err != nil {
					return err
				}
				if err := a.sayAll(deltaLines(m.Deltas)); err != nil {
					return err
				}
			}
			return nil
		},
	}
	s.add(a, cmd)
	return cmd
}

// makeDeltas makes the packs of packages that are published, now or later, and adds them to
// the results.
func (a *app) makeDeltas(ctx context.Context, repository string, common publish.Common, results []*publish.Result, later bool) error {
	pending := 0
	var packages []digest.Digest
	for _, r := range results {
		pending += r.Pending
		packages = append(packages, r.Package)
	}
	if pending == 0 {
		return nil
	}
	switch {
	case later && a.JSON:
		return nil
	case later:
		return a.Say(output.T("left to lull repo deltas: %s", output.Count(pending, "delta", "deltas")))
	case !a.JSON:
		if err := a.Say(output.T("making %s; machines can have the new version already", output.Count(pending, "delta", "deltas"))); err != nil {
			return err
		}
	}
	made, err := publish.MakeDeltas(ctx, repository, publish.DeltaOptions{Common: common, Packages: packages})
	if err != nil {
		return errkind.New(errkind.KindOf(err), "%w", err).WithHint("the new version is published; lull repo deltas makes the rest")
	}
	for _, m := range made {
		for _, r := range results {
			if r.Package == m.Package && r.Channel == m.Channel {
				r.Deltas, r.Pending = m.Deltas, 0
			}
		}
		if !a.JSON {
			if err := a.sayAll(deltaLines(m.Deltas)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *app) sayAll(lines []string) error {
	for _, l := range lines {
		if err := a.Say(l); err != nil {
			return err
		}
	}
	return nil
}

func deltaLines(deltas []delta.Offer) (lines []string) {
	for _, d := range deltas {
		if d.From.IsZero() {
			lines = append(lines, output.T("  pack of all files: %[1]s instead of %[2]s", output.Size(uint64(d.Size)), output.Size(uint64(d.Replaces))))
			continue
		}
		lines = append(lines, output.T("  delta from package %[1]s: %[2]s instead of %[3]s", d.From.Short(), output.Size(uint64(d.Size)), output.Size(uint64(d.Replaces))))
	}
	return lines
}

func deltasOf(offers []delta.Offer) (list []deltaJSON) {
	for _, d := range offers {
		from := ""
		if !d.From.IsZero() {
			from = d.From.String()
		}
		list = append(list, deltaJSON{from, d.Size, d.Replaces})
	}
	return list
}

// repoDeltasJSON is what `lull repo deltas` writes: the channels whose deltas were made.
type repoDeltasJSON struct {
	output.Document
	Repository string              `json:"repository"`
	Packages   []offeredDeltasJSON `json:"packages"`
}

type offeredDeltasJSON struct {
	Name    string      `json:"name"`
	Channel string      `json:"channel"`
	Package string      `json:"package"`
	Deltas  []deltaJSON `json:"deltas"`
}
