package refresh

import (
	"errors"
	"slices"

	"github.com/lull/lull/agent/messages"
	"github.com/lull/lull/agent/problem"
	"github.com/lull/lull/agent/runctl"
	"github.com/lull/lull/policy"
)

// owns says whether a task has made, or is about to remove, the word in .inhibited.
// Under the write lock the answer is final: a task that is not in its critical
// section by then writes no marker without that lock.
func (e *Engine) owns(instance, word string) bool {
	r, ok := e.Of(instance)
	if !ok {
		return false
	}
	switch r.State() {
	case Critical, Undoing:
		return true
	case Waiting:
		return word == runctl.RefreshPending && r.Step != Fetch && e.Policy().For(instance).RefreshPending == policy.PendingBlock
	}
	return false
}

// Police removes the markers of an instance that belong to nothing: somebody has
// made them by hand, or they have outlived a journal. With a launch under way it
// leaves them be and returns false; the end of that launch is the time to ask again.
func (e *Engine) Police(instance string) (done bool, err error) {
	word, running, err := e.stray(instance)
	if err != nil || word == "" && !running {
		return err == nil, err
	}
	lock, _, err := e.Runctl.TryWriteLock(instance)
	switch {
	case problem.Is(err, problem.NotFound): // no launch can take notice of them
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
		e.Log.Warn("removing a marker that belongs to no run", messages.Key, messages.MarkerRemoved, "instance", instance)
		err = errors.Join(err, e.Runctl.ClearRunning(instance))
	}
	return err == nil, err
}

// stray looks for markers that nobody has made: the word in .inhibited, and whether
// .running is one.
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
	procs, err := e.Tracker.Busy(instance)
	return word, err == nil && len(procs) == 0, nil // what cannot be read counts as running
}

// Marked lists the instances that have any marker.
func (e *Engine) Marked() ([]string, error) {
	inhibited, err1 := e.Runctl.AllInhibited()
	running, err2 := e.Runctl.AllRunning()
	list := append(inhibited, running...)
	slices.Sort(list)
	return slices.Compact(list), errors.Join(err1, err2)
}

// StrayMarkers describes those that Police would remove.
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
