package main

import (
	"context"

	"github.com/godbus/dbus/v5"
	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

func (a *app) installCmd() *cobra.Command {
	var w waitFlags
	var o bus.InstallOptions
	var file fileFlags
	cmd := &cobra.Command{
		Use:   "install NAME...|FILE...",
		Short: "Install applications",
		Long: `Installs applications from the repositories that this machine knows.
` + "`lull repo add`" + ` makes a repository known. One that is installed already stays as it is.

Of a FILE (.deb, .tar, .tar.gz, .tar.xz, .tar.zst, .tar.bz2, .zip, an AppImage of
type 2, or a container image) a package is made and put into the repository local of
this machine. A newer file of it is a refresh like any other: it waits while the
application runs, and can be reverted. Several files become one package, which the
first one names. A directory is a FILE too; it, or an archive, may have a lull.yaml at
the top.
A word is a FILE if it has a slash, or is a file with one of these suffixes.
Maintainer scripts of a .deb never run; they are named. Services, hooks and bus
names have to be confirmed, on the terminal or by --yes.`,
		Example: `  lull install org.example.notes
  lull install --channel edge org.example.notes
  lull install --key work org.example.notes      a second one, with its own data
  lull install ./Thing-1.2-x86_64.AppImage
  lull install ./thing_1.2_amd64.deb ./libthing_1.0_amd64.deb`,
		Args: args(1, -1),
		RunE: func(cmd *cobra.Command, names []string) error {
			if files, err := filesAmong(cmd, names); err != nil {
				return err
			} else if files {
				return a.installFiles(cmd.Context(), w, names, o.Key, file)
			}
			return a.refreshing(cmd.Context(), w, false, func(ctx context.Context, ag *agent) ([]dbus.ObjectPath, error) {
				var paths []dbus.ObjectPath
				var errs []error
				for _, name := range names {
					if a.endQuestion != nil { // each refusal of a call would ask for a password before
						meant, there, err := ag.beforeAsking(ctx, name, o.Key)
						if err == nil && there {
							err = a.already(output.T("%s is already installed", meant))
						}
						if err != nil {
							errs = append(errs, err)
						}
						if err != nil || there {
							continue
						}
						name = meant
					}
					path, err := ag.manager.Install(ctx, name, o)
					if errkind.Is(err, errkind.NotFound) {
						name, path, err = ag.installMeant(ctx, name, o, err)
					}
					if errkind.Is(err, errkind.Exists) {
						instance := name
						if o.Key != "" {
							instance += "_" + o.Key
						}
						err = a.already(output.T("%s is already installed", instance))
						if err == nil {
							continue
						}
					}
					if err != nil {
						err = goesOn(ctx, output.T("installation of %s", name), []string{name}, err)
						errs = append(errs, err)
						continue
					}
					paths = append(paths, path)
				}
				return paths, output.Join(errs)
			})
		},
		ValidArgsFunction: a.completeAvailable,
	}
	w.add(cmd)
	cmd.Flags().StringVar(&o.Channel, "channel", "", "`channel` to follow, if not stable")
	cmd.Flags().StringVar(&o.Repository, "repository", "", "`name` of the repository, if several have it")
	cmd.Flags().BoolVar(&o.Now, "now", false, "also a version whose rollout has not reached this machine")
	cmd.Flags().StringVar(&o.Key, "key", "", "install a further instance, NAME_`KEY`, with data of its own")
	file.add(cmd)
	a.completeChannels(cmd)
	return cmd
}

// beforeAsking returns the name that a user means, and whether it is installed, before a call
// that may ask for a password.
func (ag *agent) beforeAsking(ctx context.Context, typed, key string) (name string, there bool, err error) {
	name = typed
	if _, known, err := ag.available(ctx); err == nil { // else the call reports it
		if name, _, err = resolve(typed, known); err != nil {
			return typed, false, err
		}
	}
	instance := name
	if key != "" {
		instance += "_" + key
	}
	s, err := ag.overview(ctx)
	if err != nil {
		return name, false, err
	}
	if _, err := s.find(instance); err == nil {
		return instance, true, nil
	}
	return name, false, nil
}

// installMeant installs the application for a name that no repository has: the one with that
// last part. Otherwise it returns the error, with similar names.
func (ag *agent) installMeant(ctx context.Context, typed string, o bus.InstallOptions, unknown error) (string, dbus.ObjectPath, error) {
	name, err := ag.offered(ctx, typed, unknown)
	if err != nil {
		return typed, "", err
	}
	path, err := ag.manager.Install(ctx, name, o)
	return name, path, err
}
