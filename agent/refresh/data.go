package refresh

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lull/lull/agent/lib/copytree"
	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/services"
)

// reportSkipped logs which parts the copy of the system data lacks. They stay in the old
// revision's directory as long as that is kept. They do not undo the refresh, because the
// service decides what its data contains.
func (e *Engine) reportSkipped(r *plan.Refresh, src string, stats copytree.Stats) {
	for _, s := range stats.Skipped {
		if s.Lost {
			e.Log.Warn("a part of the system data could not be copied", messages.Key, messages.DataMissing, "instance", r.Instance, "refresh", r.ID,
				"path", filepath.Join(src, s.Path), "why", s.Why)
		} else {
			e.Log.Info("not copied, because it is no data", "instance", r.Instance, "path", s.Path, "why", s.Why)
		}
	}
	if stats.Unnamed > 0 {
		e.Log.Warn("more could not be copied than is named", messages.Key, messages.DataMissing, "instance", r.Instance, "refresh", r.ID, "entries", stats.Unnamed)
	}
}

// undoneSuffix, behind a number of a revision, begins the names of what undoCopy could not remove.
const undoneSuffix = ".undone-"

// pruneData removes the data of revisions that are not kept, including those of an earlier
// installation of the instance. Data that cannot be removed, for example because a service
// has mounted something in it, is logged, and tried again the next time.
func (e *Engine) pruneData(instance string, kept []uint32) error {
	dir := filepath.Join(e.Root, "data", instance)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, d := range entries {
		name, _, partial := strings.Cut(d.Name(), copytree.PartialSuffix)
		number, _, undone := strings.Cut(name, undoneSuffix)
		n, perr := strconv.ParseUint(number, 10, 32)
		var rerr error
		switch {
		case perr != nil:
		case partial: // precopied for a refresh whose journal was lost
			rerr = copytree.Discard(filepath.Join(dir, name), copytree.Options{})
		case undone, !slices.Contains(kept, uint32(n)):
			rerr = copytree.Remove(filepath.Join(dir, name))
		}
		if rerr != nil {
			e.Log.Warn("data that is no longer needed cannot be removed", messages.Key, messages.DataLeft, "instance", instance, "path", filepath.Join(dir, d.Name()), "error", rerr)
		}
	}
	return err
}

// dataDir returns the directory of one revision's system data.
func (e *Engine) dataDir(instance string, rev uint32) string {
	return filepath.Join(e.Root, "data", instance, strconv.FormatUint(uint64(rev), 10))
}

// makeDataFolders makes the directories that LULL_DATA and LULL_COMMON name, for the user
// that the services run as.
func (e *Engine) makeDataFolders(instance string, rev uint32, m *manifest.Launch) error {
	if _, err := e.checkData(instance, rev, m.Data.Versioned); err != nil {
		return err
	}
	dirs := []string{filepath.Join(e.Root, "data", instance, "common")}
	if m.Data.Versioned {
		dirs = append(dirs, e.dataDir(instance, rev))
	}
	for _, dir := range dirs {
		if _, err := os.Lstat(dir); err == nil {
			continue
		}
		if err := durable.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := services.Own(dir, m.Services); err != nil {
			return err
		}
	}
	return nil
}

// checkData checks the directories of an instance's system data. It returns one that is
// missing, or an error about one that is something else. As root, it follows no symbolic link
// there.
func (e *Engine) checkData(name string, rev uint32, versioned bool) (missing string, err error) {
	top := filepath.Join(e.Root, "data", name)
	dirs := []string{top, filepath.Join(top, "common")}
	if versioned {
		dirs = append(dirs, e.dataDir(name, rev))
	}
	for _, dir := range dirs {
		fi, err := os.Lstat(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return dir, nil
		case err != nil:
			return "", fmt.Errorf("cannot look at the data of %s: %w", name, err)
		case !fi.IsDir():
			what := "file"
			if fi.Mode()&fs.ModeSymlink != 0 {
				what = "symbolic link"
			}
			return "", errkind.New(errkind.Failed, "cannot use the data of %s: %s is a %s, and should be a directory", name, dir, what).
				WithHint("restore the directory; or lull verify --repair moves aside what is there and makes an empty one")
		}
	}
	return "", nil
}

// highestData returns the highest revision that has a data directory.
func (e *Engine) highestData(name string) (highest uint32) {
	entries, err := os.ReadDir(filepath.Join(e.Root, "data", name))
	if err != nil {
		return 0 // none, or not a directory; ensureDataAndExports checks it
	}
	for _, d := range entries {
		if n, err := strconv.ParseUint(d.Name(), 10, 32); err == nil {
			highest = max(highest, uint32(n))
		}
	}
	return highest
}

// MoveDataAside renames each file in the place of a data directory of an instance.
func (e *Engine) MoveDataAside(name string) error {
	rev, _, err := e.Links.Read(name)
	if err != nil {
		return nil // its links are repaired first
	}
	top := filepath.Join(e.Root, "data", name)
	for _, dir := range []string{top, filepath.Join(top, "common"), e.dataDir(name, rev)} {
		fi, err := os.Lstat(dir)
		if err != nil || fi.IsDir() {
			continue
		}
		aside := fmt.Sprintf("%s.aside-%d", dir, time.Now().UnixNano())
		e.Log.Warn("moving aside what is not a directory", messages.Key, messages.Mended, "instance", name, "path", dir, "to", aside)
		if err := durable.Rename(dir, aside); err != nil {
			return err
		}
	}
	return nil
}
