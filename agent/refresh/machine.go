package refresh

import (
	"slices"
)

// Event is what a task learns.
type Event struct {
	Type   EventType
	Err    error  // of StepFailed
	Linked bool   // of Restarted: current already names the revision To (for a removal: nothing)
	Whole  bool   // of Restarted: the group of the record has committed
	UID    uint32 // of NoticeShown
}

// EventType tells events apart.
type EventType int

// The events.
const (
	Started    EventType = iota // a new record
	Restarted                   // a record that an earlier agent has left
	StepDone                    // the step was done, or undone if that was asked
	StepFailed                  // it was not
	StepBusy                    // wait or inhibit found processes, or a launch under way; gather, that another member has; fetch or wait a condition unmet
	Woken                       // something may have changed for a parked refresh
	CancelAsked
	NoticeShown // a notice about it was given to a user's helper
	NowAsked    // somebody wants it now, whatever the conditions are
)

// Effect is what to do next.
type Effect int

// The effects.
const (
	Nothing  Effect = iota
	DoStep          // Do of r.Step
	UndoStep        // Undo of r.Step
	Park            // wait for Woken
	Retry           // r.Step failed where only going on is safe: try it again later
	End             // the record is final
)

// Next is the whole logic of a refresh: it knows no clock and touches nothing.
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
			return back(r)
		case r.Cancel && !critical(r.Step):
			r.Undo = true
			return r, UndoStep
		}
		return forward(r)
	case StepBusy:
		if r.Step == Gather {
			r.Undo, r.Again = true, true
			return r, UndoStep
		}
		if r.Step != Fetch {
			// Found busy before anything was touched: the inhibit step has left no marker.
			r.Step = Wait
		}
		if r.Cancel {
			r.Undo = true
			return r, UndoStep
		}
		r.Parked = true
		return r, Park
	case Woken:
		if !r.Parked {
			return r, Nothing
		}
		r.Parked = false
		return r, DoStep
	case CancelAsked:
		if critical(r.Step) || r.Undo || r.Step == Finish {
			return r, Nothing
		}
		r.Cancel = true
		if !r.Parked {
			return r, Nothing // the step under way ends first; its context is cancelled
		}
		r.Undo, r.Parked = true, false
		return r, UndoStep
	case NoticeShown:
		if !slices.Contains(r.Told, ev.UID) {
			r.Told = append(slices.Clone(r.Told), ev.UID)
		}
	case NowAsked:
		r.Now = true
		if r.Parked {
			r.Parked = false
			return r, DoStep
		}
	case StepFailed:
		return failed(r, ev.Err)
	}
	return r, Nothing
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

// back goes one step towards the beginning, or, when the critical section is
// undone only to be tried again, to waiting.
func back(r Refresh) (Refresh, Effect) {
	plan := r.plan()
	i := slices.Index(plan, r.Step)
	if r.Again && r.Step == Inhibit {
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
	case r.Cancel:
		r.End = Cancelled
	case critical(r.FailedAt):
		r.End = Undone
	default:
		r.End = FailedEnd
	}
	return r, End
}

func failed(r Refresh, err error) (Refresh, Effect) {
	if r.Undo {
		return r, Retry // the world must go back; nothing else would be safe
	}
	if r.Step == Uninhibit && r.Group != "" {
		return r, Retry // the others have committed too
	}
	r.Failure, r.FailedAt = FailureOf(err), r.Step
	if r.Step == Finish {
		// The new revision serves; what is left undone is cleaning up.
		r.End = Done
		return r, End
	}
	if r.Step == Link && slices.Contains(r.plan(), StartServices) {
		// A link that is taken up again after a crash may have services started behind it.
		r.Step = StartServices
	}
	r.Undo = true
	return r, UndoStep
}

// restarted decides by what the link says.
func restarted(r Refresh, ev Event) (Refresh, Effect) {
	if r.Undo {
		return r, UndoStep
	}
	if r.Step != Wait && !critical(r.Step) {
		return r, DoStep
	}
	if r.Group != "" {
		if ev.Whole {
			r.Step = Uninhibit
			return r, DoStep
		}
		// One link says nothing of the others. Behind it services may have been started.
		r.Step, r.Undo, r.Again = Link, true, true
		if ev.Linked {
			r.Step = StartServices
		}
		return r, UndoStep
	}
	// The journal lags inside the critical section and may still say wait. With no swap
	// the whole section is undone; a step that was not reached has nothing to undo.
	r.Step = Link
	if !ev.Linked {
		r.Undo, r.Again = true, true
		return r, UndoStep
	}
	return r, DoStep
}

// mustPersist says whether what a restart would do depends on the difference
// between what the journal has and what now is. Within the critical section, which
// begins at wait for this purpose, it does not: see restarted.
func mustPersist(old, r *Refresh) bool {
	if old.Undo != r.Undo || old.Again != r.Again || old.Cancel != r.Cancel || old.End != r.End ||
		old.To != r.To || old.Now != r.Now || !old.FetchSince.Equal(r.FetchSince) || !old.Since.Equal(r.Since) || !slices.Equal(old.Told, r.Told) {
		return true
	}
	inSection := func(s Step) bool { return s == Wait || critical(s) }
	return old.Step != r.Step && !(inSection(old.Step) && inSection(r.Step))
}
