package repair

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/lull/lull/agent/current"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/agent/store"
)

// OpenState opens the state.db of a root. A damaged one is set aside, its intact content is
// taken over, and the engine restores the rest from the file system (refresh.Engine.Reconcile).
// The retained index cannot be restored: unless it was intact, collections wait until its
// content is set explicitly.
func OpenState(root string, links current.Links, content *store.Store, log *slog.Logger) (*state.DB, error) {
	path := filepath.Join(root, "state.db")
	fresh, err := isFresh(path, links, content)
	if err != nil {
		return nil, err
	}
	loss := state.Loss{At: time.Now(), Cause: "it was not there", Retained: true}
	var whole state.Salvaged
	db, err := state.Open(path)
	var corrupt *state.CorruptError
	switch {
	case errors.As(err, &corrupt):
		loss.Cause = corrupt.Err.Error()
		if loss.Aside, err = state.SetAside(path, loss.At); err != nil {
			return nil, err
		}
		whole = state.Salvage(loss.Aside)
		loss.Retained = !whole.Known
		if db, err = state.Open(path); err != nil {
			return nil, err
		}
	case err != nil || fresh:
		return db, err
	}
	log.Error("state.db was lost and is made again: holds, refreshes under way and reverted versions that are not told below are forgotten", messages.Key, messages.StateLost,
		"cause", loss.Cause, "set-aside", loss.Aside, "retained-index-lost", loss.Retained,
		"instances-saved", len(whole.Instances), "holds-saved", len(whole.Holds))
	err = db.PutLoss(loss)
	for _, i := range whole.Instances {
		err = errors.Join(err, db.UpdateInstance(i.Instance, func(now *state.Instance) error { *now = i; return nil }))
	}
	for _, h := range whole.Holds {
		log.Warn("a hold was saved", "instance", h.Instance, "user", h.Owner, "until", h.Until)
		err = errors.Join(err, db.PutHold(h))
	}
	if whole.Known {
		err = errors.Join(err, db.PutSet(state.Retained, whole.Retained))
	}
	if whole.System != nil {
		err = errors.Join(err, db.RestoreSystem(whole.System))
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// isFresh reports whether state.db lacks nothing: it has content, or the root has none.
func isFresh(path string, links current.Links, content *store.Store) (bool, error) {
	fi, err := os.Stat(path)
	if err == nil && fi.Size() > 0 {
		return true, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	known, err := links.Known()
	return len(known) == 0 && len(content.Packages()) == 0, err
}
