package refresh

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/state"
)

// Reconcile makes the records and the links agree. It runs first, for the case that a journal or
// the whole state.db was lost, or that the links were changed by hand. Instances with a
// refresh in the journal are left to that refresh. An instance that cannot be settled is
// logged and does not block others.
func (e *Engine) Reconcile() error {
	records, err := e.journal()
	if err != nil {
		return err
	}
	names, err := e.everybody()
	if err != nil {
		return err
	}
	owned := len(records) == 0
	for _, name := range names {
		if slices.ContainsFunc(records, func(r plan.Refresh) bool { return r.Instance == name }) {
			if err := e.restoreExports(name); err != nil {
				e.Log.Error("cannot put an instance right", messages.Key, messages.NotMended, "instance", name, "error", err)
			}
			continue
		}
		if _, err := e.reconcile(name); err != nil {
			e.Log.Error("cannot put an instance right", messages.Key, messages.NotMended, "instance", name, "error", err)
		}
		if _, _, err := e.Links.Read(name); !errkind.Is(err, errkind.NotFound) && !e.Exports.Recorded(name) {
			owned = false
		}
	}
	if owned {
		if err := e.Exports.Sweep(); err != nil {
			e.Log.Error("cannot remove exported files that no instance owns", messages.Key, messages.NotMended, "error", err)
		}
	}
	return e.Installed("")
}

// restoreExports writes the exports of an instance with an unfinished refresh that have no
// record: a removal of lull's package deletes them, so that no menu entry leads nowhere.
func (e *Engine) restoreExports(name string) error {
	rev, _, err := e.Links.Read(name)
	if errkind.Is(err, errkind.NotFound) || err == nil && e.Exports.Recorded(name) {
		return nil
	}
	if err != nil {
		return err
	}
	return e.ensureDataAndExports(name, rev, true)
}

// journal returns the records of unfinished refreshes, and drops the others.
func (e *Engine) journal() ([]plan.Refresh, error) {
	records, err := state.Refreshes[plan.Refresh](e.State, func(id string, err error) {
		e.Log.Error("dropping a refresh whose journal cannot be read", "refresh", id, "error", err)
	})
	var open []plan.Refresh
	for _, r := range records {
		if r.End == "" && r.Kind.Plan() != nil {
			open = append(open, r)
		} else {
			err = errors.Join(err, e.State.RemoveRefresh(r.ID))
		}
	}
	return open, err
}

// everybody lists all known instances.
func (e *Engine) everybody() ([]string, error) {
	instances, err := e.State.Instances()
	if err != nil {
		return nil, err
	}
	known, err1 := e.Links.Known()
	names, err2 := e.Links.Instances()
	names = append(names, known...)
	for _, i := range instances {
		names = append(names, i.Instance)
	}
	slices.Sort(names)
	return slices.Compact(names), errors.Join(err1, err2)
}

// Repair settles one instance, unless a refresh of it is under way, and reports whether there
// was anything to do.
func (e *Engine) Repair(name string) (bool, error) {
	old, release, err := e.claim(e.ctx, name)
	if err != nil {
		return false, fmt.Errorf("cannot put %s right: %w", name, err)
	}
	if old != nil {
		return false, errkind.New(errkind.Busy, "cannot put %s right: a %s of it is under way", name, old.snapshot().Kind)
	}
	defer release()
	e.neighbours.forget(name) // its link may have been changed by hand
	mended, err := e.reconcile(name)
	return mended, errors.Join(err, e.Installed(name))
}

