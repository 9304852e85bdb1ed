package main

import (
	"context"

	"github.com/godbus/dbus/v5"
	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/problem"
	bus "github.com/lull/lull/dbus"
)

func (a *app) refreshCmd() *cobra.Command {
	var w waitFlags
	var o bus.RefreshOptions
	var cancel bool
	var prepared preparedFlags
	cmd := &cobra.Command{
		Use:   "refresh [APP...]",
		Short: "Bring applications up to date",
		Long: `Looks for newer versions of the applications, or of all of them, and refreshes
what has one. An application that is running is refreshed when it is closed:
then the command leaves with status 75 and says who runs it. (Without APP that
is no failure: each is refreshed in its own time.)`,
		Example: `  lull refresh                               everything
  lull refresh org.example.notes             one
  lull refresh --wait org.example.notes      and stay until it is done
  lull refresh --atomic server client        both, or none of them
  lull refresh --cancel org.example.notes    give up a refresh that waits`,
		Args: args(0, -1),
		RunE: func(cmd *cobra.Command, names []string) error {
			if cancel {
				return a.cancelRefreshes(cmd.Context(), names)
			}
			if prepared.on {
				return a.applyPrepared(cmd.Context(), prepared, names)
			}
			if o.Atomic && len(names) == 0 {
				return problem.New(problem.Usage, "cannot refresh all or nothing: no application is named")
			}
			// The agent need not report who is busy: the refresh objects say it,
			// when all that can be done before has been done.
			o.NoWait = true
			none := false
			err := a.refreshing(cmd.Context(), w, len(names) == 0, func(ctx context.Context, ag *agent) ([]dbus.ObjectPath, error) {
				if names == nil {
					names = []string{}
				}
				paths, err := ag.manager.Refresh(ctx, names, o)
				none = err == nil && len(paths) == 0
				return paths, err
			})
			if err == nil && none && !a.json {
				return a.say("everything is up to date")
			}
			return err
		},
		ValidArgsFunction: a.completeInstances,
	}
	w.add(cmd)
	cmd.Flags().BoolVar(&o.Atomic, "atomic", false, "refresh all of APP, or none: when all are closed, and undone if one fails")
	cmd.Flags().BoolVar(&cancel, "cancel", false, "give up the refreshes of APP that still wait")
	prepared.add(cmd)
	return cmd
}

// cancelRefreshes gives up what is under way for the instances.
func (a *app) cancelRefreshes(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return problem.New(problem.Usage, "cannot cancel: no application is named").WithHint("`lull pending` shows what waits")
	}
	return a.ask(ctx, func(ctx context.Context, ag *agent) error {
		s, err := ag.snapshot(ctx)
		if err != nil {
			return err
		}
		var errs []error
		for _, name := range names {
			found := false
			for path, r := range s.refreshes {
				if r.Instance != name || over(r.State) {
					continue
				}
				found = true
				if err := bus.NewRefreshProxy(ag.conn, path).Cancel(ctx); err != nil {
					errs = append(errs, err)
				} else if err := a.say("the " + r.Kind + " of " + name + " is cancelled"); err != nil {
					return err
				}
			}
			if !found {
				errs = append(errs, problem.New(problem.NotFound, "cannot cancel the refresh of %s: none is under way", name))
			}
		}
		return join(errs)
	})
}
