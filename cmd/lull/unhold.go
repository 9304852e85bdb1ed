package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) unholdCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "unhold APP...",
		Short: "Let refreshes happen again",
		Long: `Ends your holds on applications: their refreshes happen again, unless somebody else
holds them too. Root ends the holds of everybody.`,
		Example: "  lull unhold org.example.notes",
		Args:    args(1, -1),
		RunE: func(cmd *cobra.Command, names []string) error {
			return a.ask(cmd.Context(), func(ctx context.Context, ag *agent) error {
				var errs []error
				for _, name := range names {
					until, by, err := ag.manager.Unhold(ctx, name)
					if err != nil {
						errs = append(errs, err)
						continue
					}
					text := name + " is not held any longer"
					if until != 0 {
						text = fmt.Sprintf("%s is not held any longer by you; %s holds it until %s", name, by, day(fromBus(until), a.now()))
					}
					if err := a.say(text); err != nil {
						return err
					}
				}
				return join(errs)
			})
		},
		ValidArgsFunction: a.completeInstances,
	}
}
