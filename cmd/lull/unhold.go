package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/lull/lull/cmd/lull/output"
)

func (a *app) unholdCmd() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "unhold APP... | --all",
		Short: "Release a hold",
		Long: `Ends your holds on applications: their refreshes happen again, unless another user
holds them too. Root ends the holds of all users.`,
		Example: "  lull unhold org.example.notes",
		Args: func(cmd *cobra.Command, words []string) error {
			if all {
				return args(0, 0)(cmd, words)
			}
			return args(1, -1)(cmd, words)
		},
		RunE: func(cmd *cobra.Command, names []string) error {
			names, err := a.instances(cmd.Context(), names)
			if err != nil {
				return err
			}
			return a.change(cmd.Context(), func(ctx context.Context, ag *agent) error {
				if all {
					names = []string{allInstances}
				}
				doc := holdsJSON{output.One, []heldJSON{}}
				var errs []error
				for _, name := range names {
					until, by, err := ag.manager.Unhold(ctx, name)
					if err != nil {
						errs = append(errs, sent(ctx, output.T("end of the hold"), output.T("`lull list` shows what is held"), err))
						continue
					}
					doc.Holds = append(doc.Holds, heldJSON{name, output.Stamp(until), by})
					if a.JSON {
						continue
					}
					text := output.T("%s is not held any longer", name)
					if all {
						name = output.T("everything")
						text = output.T("the hold on everything is released")
					}
					if until != 0 {
						text = output.T("%s is not held any longer by you; %s holds it until %s", name, by, output.Day(output.FromBus(until), a.Now()))
					}
					if err := a.Say(text); err != nil {
						return err
					}
				}
				if a.JSON {
					if err := a.WriteJSON(doc); err != nil {
						return err
					}
				}
				return output.Join(errs)
			})
		},
		ValidArgsFunction: a.completeInstances,
	}
	cmd.Flags().BoolVar(&all, "all", false, "end the hold on everything; those on single applications stay")
	return cmd
}
