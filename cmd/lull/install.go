package main

import (
	"context"

	"github.com/godbus/dbus/v5"
	"github.com/spf13/cobra"

	bus "github.com/lull/lull/dbus"
)

func (a *app) installCmd() *cobra.Command {
	var w waitFlags
	var o bus.InstallOptions
	cmd := &cobra.Command{
		Use:   "install NAME...",
		Short: "Install applications",
		Long: `Installs applications from the repositories that this machine knows.
` + "`lull repo add`" + ` makes a repository known.`,
		Example: `  lull install org.example.notes
  lull install --channel edge org.example.notes
  lull install --key work org.example.notes      a second one, with its own data`,
		Args: args(1, -1),
		RunE: func(cmd *cobra.Command, names []string) error {
			return a.refreshing(cmd.Context(), w, false, func(ctx context.Context, ag *agent) ([]dbus.ObjectPath, error) {
				var paths []dbus.ObjectPath
				var errs []error
				for _, name := range names {
					path, err := ag.manager.Install(ctx, name, o)
					if err != nil {
						errs = append(errs, err)
						continue
					}
					paths = append(paths, path)
				}
				return paths, join(errs)
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	w.add(cmd)
	cmd.Flags().StringVar(&o.Channel, "channel", "", "`channel` to follow, if not stable")
	cmd.Flags().StringVar(&o.Repository, "repository", "", "`name` of the repository, if several have it")
	cmd.Flags().StringVar(&o.Key, "key", "", "install a further instance, NAME_`KEY`, with data of its own")
	return cmd
}
