package main

import (
	"context"

	"github.com/godbus/dbus/v5"
	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

func (a *app) revertCmd() *cobra.Command {
	var w waitFlags
	var o bus.RevertOptions
	cmd := &cobra.Command{
		Use:   "revert APP",
		Short: "Go back to the revision before",
		Long: `Goes back to the previous revision of an application, or to the one that is
named, with the data of that revision. The revision that is left is not offered
again. ` + "`lull status APP`" + ` shows the revisions that are kept.`,
		Example: `  lull revert org.example.notes
  lull revert --revision 3 org.example.notes`,
		Args: args(1, 1),
		RunE: func(cmd *cobra.Command, names []string) error {
			names, err := a.instances(cmd.Context(), names)
			if err != nil {
				return err
			}
			return a.refreshing(cmd.Context(), w, false, func(ctx context.Context, ag *agent) ([]dbus.ObjectPath, error) {
				path, err := ag.manager.Revert(ctx, names[0], o)
				if errkind.Is(err, errkind.Exists) {
					return nil, a.already(output.T("%s is at revision %d already", names[0], o.Revision))
				}
				if err != nil {
					return nil, goesOn(ctx, output.T("revert of %s", names[0]), names, err)
				}
				return []dbus.ObjectPath{path}, nil
			})
		},
		ValidArgsFunction: a.completeInstances,
	}
	w.add(cmd)
	cmd.Flags().Uint32Var(&o.Revision, "revision", 0, "`number` of the revision to go to")
	_ = cmd.RegisterFlagCompletionFunc("revision", a.completeRevisions) // the flag exists
	return cmd
}
