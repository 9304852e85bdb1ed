package main

import (
	"context"
	"fmt"

	"github.com/godbus/dbus/v5"
	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

func (a *app) verifyCmd() *cobra.Command {
	var o bus.VerifyOptions
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Check the store against its hashes",
		Long: `Reads every file of the store again and compares it with its hash. With
--repair what is broken is downloaded again.`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ag, err := a.dial(cmd.Context())
			if err != nil {
				return err
			}
			text := verifyText
			if o.Repair {
				text = repairText
			}
			p, err := a.followJob(cmd.Context(), ag, text, jobCalls{
				func(ctx context.Context) (dbus.ObjectPath, error) { return ag.space.StartVerify(ctx, o) },
				func(ctx context.Context) (p bus.JobProperties, err error) {
					p.Checked, p.Findings, err = ag.space.Verify(ctx, o)
					return p, err
				},
			})
			if err != nil {
				return err
			}
			return a.verified(p.Checked, p.Findings)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&o.Repair, "repair", false, "download again what is broken")
	return cmd
}

type findingJSON struct {
	What     string `json:"what"`
	Problem  string `json:"problem"`
	Repaired bool   `json:"repaired"`
}

func (a *app) verified(checked uint32, findings []bus.Finding) error {
	doc := verifiedJSON{output.One, checked, []findingJSON{}}
	broken := 0
	for _, f := range findings {
		doc.Findings = append(doc.Findings, findingJSON(f))
		state := output.T("broken")
		if f.Repaired {
			state = output.T("repaired")
		} else {
			broken++
		}
		if !a.JSON {
			if err := a.Say(fmt.Sprintf("%s  %s: %s", state, f.What, a.Foreign(f.Problem))); err != nil {
				return err
			}
		}
	}
	var err error
	if a.JSON {
		err = a.WriteJSON(doc)
	} else if broken == 0 {
		err = a.Say(output.T("%s checked, no problems found", output.Count(checked, "file", "files")))
	}
	if err == nil && broken > 0 {
		return output.Error(errkind.Failed, "cannot confirm that the store is intact: %s broken, of %s checked",
			output.Count(broken, "file is", "files are"), output.Count(checked, "file", "files")).
			WithHint("`lull verify --repair` downloads them again")
	}
	return err
}

// verifiedJSON is what `lull verify` writes.
type verifiedJSON struct {
	output.Document
	Checked  uint32        `json:"checked"`
	Findings []findingJSON `json:"findings"`
}
