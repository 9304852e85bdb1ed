package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
)

// allInstances is the agent's name for a hold of everything.
const allInstances = "*"

// holdsJSON is what `lull hold` and `lull unhold` write: the holds that are in force then.
type holdsJSON struct {
	output.Document
	Holds []heldJSON `json:"holds"`
}

type heldJSON struct {
	Instance string     `json:"instance"` // "*": all
	Until    *time.Time `json:"until"`    // null: it is not held
	By       string     `json:"by,omitempty"`
}

func (a *app) holdCmd() *cobra.Command {
	var length, end, reason string
	var self, all bool
	cmd := &cobra.Command{
		Use:   "hold APP... [TIME] | --all [TIME] | --self [TIME]",
		Short: "Postpone the refreshes of applications",
		Long: `Postpones the refreshes of applications, by default for a week.
Every user sees who holds what until when. Each hold has an end. The policy limits
how long a user may hold a version (user-hold); renewing a hold does not extend
that. An administrator may hold for longer.

With --self, inside an application that lull has started, that application holds
its own refreshes, as its user might: during a presentation or a backup, say.`,
		Example: `  lull hold org.example.notes
  lull hold org.example.notes 2h
  lull hold --for 3d org.example.notes
  lull hold --until 2030-05-12 --reason "release week" org.example.notes
  lull hold --all 3d
  lull hold --self 2h`,
		Args: func(cmd *cobra.Command, words []string) error {
			if self || all {
				return args(0, 1)(cmd, words)
			}
			return args(1, -1)(cmd, words)
		},
		RunE: func(cmd *cobra.Command, names []string) error {
			if last := len(names) - 1; last >= 0 && (self || all || last > 0 && output.IsDuration(names[last])) {
				if length != "" || end != "" {
					return output.Error(errkind.Usage, "cannot hold for %s: --for or --until gives another time", names[last])
				}
				length, names = names[last], names[:last]
			}
			for _, name := range names {
				if output.IsDuration(name) {
					return output.Error(errkind.Usage, "cannot hold %s: it is a time, and no application is named before it", name).
						WithHint("write the application first: lull hold APP %s", name)
				}
			}
			now := a.Now()
			var until time.Time // zero lets the agent choose
			switch {
			case length != "":
				d, err := output.ParseDuration(length)
				if err != nil {
					return err
				}
				until = now.Add(d)
			case end != "":
				t, err := output.ParseMoment(end, now)
				if err != nil {
					return err
				}
				until = t
			}
			if !until.IsZero() && !until.After(now) {
				return output.Error(errkind.Usage, "cannot hold until %s: that is over", until.Format("2006-01-02 15:04"))
			}
			return a.change(cmd.Context(), func(ctx context.Context, ag *agent) error {
				if self {
					own, err := ag.self(ctx)
					if err != nil {
						return err
					}
					names = []string{own}
				}
				known, err := ag.overview(ctx)
				if err != nil {
					return err
				}
				if all {
					end, err := ag.manager.Hold(ctx, allInstances, output.ToBus(until), reason)
					if err != nil {
						return sent(ctx, output.T("hold"), output.T("`lull pending` shows it"), err)
					}
					if a.JSON {
						return a.WriteJSON(holdsJSON{output.One, []heldJSON{{Instance: allInstances, Until: output.Stamp(end)}}})
					}
					return a.Say(output.T("everything is held until %s", output.Day(output.FromBus(end), now)))
				}
				for i, typed := range names { // before the first hold
					name, _, err := resolve(typed, known.candidates())
					if err != nil {
						return err
					}
					names[i] = name
					if _, err := known.find(name); err != nil {
						return output.Error(errkind.NotFound, "cannot hold %s: it is not installed", name).WithHint("%s", errkind.HintOf(err))
					}
				}
				doc := holdsJSON{output.One, []heldJSON{}}
				var errs []error
				for _, name := range names {
					end, err := ag.manager.Hold(ctx, name, output.ToBus(until), reason)
					if err != nil {
						errs = append(errs, sent(ctx, output.T("hold of %s", name), output.T("`lull status %s` shows it", name), err))
						continue
					}
					doc.Holds = append(doc.Holds, heldJSON{Instance: name, Until: output.Stamp(end)})
					if a.JSON {
						continue
					}
					if err := a.Say(output.T("%s is held until %s", name, output.Day(output.FromBus(end), now))); err != nil {
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
	cmd.Flags().BoolVar(&self, "self", false, "hold the application in which this runs")
	cmd.Flags().BoolVar(&all, "all", false, "hold everything, also what is installed later")
	cmd.MarkFlagsMutuallyExclusive("self", "all")
	cmd.Flags().StringVar(&length, "for", "", "`time` to hold: 90m, 6h, 3d, 2w")
	cmd.Flags().StringVar(&end, "until", "", "`moment` to hold until: 18:00, 2030-05-12, \"2030-05-12 18:00\"")
	cmd.Flags().StringVar(&reason, "reason", "", "`text` that others see")
	cmd.MarkFlagsMutuallyExclusive("for", "until")
	return cmd
}
