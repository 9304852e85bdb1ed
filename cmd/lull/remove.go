package main

import (
	"context"

	"github.com/godbus/dbus/v5"
	"github.com/spf13/cobra"

	bus "github.com/lull/lull/dbus"
)

func (a *app) removeCmd() *cobra.Command {
	var w waitFlags
	var o bus.RemoveOptions
	cmd := &cobra.Command{
		Use:   "remove APP...",
		Short: "Remove applications, once they are closed",
		Long: `Removes applications. One that is running is removed when it is closed.
What users have made with it stays in their home folders.`,
		Example: "  lull remove org.example.notes",
		Args:    args(1, -1),
		RunE: func(cmd *cobra.Command, names []string) error {
			return a.refreshing(cmd.Context(), w, false, func(ctx context.Context, ag *agent) ([]dbus.ObjectPath, error) {
				var paths []dbus.ObjectPath
				var errs []error
				for _, name := range names {
					path, err := ag.manager.Remove(ctx, name, o)
					if err != nil {
						errs = append(errs, err)
						continue
					}
					paths = append(paths, path)
				}
				return paths, join(errs)
			})
		},
		ValidArgsFunction: a.completeInstances,
	}
	w.add(cmd)
	cmd.Flags().BoolVar(&o.Purge, "purge", false, "remove its system data, too")
	return cmd
}
