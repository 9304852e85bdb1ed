package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/problem"
	bus "github.com/lull/lull/dbus"
)

func (a *app) verifyCmd() *cobra.Command {
	var o bus.VerifyOptions
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Read everything again and compare it with its hash",
		Long: `Reads every file of the store again and compares it with its hash. With
--repair what is broken is downloaded again.`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ag, err := a.dial(cmd.Context())
			if err != nil {
				return err
			}
			checked, findings, err := ag.space.Verify(cmd.Context(), o)
			if err != nil {
				return err
			}
			return a.verified(checked, findings)
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
	doc := struct {
		document
		Checked  uint32        `json:"checked"`
		Findings []findingJSON `json:"findings"`
	}{one, checked, []findingJSON{}}
	broken := 0
	for _, f := range findings {
		doc.Findings = append(doc.Findings, findingJSON(f))
		state := "broken"
		if f.Repaired {
			state = "repaired"
		} else {
			broken++
		}
		if !a.json {
			if err := a.say(fmt.Sprintf("%s  %s: %s", state, f.What, f.Problem)); err != nil {
				return err
			}
		}
	}
	var err error
	if a.json {
		err = a.writeJSON(doc)
	} else if broken == 0 {
		err = a.say(fmt.Sprintf("%s checked, all is well", count(checked, "file", "files")))
	}
	if err == nil && broken > 0 {
		return problem.New(problem.Failed, "cannot vouch for the store: %s broken, of %s checked",
			count(broken, "file is", "files are"), count(checked, "file", "files")).
			WithHint("`lull verify --repair` downloads them again")
	}
	return err
}
