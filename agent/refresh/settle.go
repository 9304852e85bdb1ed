package refresh

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/lull/lull/agent/durable"
	"github.com/lull/lull/agent/messages"
	"github.com/lull/lull/agent/problem"
	"github.com/lull/lull/agent/state"
)

// Settle makes the records and the links agree, before anything else happens:
// after a journal was lost, or state.db as a whole, and after somebody has laid
// hands on the links. Instances with a refresh in the journal are left to that. One
// that cannot be settled is logged and does not stand in the way of others.
func (e *Engine) Settle() error {
	records, err := e.journal()
	if err != nil {
		return err
	}
	names, err := e.everybody()
	if err != nil {
		return err
	}
	for _, name := range names {
		if slices.ContainsFunc(records, func(r Refresh) bool { return r.Instance == name }) {
			continue
		}
		if _, err := e.settle(name); err != nil {
			e.Log.Error("cannot put an instance right", messages.Key, messages.NotMended, "instance", name, "error", err)
		}
	}
	return e.Installed()
}

// journal reads what is still to be done, and drops what is not.
func (e *Engine) journal() ([]Refresh, error) {
	records, err := state.Refreshes[Refresh](e.State, func(id string, err error) {
		e.Log.Error("dropping a refresh whose journal cannot be read", "refresh", id, "error", err)
	})
	var open []Refresh
	for _, r := range records {
		if r.End == "" && plans[r.Kind] != nil {
			open = append(open, r)
		} else {
			err = errors.Join(err, e.State.RemoveRefresh(r.ID))
		}
	}
	return open, err
}

// everybody lists all instances of which anything is known.
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

// Mend settles one instance, unless a refresh of it is under way, and says whether
// there was anything to do.
func (e *Engine) Mend(name string) (bool, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if t := e.taskOf(name); t != nil {
		return false, problem.New(problem.Busy, "cannot put %s right: a %s of it is under way", name, t.snapshot().Kind)
	}
	mended, err := e.settle(name)
	return mended, errors.Join(err, e.Installed())
}

// settle compares what the record, the links and the folders of an instance say.
// The record has the last word about revisions, and the link about which of them is
// current; where one of them says nothing the other stands in. Nothing that is
// found is deleted but revisions that never became current.
func (e *Engine) settle(name string) (mended bool, err error) {
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
			if err := e.Links.Swap(name, cur); err != nil {
				return false, err
			}
			mended = true
		} else if !problem.Is(curErr, problem.NotFound) {
			e.Log.Error("what is current belongs to no revision and is taken away", messages.Key, messages.Mended, "instance", name, "because", curErr)
			if err := e.Links.Drop(name); err != nil {
				return false, err
			}
			mended = true
		}
	}
	for k := range inst.Revisions {
		if v := &inst.Revisions[k]; v.Number == cur && v.Made.IsZero() {
			v.Made, finished = time.Now(), true // its refresh lost its journal behind the link
			inst.Accept(v.Package)
		}
	}
	if !known && len(inst.Revisions) == 0 {
		return mended, nil // nothing has ever been known of it
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
	return mended || finished, errors.Join(e.furnish(name, cur, mended || finished || !known), e.remember(name))
}

func sameRecord(a, b *state.Instance) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && string(x) == string(y)
}

// recall returns the record of an instance, or where there is none what is
// remembered beside its revisions; known is false where nothing is.
func (e *Engine) recall(name string) (inst state.Instance, recorded, known bool, err error) {
	inst, err = e.State.Instance(name)
	if err == nil || !problem.Is(err, problem.NotFound) {
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

// adopt takes over what the links say and the record does not.
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
			// Let go of, or given up, by an agent that died before it could remove the link.
			if ferr := e.Links.Forget(name, n); ferr != nil {
				e.Log.Error("cannot forget a revision", "instance", name, "revision", n, "error", ferr)
			}
			continue
		}
		v := state.Revision{Number: n, Package: pkg, From: e.Links.From(name, n)}
		if m, merr := e.Store.Launch(pkg); merr == nil {
			v.Version = m.Version
		}
		// Later ones than the current one were being prepared; without a current one
		// nobody knows which was last, and all count.
		if n <= cur || cur == 0 {
			v.Made = e.Links.Made(name, n)
		}
		inst.Revisions = append(inst.Revisions, v)
	}
	slices.SortFunc(inst.Revisions, func(a, b state.Revision) int { return int(a.Number) - int(b.Number) })
	// A number that was ever used is not given out again: folders with data are called by it.
	inst.Last = max(inst.Last, inst.Left, e.highestData(name))
	if _, have := inst.Revision(cur); err != nil || !have {
		cur = 0
	}
	return cur, err
}

