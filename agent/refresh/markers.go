package refresh

import (
	"errors"
	"slices"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/lib/runctl"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/policy"
)

// owns reports whether a task has written, or is about to remove, the word in .inhibited.
// Under the write lock the answer is final: a task that is not in its critical section by
// then writes no marker without that lock.
func (e *Engine) owns(instance, word string) bool {
	r, ok := e.Of(instance)
	if !ok {
		return false
	}
	switch r.State() {
	case plan.Critical, plan.Undoing:
		return true
	case plan.Stuck:
		return r.Barred
	case plan.Waiting, plan.Preparing: // in Wait before the first check the marker is from before the agent's start
		if r.State() == plan.Preparing && r.Step != plan.Wait {
			return false
		}
		return word == runctl.RefreshPending && r.Step != plan.Fetch && e.Policy().With(instance, r.Wishes).RefreshPending == policy.PendingBlock
	}
	return false
}

// RemoveStrayMarkers removes the markers of an instance that belong to no refresh and no run: they were
// made by hand, or have outlived a journal. During a launch it keeps them and returns false;
// the caller should retry at the end of that launch.
//
// The marker of a critical section that was removed or changed by hand is restored.
func (e *Engine) RemoveStrayMarkers(instance string) (done bool, err error) {
	restored, err := e.Runctl.RestoreInhibited(instance)
	if err != nil {
		return false, err
	}
	if restored {
		e.Log.Warn("putting back a marker that was removed during a refresh", messages.Key, messages.MarkerRestored, "instance", instance)
	}
	word, running, err := e.stray(instance)
	if err != nil || word == "" && !running {
		return err == nil, err
	}
	lock, _, err := e.Runctl.TryWriteLock(instance)
	switch {
	case errkind.Is(err, errkind.NotFound): // no launch can notice them
	case err != nil || lock == nil:
		return false, err
	default:
		defer e.Wake(instance) // a refresh may have found the lock taken
		defer lock.Close()
	}
	if word, running, err = e.stray(instance); err != nil {
		return false, err
	}
	if word != "" {
		e.Log.Warn("removing a marker that belongs to no refresh", messages.Key, messages.MarkerRemoved, "instance", instance, "marker", word)
		err = e.Runctl.ClearInhibited(instance)
	}
	if running {
		// Ordinary: the run has ended while this was checked, before its tracker has removed it.
		e.Log.Info("removing a marker that belongs to no run", "instance", instance)
		err = errors.Join(err, e.Runctl.ClearRunning(instance))
	}
	return err == nil, err
}

// stray returns the markers that belong to no refresh and no run: the word in .inhibited, and
// whether .running is one.
func (e *Engine) stray(instance string) (word string, running bool, err error) {
	if word, err = e.Runctl.Inhibited(instance); err != nil {
		return "", false, err
	}
	if word != "" && e.owns(instance, word) {
		word = ""
	}
	if running, err = e.Runctl.Running(instance); err != nil || !running {
		return word, false, err
	}
	procs, err := e.Running(instance)
	return word, err == nil && len(procs) == 0, nil // unreadable runs count as running
}

// Marked lists the instances that have any marker.
func (e *Engine) Marked() ([]string, error) {
	inhibited, err1 := e.Runctl.AllInhibited()
	running, err2 := e.Runctl.AllRunning()
	list := append(inhibited, running...)
	slices.Sort(list)
	return slices.Compact(list), errors.Join(err1, err2)
}

// StrayMarkers lists the markers that RemoveStrayMarkers would remove.
func (e *Engine) StrayMarkers() (list []string, err error) {
	names, err := e.Marked()
	for _, name := range names {
		word, running, serr := e.stray(name)
		err = errors.Join(err, serr)
		if word != "" {
			list = append(list, e.Runctl.InhibitedPath(name))
		}
		if running {
			list = append(list, e.Runctl.RunningPath(name))
		}
	}
	return list, err
}
