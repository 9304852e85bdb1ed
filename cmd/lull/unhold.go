package main

import (
	"context"

	"github.com/spf13/cobra"
)

func (a *app) unholdCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "unhold APP...",
		Short:   "Let refreshes happen again",
		Long:    "Ends the holds on applications: their refreshes happen again.",
		Example: "  lull unhold org.example.notes",
		Args:    args(1, -1),
		RunE: func(cmd *cobra.Command, names []string) error {
			return a.ask(cmd.Context(), func(ctx context.Context, ag *agent) error {
				var errs []error
				for _, name := range names {
					if err := ag.manager.Unhold(ctx, name); err != nil {
						errs = append(errs, err)
					} else if err := a.say(name + " is not held any longer"); err != nil {
						return err
					}
				}
				return join(errs)
			})
		},
		ValidArgsFunction: a.completeInstances,
	}
}