// reconcile compares the record, the links and the directories of an instance. The record
// decides about revisions, and the link about which of them is current. If one of them is
// missing, the other is used instead. Only revisions that never became current are deleted.
func (e *Engine) reconcile(name string) (mended bool, err error) {
	inst, recorded, known, err := e.recall(name)
	if err != nil {
		return false, err
	}
	old := inst
	old.Revisions = slices.Clone(inst.Revisions)
	cur, curErr := e.adopt(&inst, known)
	var dropped []uint32
	inst.Revisions = slices.DeleteFunc(inst.Revisions, func(v state.Revision) bool {
		staged := v.Made.IsZero() && v.Number != cur
		if staged {
			dropped = append(dropped, v.Number)
		}
		return staged
	})
	for _, n := range dropped {
		if err := e.Links.Forget(name, n); err != nil {
			return false, err
		}
	}
	for _, v := range inst.Revisions {
		if pkg, err := e.Links.Package(name, v.Number); err != nil || pkg != v.Package || v.From != 0 && e.Links.From(name, v.Number) != v.From {
			e.Log.Warn("making the link of a revision again", messages.Key, messages.Mended, "instance", name, "revision", v.Number, "was", err)
			if err := e.Links.Add(name, v.Number, v.Package, v.From); err != nil {
				return false, err
			}
			mended = true
		}
	}
	finished := false
	if curErr != nil {
		if cur, _, curErr = e.Links.Read(name); curErr == nil {
			mended = true // by the link of its revision
		}
	}
	if curErr != nil {
		if cur = lastGood(inst.Revisions); cur != 0 {
			e.Log.Error("making current what was so last", messages.Key, messages.Mended, "instance", name, "revision", cur, "because", curErr)
			if err := e.swap(name, cur); err != nil {
				return false, err
			}
			mended = true
		} else if !errkind.Is(curErr, errkind.NotFound) {
			e.Log.Error("what is current belongs to no revision and is taken away", messages.Key, messages.Mended, "instance", name, "because", curErr)
			if err := e.drop(name); err != nil {
				return false, err
			}
			mended = true
		}
	}
	for k := range inst.Revisions {
		if v := &inst.Revisions[k]; v.Number == cur && v.Made.IsZero() {
			v.Made, finished = time.Now(), true // its refresh lost its journal after the link step
			inst.Accept(v.Package)
		}
	}
	if !known && len(inst.Revisions) == 0 {
		return mended, nil // nothing was ever known of it
	}
	if !recorded || !sameRecord(&old, &inst) {
		if err := e.State.UpdateInstance(name, func(i *state.Instance) error { *i = inst; return nil }); err != nil {
			return mended, err
		}
	}
	if cur == 0 {
		if len(dropped) > 0 {
			err = errors.Join(e.Exports.Remove(name), e.removeMarkers(name))
		}
		return mended || len(dropped) > 0, err
	}
	return mended || finished, errors.Join(e.ensureDataAndExports(name, cur, mended || finished || !known || !e.Exports.Recorded(name)), e.remember(name))
}

func sameRecord(a, b *state.Instance) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && string(x) == string(y)
}

// recall returns the record of an instance. Without a record it returns the copy beside its
// revisions. known is false if there is neither.
func (e *Engine) recall(name string) (inst state.Instance, recorded, known bool, err error) {
	inst, err = e.State.Instance(name)
	if err == nil || !errkind.Is(err, errkind.NotFound) {
		return inst, err == nil, err == nil, err
	}
	if b := e.Links.Recall(name); b != nil {
		if err := json.Unmarshal(b, &inst); err == nil && inst.Instance == name {
			return inst, false, true, nil
		}
		e.Log.Error("what is remembered of an instance cannot be read", messages.Key, messages.NotMended, "instance", name)
	}
	return state.Instance{Instance: name, Channel: defaultChannel}, false, false, nil
}

const defaultChannel = "stable"

