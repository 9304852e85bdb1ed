package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/problem"
)

func (a *app) holdCmd() *cobra.Command {
	var length, end, reason string
	var self bool
	cmd := &cobra.Command{
		Use:   "hold APP... | --self [TIME]",
		Short: "Postpone the refreshes of applications",
		Long: `Postpones the refreshes of applications, for a week if nothing else is said.
Everybody sees who holds what until when; no hold lasts for ever. How long a user
may hold a version stands in the policy (user-hold); renewing a hold does not make
that longer. An administrator may hold for longer.

With --self, inside an application that lull has started, that application holds
its own refreshes, as its user might: during a presentation or a backup, say.`,
		Example: `  lull hold org.example.notes
  lull hold --for 3d org.example.notes
  lull hold --until 2030-05-12 --reason "release week" org.example.notes
  lull hold --self 2h`,
		Args: func(cmd *cobra.Command, words []string) error {
			if self {
				return args(0, 1)(cmd, words)
			}
			return args(1, -1)(cmd, words)
		},
		RunE: func(cmd *cobra.Command, names []string) error {
			if self && len(names) == 1 {
				if length != "" || end != "" {
					return problem.New(problem.Usage, "cannot hold for %s: --for or --until says another time", names[0])
				}
				length, names = names[0], nil
			}
			now := a.now()
			var until time.Time // as the agent thinks fit
			switch {
			case length != "":
				d, err := duration(length)
				if err != nil {
					return err
				}
				until = now.Add(d)
			case end != "":
				t, err := moment(end, now)
				if err != nil {
					return err
				}
				until = t
			}
			if !until.IsZero() && !until.After(now) {
				return problem.New(problem.Usage, "cannot hold until %s: that is over", until.Format("2006-01-02 15:04"))
			}
			return a.ask(cmd.Context(), func(ctx context.Context, ag *agent) error {
				if self {
					own, err := ag.self(ctx)
					if err != nil {
						return err
					}
					names = []string{own}
				}
				var errs []error
				for _, name := range names {
					end, err := ag.manager.Hold(ctx, name, toBus(until), reason)
					if err != nil {
						errs = append(errs, err)
					} else if err := a.say(fmt.Sprintf("%s is held until %s", name, day(fromBus(end), now))); err != nil {
						return err
					}
				}
				return join(errs)
			})
		},
		ValidArgsFunction: a.completeInstances,
	}
	cmd.Flags().BoolVar(&self, "self", false, "hold the application in which this runs")
	cmd.Flags().StringVar(&length, "for", "", "`time` to hold: 90m, 6h, 3d, 2w")
	cmd.Flags().StringVar(&end, "until", "", "`moment` to hold until: 18:00, 2030-05-12, \"2030-05-12 18:00\"")
	cmd.Flags().StringVar(&reason, "reason", "", "`text` that others see")
	cmd.MarkFlagsMutuallyExclusive("for", "until")
	return cmd
}
