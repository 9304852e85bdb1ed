package plan

import (
	"slices"
	"time"
)

// Event is an input of the machine.
type Event struct {
	Type   EventType
	Err    error  // of StepFailed
	Linked bool   // of Restarted: current already names the revision To (for a removal: nothing)
	Whole  bool   // of Restarted: the group of the record has committed
	UID    uint32 // of NoticeShown and LargeShown
}

// EventType is the kind of an event.
type EventType int

// The events.
//
// StepBusy means that wait or inhibit found processes or a launch under way, that gather
// found another member busy, that a later step found that the package did not stay vacant, or
// that fetch or wait found a condition unmet.
const (
	Started    EventType = iota // a new record
	Restarted                   // a record that an earlier agent has left
	StepDone                    // the step was done, or undone if that was requested
	StepFailed                  // it was not
	StepBusy                    // the step cannot be done now: see above
	Woken                       // something may have changed for a parked refresh
	CancelAsked
	NoticeShown // a notice about it was passed to a user's helper
	NowAsked    // it was requested explicitly, regardless of conditions
	BesideAsked // it must switch under running applications, this once, and waits for no condition
	LargeShown  // a notice about what it fetches was passed to a user's helper
	FetchAsked  // that user lets it fetch at once
	RetryAsked  // the undoing of a stuck refresh must be retried
)

// Effect is what to do next.
type Effect int

// The effects.
const (
	Nothing  Effect = iota
	DoStep          // Do of r.Step
	UndoStep        // Undo of r.Step
	Park            // wait for Woken
	Retry           // r.Step failed where only going on is safe: retry it later
	Release         // undoing has failed for good: allow launches of the old revision, await RetryAsked
	End             // the record is final
)

// Next is the whole logic of a refresh. It reads no clock and has no side effects.
func Next(r Refresh, ev Event) (Refresh, Effect) {
	if r.End != "" {
		return r, Nothing
	}
	switch ev.Type {
	case Started:
		r.Step = r.plan()[0]
		return r, DoStep
	case Restarted:
		return restarted(r, ev)
	case StepDone:
		switch {
		case r.Undo:
			r.Tries = 0
			return back(r)
		case r.Cancel && r.canTurnBack():
			r.Undo = true
			return r, UndoStep
		}
		r.Cancel = r.Cancel && r.Step != Link
		return forward(r)
	case StepBusy:
		if r.Undo {
			return r, Retry // it continues its undoing when the obstacle has gone
		}
		if r.Step == Gather || r.Step.InSection() && r.Step != Inhibit {
			r.Undo, r.Again = true, true
			return r, UndoStep
		}
		if r.Step != Fetch {
			// Found busy before any change: the inhibit step has left no marker.
			r.Step = Wait
		}
		if r.Cancel {
			r.Undo = true
			return r, UndoStep
		}
		r.Parked = true
		return r, Park
	case Woken:
		if r.Stuck != nil && r.Barred {
			return r, Release
		}
		if !r.Parked {
			return r, Nothing
		}
		r.Parked = false
		return r, DoStep
	case CancelAsked:
		// After link it is too late. Up to there a section may still turn out to be busy and
		// return to waiting, where the caller would wait for ever.
		if r.Undo && !r.Again || !r.Undo && r.behind(Link) {
			return r, Nothing
		}
		r.Cancel = true
		if !r.Parked {
			return r, Nothing // the step under way ends first; outside of the section its context is cancelled
		}
		r.Undo, r.Parked = true, false
		return r, UndoStep
	case NoticeShown:
		if !slices.Contains(r.Notified, ev.UID) {
			r.Notified = append(slices.Clone(r.Notified), ev.UID)
		}
	case LargeShown:
		if r.LargeNotified == nil {
			r.LargeNotified = &ev.UID
		}
	case FetchAsked:
		r.LargeFrom = time.Time{}
		if r.Parked && r.Step == Fetch {
			r.Parked = false
			return r, DoStep
		}
	case NowAsked, BesideAsked:
		r.Now = true
		if ev.Type == BesideAsked {
			r.Beside = true
			r.WaitingFor, r.Readers = nil, nil // it does not wait for them any more
		}
		if r.Parked {
			r.Parked = false
			return r, DoStep
		}
	case RetryAsked:
		if r.Stuck != nil {
			r.Stuck, r.Barred, r.Tries = nil, false, 0
			return r, UndoStep
		}
	case StepFailed:
		return failed(r, ev.Err)
	}
	return r, Nothing
}

