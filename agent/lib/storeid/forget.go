package storeid

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/lull/lull/agent/lib/durable"
)

// RolloutFile is the file in the root that decides which share of a rollout this machine
// belongs to, where it has no machine-id(5).
const RolloutFile = "rollout-id"

// Forget removes from the root what identifies the machine, so that each clone of its
// image gets an identity at its first start. It returns the names of the removed files.
// The caller holds the root's lock: an agent that runs would keep the old identity.
func Forget(root string) (removed []string, err error) {
	for _, name := range []string{File, RolloutFile} {
		err := os.Remove(filepath.Join(root, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return removed, err
		}
		removed = append(removed, name)
	}
	if len(removed) > 0 {
		err = durable.SyncDir(root)
	}
	return removed, err
}
