package manager

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/lull/lull/agent/messages"
	"github.com/lull/lull/agent/meta"
	"github.com/lull/lull/agent/problem"
	"github.com/lull/lull/agent/runctl"
	"github.com/lull/lull/agent/state"
)

// openState opens state.db. A damaged one is set aside, what is whole in it is taken
// over, and the rest is made again by settle from what lies in the file system. The
// retained index can not be: unless it was whole, collections wait until somebody
// says what it is.
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

// isFresh says whether state.db has nothing to be missed: it has content, or the
// root has none.
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

// settle puts right what was lost, before anybody is served.
func (m *Manager) settle() error {
	if m.state.ReadOnly() {
		m.Log.Error("the root cannot be written: nothing can be installed or refreshed until it can", messages.Key, messages.ReadOnly, "root", m.Root)
		return nil
	}
	m.settleSystem()
	return errors.Join(m.engine.Settle(), m.dropHolds())
}

// RetainNothing says that there was nothing in the retained index when it was lost.
func (m *Manager) RetainNothing() error {
	loss, lost, err := m.state.Lost()
	if err != nil {
		return err
	}
	if !lost || !loss.Retained {
		return problem.New(problem.Invalid, "cannot say that nothing is retained: the retained index is known")
	}
	return m.SetRetained(nil)
}

// followMarkers removes the markers that somebody makes by hand, as soon as they
// are there; and those that were there before the agent.
func (m *Manager) followMarkers() {
	w, err := m.Runctl.Watch()
	if err != nil {
		m.Log.Warn("markers that are made by hand are looked for at the start only", "error", err)
		m.policeAll(map[string]bool{})
		return
	}
	defer w.Close()
	busy := map[string]bool{} // with a launch under way when they were looked at
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
	done, err := m.engine.Police(name)
	if err != nil {
		m.Log.Error("cannot remove a marker", "instance", name, "error", err)
	}
	if delete(busy, name); !done && err == nil {
		busy[name] = true
	}
}

// fetchMissing brings back current packages that are not resident. Without the
// network they stay away until somebody repairs the store.
func (m *Manager) fetchMissing() {
	names, err := m.links.Instances()
	if err != nil {
		m.Log.Error("cannot list what is installed", "error", err)
	}
	for _, name := range names {
		if _, pkg, err := m.links.Read(name); err != nil || m.store.HasPackage(pkg) || m.ctx.Err() != nil {
			continue
		}
		if err := m.mendInstance(m.ctx, name); err != nil {
			m.Log.Error("what is current is not resident and cannot be fetched", messages.Key, messages.NotMended, "instance", name, "error", err)
		}
	}
}

// mendInstance puts the links, the package and the data of an instance right.
func (m *Manager) mendInstance(ctx context.Context, name string) error {
	if _, err := m.engine.Mend(name); err != nil {
		return err
	}
	_, pkg, err := m.links.Read(name)
	if problem.Is(err, problem.NotFound) {
		return nil // it belonged to nothing
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

// repositoryOf is where an instance comes from. A record that was made again from
// the links alone does not say; then it is the first that offers the package.
func (m *Manager) repositoryOf(ctx context.Context, inst *state.Instance) error {
	if inst.Repository != "" {
		return nil
	}
	name, _ := meta.SplitInstance(inst.Instance)
	repository, err := m.chooseRepository(ctx, name, "", inst.Channel)
	if err != nil {
		return err
	}
	m.Log.Warn("an instance comes from a repository again", messages.Key, messages.Mended, "instance", inst.Instance, "repository", repository, "channel", inst.Channel)
	inst.Repository = repository
	return m.state.UpdateInstance(inst.Instance, func(i *state.Instance) error { i.Repository = repository; return nil })
}

// verifyInstances looks at what the store knows nothing of: links and data.
func (m *Manager) verifyInstances(ctx context.Context, repair bool) (list []Finding, err error) {
	names, err := m.links.Instances()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if _, busy := m.engine.Of(name); busy {
			continue // a refresh looks after itself
		}
		wrong := m.engine.CheckInstance(name)
		if wrong == nil {
			continue
		}
		f := Finding{}
		f.What, f.Problem = filepath.Join("current", name), wrong.Error()
		if repair {
			rerr := errors.Join(m.engine.MoveDataAside(name), m.mendInstance(ctx, name))
			if f.Repaired = rerr == nil; !f.Repaired {
				err = errors.Join(err, fmt.Errorf("cannot repair %s: %w", name, rerr))
			}
		}
		list = append(list, f)
	}
	return list, err
}