// canTurnBack reports whether the refresh can be given up after this step. It can outside of
// the critical section, and at its entry, where nothing has changed yet and no other member
// of a group relies on it.
func (r *Refresh) canTurnBack() bool {
	return !r.Step.InSection() && !r.behind(Link) || r.Step == Inhibit && r.Group == ""
}

// behind reports whether the refresh has passed a step of its plan.
func (r *Refresh) behind(s Step) bool {
	plan := r.plan()
	return slices.Index(plan, r.Step) > slices.Index(plan, s)
}

func forward(r Refresh) (Refresh, Effect) {
	plan := r.plan()
	i := slices.Index(plan, r.Step)
	if i+1 >= len(plan) {
		r.End = Done
		return r, End
	}
	r.Step = plan[i+1]
	return r, DoStep
}

// maxTries is how often undoing a step may fail before the refresh is stuck. The pauses
// between the tries grow from firstRetry, so that this takes about 15 seconds.
const maxTries = 5

// back goes one step towards the beginning. If the critical section is undone only to be
// retried, it goes to waiting.
func back(r Refresh) (Refresh, Effect) {
	plan := r.plan()
	i := slices.Index(plan, r.Step)
	if r.Again && r.Step == Inhibit && !r.Cancel {
		r.Undo, r.Again = false, false
		if slices.Contains(plan, Wait) {
			r.Step = Wait
		}
		return r, DoStep
	}
	if i > 0 {
		r.Step = plan[i-1]
		return r, UndoStep
	}
	switch {
	case r.FailedAt.InSection():
		r.End = Undone
	case r.Cancel:
		r.End = Cancelled
	default:
		r.End = FailedEnd
	}
	return r, End
}

func failed(r Refresh, err error) (Refresh, Effect) {
	if r.Undo {
		// The old state must be restored; but if that does not succeed soon, a person must
		// help.
		if r.Tries++; r.Tries >= maxTries {
			r.Stuck, r.Barred = FailureOf(err), true
			return r, Release
		}
		return r, Retry
	}
	if r.Step == Uninhibit && r.Group != "" {
		return r, Retry // the others have committed too
	}
	r.Failure, r.FailedAt = FailureOf(err), r.Step
	if r.Step == Finish {
		// The new revision is in use; only cleaning up is left undone.
		r.End = Done
		return r, End
	}
	if r.Step == Link && slices.Contains(r.plan(), StartServices) {
		// A link step that is resumed after a crash may have services started after it.
		r.Step = StartServices
	}
	r.Undo = true
	return r, UndoStep
}

// restarted decides by the state of the link.
func restarted(r Refresh, ev Event) (Refresh, Effect) {
	if r.Stuck != nil {
		r.Barred = true // until Release has succeeded
		return r, Release
	}
	if r.Undo {
		return r, UndoStep
	}
	if r.Step != Wait && !r.Step.InSection() {
		return r, DoStep
	}
	if r.Group != "" {
		if ev.Whole {
			r.Step = Uninhibit
			return r, DoStep
		}
		// One link does not show the state of the others. After it services may have been
		// started.
		r.Step, r.Undo, r.Again = Link, true, true
		if ev.Linked {
			r.Step = StartServices
		}
		return r, UndoStep
	}
	// The journal lags inside the critical section and may still have wait. Without a swap
	// the whole section is undone; a step that was not reached has nothing to undo.
	r.Step = Link
	if !ev.Linked {
		r.Undo, r.Again = true, true
		return r, UndoStep
	}
	return r, DoStep
}

// MustPersist reports whether the outcome of a restart depends on the difference between the
// record in the journal and the present one. Within the critical section, which begins at
// wait for this purpose, it does not: see restarted.
func MustPersist(old, r *Refresh) bool {
	if (old.Stuck == nil) != (r.Stuck == nil) || old.Undo != r.Undo || old.Again != r.Again || old.Cancel != r.Cancel || old.End != r.End ||
		old.To != r.To || old.Now != r.Now || !old.FetchSince.Equal(r.FetchSince) || old.Large != r.Large || !old.LargeFrom.Equal(r.LargeFrom) || (old.LargeNotified == nil) != (r.LargeNotified == nil) || !old.Since.Equal(r.Since) || !slices.Equal(old.Notified, r.Notified) {
		return true
	}
	inSection := func(s Step) bool { return s == Wait || s.InSection() }
	return old.Step != r.Step && !(inSection(old.Step) && inSection(r.Step))
}
