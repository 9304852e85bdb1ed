package main

import (
	"context"
	"slices"

	"github.com/godbus/dbus/v5"
	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

func (a *app) removeCmd() *cobra.Command {
	var w waitFlags
	var o bus.RemoveOptions
	cmd := &cobra.Command{
		Use:   "remove APP...",
		Short: "Remove applications, once they are closed",
		Long: `Removes applications. One that is running is removed when it is closed.
What users have made with it stays in their home directories.`,
		Example: "  lull remove org.example.notes",
		Args:    args(1, -1),
		RunE: func(cmd *cobra.Command, names []string) error {
			names, err := a.instances(cmd.Context(), names)
			if err != nil {
				return err
			}
			return a.refreshing(cmd.Context(), w, false, func(ctx context.Context, ag *agent) ([]dbus.ObjectPath, error) {
				var paths []dbus.ObjectPath
				var errs []error
				for _, name := range names {
					if a.endQuestion != nil && ag.lacks(ctx, name) { // the call would ask for a password
						if err := a.already(notInstalled(ctx, ag, name)); err != nil {
							return paths, err
						}
						continue
					}
					path, err := ag.manager.Remove(ctx, name, o)
					if errkind.Is(err, errkind.NotFound) {
						if err = a.already(notInstalled(ctx, ag, name)); err == nil {
							continue
						}
					}
					if err != nil {
						errs = append(errs, goesOn(ctx, output.T("removal of %s", name), []string{name}, err))
						continue
					}
					paths = append(paths, path)
				}
				return paths, output.Join(errs)
			})
		},
		ValidArgsFunction: a.completeInstances,
	}
	w.add(cmd)
	cmd.Flags().BoolVar(&o.Purge, "purge", false, "remove its system data, too")
	return cmd
}

// lacks reports whether it is certain that there is no such instance, not even one that is
// being installed.
func (ag *agent) lacks(ctx context.Context, name string) bool {
	s, err := ag.overview(ctx)
	return err == nil && !slices.ContainsFunc(s.candidates(), func(c candidate) bool { return c.name == name })
}

// notInstalled returns the error about a missing instance, with similar names.
func notInstalled(ctx context.Context, ag *agent, name string) string {
	text := output.T("%s is not installed", name)
	s, err := ag.overview(ctx)
	if err != nil {
		return text // its absence is certain
	}
	if hint := did(name, s.candidates(), ""); hint != "" {
		text += "; " + hint
	}
	return text
}
