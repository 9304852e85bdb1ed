package refresh

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/lull/lull/agent/lib/copytree"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/state"
)

// doFinish makes the new revision the latest of the history and releases the revisions that
// policy does not keep, in one write of the record.
func doFinish(_ context.Context, t *task) error {
	r := &t.r
	if r.Kind == plan.Remove {
		return t.e.forget(r)
	}
	var kept []uint32
	keep := t.e.Policy().For(r.Instance).KeepRevisions
	err := t.e.State.UpdateInstance(r.Instance, func(i *state.Instance) error {
		for k := range i.Revisions {
			v := &i.Revisions[k]
			if v.Number == r.To {
				v.Made, v.Version, v.Reverted = time.Now(), r.ToVersion, false
				i.Accept(v.Package)
			}
			if r.Kind == plan.Revert && v.Number == r.From {
				v.Reverted = true
				i.Refuse(v.Package)
			}
		}
		if r.Kind != plan.Revert || i.Backoff != nil && i.Backoff.Package == r.Package {
			i.Backoff = nil // a working version ends the backoff after a failed one
		}
		i.Window = nil
		i.Left = 0
		for part, took := range t.took {
			if i.Took == nil {
				i.Took = map[string]time.Duration{}
			}
			i.Took[part] = took
		}
		if r.Kind == plan.Update {
			i.Copied = t.copied
		}
		kept = releaseRevisions(i, r.To, keep)
		return nil
	})
	if err != nil {
		return err
	}
	t.tell(SessionFinish)
	return errors.Join(t.e.dropTethers(r.Instance, r.Package), t.e.forgetOthers(r.Instance, r.To, kept))
}

// Prune releases the revisions that policy no longer keeps. An instance with a refresh under
// way is left to that refresh.
func (e *Engine) Prune(instance string) error {
	old, release, err := e.claim(e.ctx, instance)
	if err != nil {
		return fmt.Errorf("cannot remove old revisions of %s: %w", instance, err)
	}
	if old != nil {
		return nil
	}
	defer release()
	cur, _, err := e.Links.Read(instance)
	if err != nil {
		return err
	}
	return e.prune(instance, cur)
}

func (e *Engine) prune(instance string, cur uint32) error {
	var kept []uint32
	keep := e.Policy().For(instance).KeepRevisions
	err := e.State.UpdateInstance(instance, func(i *state.Instance) error {
		kept = releaseRevisions(i, cur, keep)
		return nil
	})
	if err != nil {
		return err
	}
	return e.forgetOthers(instance, cur, kept)
}

// releaseRevisions drops the superseded revisions from a record and returns the others.
func releaseRevisions(i *state.Instance, cur uint32, keep int) (kept []uint32) {
	gone := superseded(i.Revisions, cur, keep)
	i.Revisions = slices.DeleteFunc(i.Revisions, func(v state.Revision) bool { return slices.Contains(gone, v.Number) })
	for _, v := range i.Revisions {
		kept = append(kept, v.Number)
	}
	return kept
}

// forgetOthers removes the links and data of revisions that the record does not have, also of
// those whose removal a crash has undone after the record was written.
func (e *Engine) forgetOthers(instance string, cur uint32, kept []uint32) error {
	linked, err := e.Links.Revisions(instance)
	if err != nil {
		return err
	}
	for _, rev := range linked {
		if rev == cur || slices.Contains(kept, rev) {
			continue
		}
		if err := e.Links.Forget(instance, rev); err != nil {
			return err
		}
	}
	return errors.Join(e.pruneData(instance, kept), e.remember(instance), e.Installed(instance))
}

// superseded lists the revisions that policy no longer keeps: of those that have been
// current, the oldest beyond keep, never the current one. Reverted ones go before all others,
// because only an explicit request returns to them.
func superseded(list []state.Revision, cur uint32, keep int) (gone []uint32) {
	kept := 1 // the current one
	for _, reverted := range []bool{false, true} {
		for _, v := range slices.Backward(list) {
			switch {
			case v.Number == cur || v.Made.IsZero() || v.Reverted != reverted:
			case kept < max(keep, 1):
				kept++
			default:
				gone = append(gone, v.Number)
			}
		}
	}
	return gone
}

// forget removes an instance. Its system data stays unless purging was requested.
func (e *Engine) forget(r *plan.Refresh) error {
	if err := e.Links.ForgetAll(r.Instance); err != nil {
		return err
	}
	left := r.From
	var err error // what cannot be removed is reported, and keeps nothing else
	if r.Purge {
		left = 0
		err = copytree.Remove(filepath.Join(e.Root, "data", r.Instance))
	}
	return errors.Join(err, e.State.RemoveInstance(r.Instance, left), e.remember(r.Instance), e.removeMarkers(r.Instance), e.Installed(r.Instance))
}

// removeMarkers removes the run-control files of an instance that is gone. If a launcher
// holds the lock they stay until the next boot, which does no harm: a lock file may only
// vanish under the exclusive lock.
func (e *Engine) removeMarkers(instance string) error {
	lock, _, err := e.Runctl.TryWriteLock(instance)
	if errkind.Is(err, errkind.NotFound) || err == nil && lock == nil {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	return e.Runctl.RemoveInstance(instance)
}
