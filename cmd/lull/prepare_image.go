package main

import (
	"errors"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/storeid"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/cmd/lull/output"
)

// preparedImageJSON is what was removed, as names of files in the root.
type preparedImageJSON struct {
	output.Document
	Root    string   `json:"root"`
	Removed []string `json:"removed"`
}

func (a *app) systemPrepareImageCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "prepare-image",
		Short: "Remove what identifies this machine, before its image is cloned",
		Long: `Removes the identity of the store and the machine's number for rollouts. Each
machine that is made of the image gets its own when its agent starts for the first
time. Applications, their data and the settings stay.

The agent must not run. For an image that is mounted elsewhere, --root names its
store. See also systemd-machine-id-setup(1): the image needs no machine-id either.`,
		Example: `  systemctl stop lulld && lull system prepare-image
  lull system prepare-image --root /mnt/image/var/lib/lull`,
		Args: args(0, 0),
		RunE: func(*cobra.Command, []string) error {
			root, err := a.store()
			if err != nil {
				return err
			}
			removed, err := prepareImage(root)
			if err != nil {
				return err
			}
			if a.JSON {
				return a.WriteJSON(preparedImageJSON{output.One, root, append([]string{}, removed...)})
			}
			if len(removed) == 0 {
				return a.Say(output.T("%s has no identity: it is ready to be cloned", root))
			}
			return a.Say(output.T("removed %[1]s in %[2]s: it is ready to be cloned", output.List(removed), root))
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

func prepareImage(root string) (removed []string, err error) {
	// The lock creates missing files, and an image without lull needs no work.
	if _, err := os.Stat(root); errors.Is(err, fs.ErrNotExist) {
		return nil, output.Error(errkind.NotFound, "cannot prepare %s: it is not there", root).WithHint("--root names the store of the image")
	}
	if err := storeid.CheckFormat(root); err != nil {
		return nil, err
	}
	lock, err := store.LockRoot(root)
	if errkind.Is(err, errkind.Busy) {
		return nil, output.Error(errkind.Busy, "cannot prepare %s: its agent runs", root).WithHint("systemctl stop lulld stops it; applications go on, and start without it")
	}
	if err != nil {
		return nil, output.Error(errkind.KindOf(err), "cannot prepare %s: %w", root, err)
	}
	defer lock.Close()
	if removed, err = storeid.Forget(root); err != nil {
		return removed, output.Error(errkind.KindOf(err), "cannot prepare %s: %w", root, err)
	}
	return removed, nil
}