// adopt takes over from the links what the record lacks.
func (e *Engine) adopt(inst *state.Instance, known bool) (cur uint32, err error) {
	name := inst.Instance
	cur, _, err = e.Links.Read(name)
	linked, lerr := e.Links.Revisions(name)
	if lerr != nil {
		e.Log.Error("cannot list the revisions of an instance", "instance", name, "error", lerr)
	}
	slices.Sort(linked)
	for _, n := range linked {
		inst.Last = max(inst.Last, n)
		if _, have := inst.Revision(n); have {
			continue
		}
		pkg, perr := e.Links.Package(name, n)
		switch {
		case perr != nil:
			e.Log.Error("a revision cannot be read", messages.Key, messages.NotMended, "instance", name, "revision", n, "error", perr)
			continue
		case known && n != cur:
			// An agent released it, or gave it up, and died before it could remove the link.
			if ferr := e.Links.Forget(name, n); ferr != nil {
				e.Log.Error("cannot forget a revision", "instance", name, "revision", n, "error", ferr)
			}
			continue
		}
		v := state.Revision{Number: n, Package: pkg, From: e.Links.From(name, n)}
		if m, merr := e.Store.Launch(pkg); merr == nil {
			v.Version = m.Version
		}
		// Revisions later than the current one were being prepared. Without a current one it
		// is unknown which was last, and all count.
		if n <= cur || cur == 0 {
			v.Made = e.Links.Made(name, n)
		}
		inst.Revisions = append(inst.Revisions, v)
	}
	slices.SortFunc(inst.Revisions, func(a, b state.Revision) int { return int(a.Number) - int(b.Number) })
	// A used number is never reused: directories with data are named after it.
	inst.Last = max(inst.Last, inst.Left, e.highestData(name))
	if _, have := inst.Revision(cur); err != nil || !have {
		cur = 0
	}
	return cur, err
}

// lastGood returns the revision that was current last, according to the record; 0 means that
// none was. A revision whose package is no longer resident counts: an earlier one would show
// its users old data, and the package can be fetched.
func lastGood(list []state.Revision) uint32 {
	reverted := uint32(0)
	for _, v := range slices.Backward(list) {
		switch {
		case v.Made.IsZero():
		case !v.Reverted:
			return v.Number
		case reverted == 0:
			reverted = v.Number
		}
	}
	return reverted
}

// ensureDataAndExports creates the missing data directories of a revision, and with all set its exports.
func (e *Engine) ensureDataAndExports(name string, rev uint32, all bool) error {
	pkg, err := e.Links.Package(name, rev)
	if err != nil {
		return err
	}
	m, err := e.Store.Launch(pkg)
	if errkind.Is(err, errkind.NotFound) {
		return nil // repairing the store comes first
	}
	if err != nil {
		return err
	}
	missing, err := e.checkData(name, rev, m.Data.Versioned)
	if err != nil {
		return err
	}
	if missing != "" {
		e.Log.Error("the system data of an instance is gone: it begins with an empty directory", messages.Key, messages.Mended, "instance", name, "path", missing)
		if err := e.makeDataFolders(name, rev, m); err != nil {
			return err
		}
	}
	if !all {
		return nil
	}
	return e.Exports.Write(name, m, e.Store.PackageDir(pkg))
}

// CheckInstance returns what is wrong with the current revision of an instance: its links,
// its package or its data. nil means that nothing is.
func (e *Engine) CheckInstance(name string) error {
	rev, pkg, err := e.Links.Read(name)
	if err != nil {
		return err
	}
	m, err := e.Store.Launch(pkg)
	if errkind.Is(err, errkind.NotFound) {
		return errkind.New(errkind.NotFound, "cannot run %s: package %s of revision %d is not resident", name, pkg.Short(), rev).
			WithHint("lull verify --repair fetches it; lull revert %s goes back to an earlier revision", name)
	}
	if err != nil {
		return err
	}
	missing, err := e.checkData(name, rev, m.Data.Versioned)
	if err == nil && missing != "" {
		err = errkind.New(errkind.NotFound, "cannot find the data of %s: %s is gone", name, missing).
			WithHint("put it back from a backup; or lull verify --repair, or restarting lulld, makes an empty directory")
	}
	return err
}

// Refurnish creates the missing data directories and exports of the current revision.
func (e *Engine) Refurnish(name string) error {
	rev, _, err := e.Links.Read(name)
	if err != nil {
		return err
	}
	return errors.Join(e.ensureDataAndExports(name, rev, true), e.Tie(name), e.Runctl.CreateInstance(name))
}

// remember keeps a copy of the record beside the links, to restore it when state.db is lost.
func (e *Engine) remember(name string) error {
	inst, err := e.State.Instance(name)
	if errkind.Is(err, errkind.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	b, err := json.Marshal(inst)
	if err != nil {
		return err
	}
	return e.Links.Remember(name, append(b, '\n'))
}