// highestData is the highest revision that has a data folder.
func (e *Engine) highestData(name string) (highest uint32) {
	entries, err := os.ReadDir(filepath.Join(e.Root, "data", name))
	if err != nil {
		return 0 // none, or no folder; furnish looks at it
	}
	for _, d := range entries {
		if n, err := strconv.ParseUint(d.Name(), 10, 32); err == nil {
			highest = max(highest, uint32(n))
		}
	}
	return highest
}

// lastGood is the revision that was current last, as far as the record tells; 0:
// none was. One whose package is no longer resident counts: to go back further would
// show its users old data, and it can be fetched.
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

// furnish gives a revision its data folders where they are gone, and with all set
// its exports.
func (e *Engine) furnish(name string, rev uint32, all bool) error {
	pkg, err := e.Links.Package(name, rev)
	if err != nil {
		return err
	}
	m, err := e.Store.Launch(pkg)
	if problem.Is(err, problem.NotFound) {
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
		e.Log.Error("the system data of an instance is gone: it begins with an empty folder", messages.Key, messages.Mended, "instance", name, "path", missing)
		if err := e.makeDataFolders(name, rev, m); err != nil {
			return err
		}
	}
	if !all {
		return nil
	}
	return e.Exports.Write(name, m, e.Store.PackageDir(pkg))
}

// checkData looks at the folders of an instance's system data: missing is one that
// is not there, and the error is about one that is something else. Root follows
// nothing there.
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
			return "", problem.New(problem.Failed, "cannot use the data of %s: %s is a %s, and should be a folder", name, dir, what).
				WithHint("put the folder back; or lull verify --repair moves aside what is there and makes an empty one")
		}
	}
	return "", nil
}

// CheckInstance says what is wrong with the current revision of an instance: its
// links, its package, its data; nil: nothing.
func (e *Engine) CheckInstance(name string) error {
	rev, pkg, err := e.Links.Read(name)
	if err != nil {
		return err
	}
	m, err := e.Store.Launch(pkg)
	if problem.Is(err, problem.NotFound) {
		return problem.New(problem.NotFound, "cannot run %s: package %s of revision %d is not resident", name, pkg.Short(), rev).
			WithHint("lull verify --repair fetches it; lull revert %s goes back to an earlier revision", name)
	}
	if err != nil {
		return err
	}
	missing, err := e.checkData(name, rev, m.Data.Versioned)
	if err == nil && missing != "" {
		err = problem.New(problem.NotFound, "cannot find the data of %s: %s is gone", name, missing).
			WithHint("put it back from a backup; or lull verify --repair, or restarting lulld, makes an empty folder")
	}
	return err
}

// MoveDataAside renames what lies where data folders of an instance are to be and
// is none.
func (e *Engine) MoveDataAside(name string) error {
	rev, _, err := e.Links.Read(name)
	if err != nil {
		return nil // its links come first
	}
	top := filepath.Join(e.Root, "data", name)
	for _, dir := range []string{top, filepath.Join(top, "common"), e.dataDir(name, rev)} {
		fi, err := os.Lstat(dir)
		if err != nil || fi.IsDir() {
			continue
		}
		aside := fmt.Sprintf("%s.aside-%d", dir, time.Now().UnixNano())
		e.Log.Warn("moving aside what is no folder", messages.Key, messages.Mended, "instance", name, "path", dir, "to", aside)
		if err := durable.Rename(dir, aside); err != nil {
			return err
		}
	}
	return nil
}

// Refurnish makes the data folders and exports of what is current where they are gone.
func (e *Engine) Refurnish(name string) error {
	rev, _, err := e.Links.Read(name)
	if err != nil {
		return err
	}
	return errors.Join(e.furnish(name, rev, true), e.Runctl.CreateInstance(name))
}

// remember keeps a copy of the record beside the links, from which it is made again
// when state.db is lost.
func (e *Engine) remember(name string) error {
	inst, err := e.State.Instance(name)
	if problem.Is(err, problem.NotFound) {
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
