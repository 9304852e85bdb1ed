package runs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/cgroup"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/runname"
)

// subtreeTop makes the directories that hold the groups of instances.
func subtreeTop(l cgroup.Layout) (owned, error) {
	if l.Unified == "" {
		return owned{}, errkind.New(errkind.Unavailable, "cannot use the subtree tracker: no cgroup v2 hierarchy is mounted")
	}
	for _, path := range []string{filepath.Dir(runname.SubtreeApp), runname.SubtreeApp, runname.SubtreeSvc} {
		if err := os.Mkdir(filepath.Join(l.Unified, path), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return owned{}, errkind.New(errkind.Unavailable, "cannot use the subtree tracker: %w", err)
		}
	}
	return subtreeGroups(l.Unified), nil
}

// removeSubtree removes those directories when they are empty.
func removeSubtree(g owned) error {
	for _, path := range []string{runname.SubtreeApp, runname.SubtreeSvc, filepath.Dir(runname.SubtreeApp)} {
		err := unix.Rmdir(filepath.Join(g.top, path))
		if err != nil && !cgroup.Gone(err) && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) {
			return &os.PathError{Op: "rmdir", Path: filepath.Join(g.top, path), Err: err}
		}
	}
	return nil
}
