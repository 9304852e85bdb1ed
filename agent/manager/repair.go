package manager

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/lib/runctl"
	"github.com/lull/lull/agent/state"
)

// openState opens state.db. A damaged one is set aside, its intact content is taken over, and
// reconcile restores the rest from the file system. The retained index cannot be restored:
// unless it was intact, collections wait until its content is set explicitly.
func (m *Manager) openState() (*state.DB, error) {
	path := filepath.Join(m.Root, "state.db")
	fresh, err := m.isFresh(path)
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
	m.Log.Error("state.db was lost and is made again: holds, refreshes under way and reverted versions that are not told below are forgotten", messages.Key, messages.StateLost,
		"cause", loss.Cause, "set-aside", loss.Aside, "retained-index-lost", loss.Retained,
		"instances-saved", len(whole.Instances), "holds-saved", len(whole.Holds))
	err = db.PutLoss(loss)
	for _, i := range whole.Instances {
		err = errors.Join(err, db.UpdateInstance(i.Instance, func(now *state.Instance) error { *now = i; return nil }))
	}
	for _, h := range whole.Holds {
		m.Log.Warn("a hold was saved", "instance", h.Instance, "user", h.Owner, "until", h.Until)
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
func (m *Manager) isFresh(path string) (bool, error) {
	fi, err := os.Stat(path)
	if err == nil && fi.Size() > 0 {
		return true, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	known, err := m.links.Known()
	return len(known) == 0 && len(m.store.Packages()) == 0, err
}

// reconcile restores lost state, before any request is served.
func (m *Manager) reconcile() error {
	if m.state.ReadOnly() {
		m.Log.Error("the root cannot be written: nothing can be installed or refreshed until it can", messages.Key, messages.ReadOnly, "root", m.Root)
		return nil
	}
	m.reconcileSystem()
	return errors.Join(m.engine.Reconcile(), m.holds.Drop())
}

// RetainNothing declares that the retained index was empty when it was lost.
func (m *Manager) RetainNothing() error {
	loss, lost, err := m.state.Lost()
	if err != nil {
		return err
	}
	if !lost || !loss.Retained {
		return errkind.New(errkind.Invalid, "cannot say that nothing is retained: the retained index is known")
	}
	return m.SetRetained(nil)
}

// followMarkers removes the markers that are made by hand as soon as they appear, and those
// from before the agent's start.
func (m *Manager) followMarkers() {
	w, err := m.Runctl.Watch()
	if err != nil {
		m.Log.Warn("markers that are made by hand are removed at the start only", "error", err)
		m.policeAll(map[string]bool{})
		return
	}
	defer w.Close()
	busy := map[string]bool{} // with a launch under way when they were checked
	m.policeAll(busy)
	for {
		select {
		case <-m.ctx.Done():
			return
		case e, ok := <-w.Events():
			switch {
			case !ok:
				return
			case e.Kind == runctl.LookAtAll:
				m.policeAll(busy)
			case e.Kind == runctl.TetherReleased:
				m.runsChanged(e.Instance)
				m.engine.Wake(e.Instance)
			case e.Kind == runctl.Inhibition, e.Kind == runctl.RunningMade, e.Kind == runctl.LockReleased && busy[e.Instance]:
				m.police(e.Instance, busy)
			}
		}
	}
}

func (m *Manager) policeAll(busy map[string]bool) {
	names, err := m.engine.Marked()
	if err != nil {
		m.Log.Error("cannot list the markers", "error", err)
	}
	for _, name := range names {
		m.police(name, busy)
	}
}

func (m *Manager) police(name string, busy map[string]bool) {
	done, err := m.engine.RemoveStrayMarkers(name)
	if err != nil {
		m.Log.Error("cannot remove a marker", "instance", name, "error", err)
	}
	if delete(busy, name); !done && err == nil {
		busy[name] = true
	}
}

// fetchMissing fetches current packages that are not resident. Without a network they stay
// missing until the store is repaired.
func (m *Manager) fetchMissing() {
	names, err := m.links.Instances()
	if err != nil {
		m.Log.Error("cannot list what is installed", "error", err)
	}
	for _, name := range names {
		if _, pkg, err := m.links.Read(name); err != nil || m.store.HasPackage(pkg) || m.ctx.Err() != nil {
			continue
		}
		if err := m.repairInstance(m.ctx, name); err != nil {
			m.Log.Error("what is current is not resident and cannot be fetched", messages.Key, messages.NotMended, "instance", name, "error", err)
		}
	}
}

// repairInstance repairs the links, the package and the data of an instance.
func (m *Manager) repairInstance(ctx context.Context, name string) error {
	if _, err := m.engine.Repair(name); err != nil {
		return err
	}
	_, pkg, err := m.links.Read(name)
	if errkind.Is(err, errkind.NotFound) {
		return nil // nothing of it is current
	}
	if err != nil {
		return err
	}
	if _, err := m.store.Launch(pkg); err != nil {
		m.Log.Warn("fetching a package that was lost", messages.Key, messages.Mended, "instance", name, "package", pkg.Short())
		if err := m.repairPackage(ctx, pkg); err != nil {
			return err
		}
	}
	if err := m.engine.Refurnish(name); err != nil {
		return err
	}
	m.observer.PackageChanged(name)
	return m.engine.CheckInstance(name)
}

// verifyInstances checks the links and data, which the store does not know.
func (m *Manager) verifyInstances(ctx context.Context, repair bool) (list []Finding, err error) {
	names, err := m.links.Instances()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if _, busy := m.engine.Of(name); busy {
			continue // a refresh handles its own instance
		}
		wrong := m.engine.CheckInstance(name)
		if wrong == nil {
			continue
		}
		f := Finding{}
		f.What, f.Problem = filepath.Join("current", name), wrong.Error()
		if repair {
			rerr := errors.Join(m.engine.MoveDataAside(name), m.repairInstance(ctx, name))
			if f.Repaired = rerr == nil; !f.Repaired {
				err = errors.Join(err, fmt.Errorf("cannot repair %s: %w", name, rerr))
			}
		}
		list = append(list, f)
	}
	return list, err
}
