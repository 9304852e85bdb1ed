package refresh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/faultpoint"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/lib/share"
	"github.com/lull/lull/agent/lib/wallclock"
	"github.com/lull/lull/agent/logind"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/state"
)

// task carries out one refresh. Its goroutine owns the fields below. Other goroutines read
// the copy that show publishes, and reach the task through mail and wake.
type task struct {
	e        *Engine
	id       string
	instance string
	group    *group        // nil if it goes by itself
	letters  chan letter   // all events but those of steps
	wake     chan struct{} // capacity 1: something may have changed; never lost, never counted
	done     chan struct{} // closed when the goroutine has ended

	r         plan.Refresh
	persisted plan.Refresh
	alarm     wallclock.Alarm          // rings when a parked refresh must recheck by itself; nil until needed
	asked     time.Time                // when processes were asked to end at the deadline; zero: never
	locks     []*logind.Lock           // against shutdown
	lockWhy   string                   // their text
	said      messages.ID              // why it waits, as logged last
	due       bool                     // the old revision's services may not run since the agent was started: see startDue
	took      map[string]time.Duration // durations of the parts of this section: see estimate
	hooksTook time.Duration            // of all hooks so far
	copied    state.Copied             // by this section
	diff      difference               // of the system data since the precopy
	taken     chan struct{}            // closed when the record shows the result of the last letter
	looks     []chan struct{}          // closed when the record shows the result of the next check
	stale     bool                     // the step under way may have checked before the last of looks was added
	requested atomic.Bool              // a user has requested this automatic refresh during a step
	woken     time.Time                // when the check that is under way began; zero if no event has caused it
	checks    share.Time               // for those
	resting   time.Time                // until then no event causes one
	sealing

	mu        sync.Mutex // guards published
	published plan.Refresh
}

// busyError means that the instance is not vacant.
type busyError struct {
	processes []runs.Process
	readers   []runs.Process // those of processes that only have a file open
	until     time.Time      // recheck then, if no event comes before; zero means on events only
}

func (b *busyError) Error() string { return "the instance is not vacant" }

func (t *task) snapshot() plan.Refresh {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.published
	r.WaitingFor = slices.Clone(r.WaitingFor)
	r.Readers = slices.Clone(r.Readers)
	r.Notified = slices.Clone(r.Notified)
	return r
}

// show publishes the record to the rest of the agent.
func (t *task) show() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.r.BytesDone, t.r.BytesTotal = t.published.BytesDone, t.published.BytesTotal
	t.r.ToFetch, t.r.ToWrite, t.r.Speed = t.published.ToFetch, t.published.ToWrite, 0 // between steps nothing arrives
	t.published = t.r
}

// racing reports whether the last exit may just have been noticed and launches are not
// inhibited yet. Notifications are delayed until they are; before that the bus would only
// cost time.
func (t *task) racing(e plan.Effect) bool {
	return e == plan.DoStep && (t.r.Step == plan.Wait || t.r.Step == plan.Inhibit) && !t.r.Beside
}

// answerLooks releases the callers of Engine.look when the record shows the result of a
// check. A step that was under way when they called may have checked before; nudge makes it
// repeat the check.
func (t *task) answerLooks(e plan.Effect) {
	switch {
	case t.racing(e), e == plan.Nothing && t.r.Parked:
		return
	case e == plan.Park && t.stale:
		t.stale = false
		return
	}
	for _, c := range t.looks {
		close(c)
	}
	t.looks, t.stale = nil, false
}

// nudge wakes a parked refresh; it never blocks.
func (t *task) nudge() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// A step that must not fail but did is retried after firstRetry, and each time after twice as
// long, up to lastRetry: launches may wait for it.
const (
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// run is the task's goroutine.
func (t *task) run(ctx context.Context, first plan.Event) {
	defer close(t.done)
	defer t.closeAlarm()
	defer t.releaseLock()
	defer t.unseal()
	defer t.dropWatch()
	if t.group != nil {
		defer t.group.stop(t)
	}
	ev, pause := first, firstRetry
	t.due = ev.Type == plan.Restarted && t.r.From != 0 && !ev.Linked && t.r.Stuck == nil
	if t.due && !t.r.Undo && t.r.Step != plan.Wait && !t.r.Step.InSection() {
		t.startDue(ctx) // preparing the refresh may take long
	}
	if ev.Type == plan.Started {
		t.persisted = plan.Refresh{}
		t.e.Log.Info(fmt.Sprintf("%s of %s: begun", noun(t.r.Kind), t.r.Instance), messages.Key, messages.RefreshBegun, "refresh", t.r.ID,
			"instance", t.r.Instance, "kind", t.r.Kind, "version", cmp.Or(t.r.ToVersion, t.r.FromVersion))
	}
	for {
		var effect plan.Effect
		atDoor := t.r.Step == plan.Inhibit && !t.r.Undo
		t.r, effect = plan.Next(t.r, ev)
		if err := t.persist(effect); err != nil {
			t.e.Log.Error("cannot write the journal of a refresh", "refresh", t.r.ID, "error", err)
			if !t.r.Undo && effect == plan.DoStep {
				ev = plan.Event{Type: plan.StepFailed, Err: err}
				continue
			}
		}
		if effect != plan.End && effect != plan.Release { // these are shown when they are true
			t.show()
		}
		if effect == plan.Park {
			t.startDue(ctx)
			t.sayWaiting()
		}
		if effect != plan.End && effect != plan.Release && !t.racing(effect) {
			t.e.Changed(t.snapshot())
		}
		if t.taken != nil {
			close(t.taken)
			t.taken = nil
		}
		t.answerLooks(effect)
		if effect == plan.Park && atDoor {
			// Remove the markers that were made while the task seemed about to inhibit
			// launches.
			if _, err := t.e.RemoveStrayMarkers(t.instance); err != nil {
				t.e.Log.Error("cannot remove a marker", "instance", t.instance, "error", err)
			}
		}
		if t.group != nil && t.r.Undo && !t.r.Again {
			t.group.fail(t)
		}
		switch effect {
		case plan.DoStep, plan.UndoStep:
			if ev.Type == plan.StepDone {
				pause = firstRetry
			}
			var ok bool
			if ev, ok = t.perform(ctx, effect); !ok {
				return
			}
			if ev.Type == plan.StepFailed && t.r.Step.InSection() && !t.r.Undo && (t.e.goingDown() || errors.Is(ev.Err, errLeft)) {
				failed := ev
				if ev, ok = t.leftToBoot(ctx); !ok {
					return
				}
				if t.group != nil {
					ev = failed // the others do not wait for another try
				}
			}
		case plan.Park, plan.Nothing:
			var ok bool
			if ev, ok = t.await(ctx); !ok {
				return
			}
		case plan.Release:
			t.release(ctx)
			var ok bool
			if ev, ok = t.await(ctx); !ok {
				return
			}
		case plan.Retry:
			if ev.Type == plan.StepFailed {
				t.e.Log.Error("a step of a refresh that must not fail has failed, and is retried", messages.Key, messages.StepFailed, "refresh", t.r.ID, "instance", t.r.Instance,
					"step", t.r.Step, "undoing", t.r.Undo, "error", ev.Err)
			}
			wake := t.wake
			if ev.Type == plan.StepFailed {
				// An event that wakes a refresh does not make success more likely, and the
				// tries are counted.
				wake = nil
			}
			select {
			case <-time.After(pause):
				if ev.Type == plan.StepFailed {
					pause = min(2*pause, lastRetry)
				}
			case <-wake:
			case <-ctx.Done():
				return
			}
			again := plan.DoStep
			if t.r.Undo {
				again = plan.UndoStep
			}
			var ok bool
			if ev, ok = t.perform(ctx, again); !ok {
				return
			}
		case plan.End:
			t.startDue(ctx)
			t.end()
			return
		}
	}
}

// perform runs one step in the direction of the record. A stop of the agent does not
// interrupt the steps of the critical section: they are short and bounded, and stopping in
// the middle would only have to be undone. If the machine goes down with the agent they are
// interrupted: their time is over.
func (t *task) perform(ctx context.Context, effect plan.Effect) (plan.Event, bool) {
	step := steps[t.r.Step]
	action := step.do
	if effect == plan.UndoStep {
		t.unseal() // restarted services may execute the same files
		action = step.undo
	} else if action != nil {
		action = t.timed(t.r.Step, action)
	}
	if action == nil {
		return plan.Event{Type: plan.StepDone}, true
	}
	if ctx.Err() != nil && t.r.Step.InSection() && t.e.goingDown() {
		return plan.Event{}, false
	}
	if left, _ := t.e.leavingNow(); left && t.mayLeave(effect) {
		return plan.Event{Type: plan.StepFailed, Err: errLeft}, true
	}
	name := "refresh." + string(t.r.Step)
	if effect == plan.UndoStep {
		name += ".undo"
	}
	return t.runStep(ctx, name, effect, action)
}

// runStep runs an action and returns its outcome. While it runs, the record belongs to it:
// events that arrive meanwhile are kept and applied to the record afterwards, except that a
// cancellation ends the action's context at once.
func (t *task) runStep(ctx context.Context, name string, effect plan.Effect, act action) (plan.Event, bool) {
	stepCtx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	mayCancel := effect == plan.DoStep && !t.r.Step.InSection()
	mayStop := func() bool { return mayCancel }
	if t.r.Step.InSection() {
		mayStop = t.e.goingDown
	}
	defer context.AfterFunc(ctx, func() {
		if mayStop() {
			cancel(errStopping)
		}
	})()
	result := make(chan error, 1)
	go func() {
		err := faultpoint.Hit(name + ".before")
		if err == nil {
			err = act(stepCtx, t)
		}
		if err == nil {
			err = faultpoint.Hit(name + ".after")
		}
		result <- err
	}()
	var leave <-chan struct{} // nil means that this step cannot be left
	if t.mayLeave(effect) {
		left := false
		if left, leave = t.e.leavingNow(); left {
			cancel(errLeft)
		}
	}
	var learned []letter
	for {
		select {
		case <-leave:
			leave = nil
			cancel(errLeft)
		case ev := <-t.letters:
			if effect == plan.UndoStep || t.r.Step != plan.Wait && t.r.Step != plan.Inhibit {
				ev.answer() // a step without a check may take minutes
				ev.taken, ev.looked = nil, nil
			}
			learned = append(learned, ev)
			if ev.Type == plan.NowAsked {
				t.requested.Store(true)
			}
			if ev.Type == plan.NowAsked || ev.Type == plan.BesideAsked {
				t.nudge() // the step may have found that it has to wait, or be about to
			}
			if ev.Type == plan.CancelAsked && mayCancel {
				cancel(errkind.New(errkind.Interrupted, "cannot go on with the %s of %s: it was cancelled", t.r.Kind, t.instance))
			}
		case err := <-result:
			var beside *letter
			for _, ev := range learned {
				t.r, _ = plan.Next(t.r, ev.Event)
				if ev.looked != nil {
					t.looks, t.stale = append(t.looks, ev.looked), true
				}
				if ev.Type == plan.BesideAsked && beside == nil {
					beside = &ev
					continue
				}
				if ev.taken != nil {
					close(ev.taken)
				}
			}
			var busy *busyError
			if beside != nil && errors.As(err, &busy) {
				// The step checked before it was asked. It repeats the check, and is not
				// shown as waiting for processes that it waits for no more.
				t.r.Parked, t.taken = true, beside.taken
				return beside.Event, true
			}
			if beside != nil && beside.taken != nil {
				close(beside.taken)
			}
			return t.outcome(stepCtx, effect, err)
		}
	}
}

// outcome turns the error of an action into an event.
func (t *task) outcome(stepCtx context.Context, effect plan.Effect, err error) (plan.Event, bool) {
	var busy *busyError
	switch {
	case err == nil:
		return plan.Event{Type: plan.StepDone}, true
	case errors.Is(context.Cause(stepCtx), errStopping), errors.Is(err, errStopping):
		return plan.Event{}, false // the next agent continues from the journal
	case errors.Is(context.Cause(stepCtx), errLeft):
		return plan.Event{Type: plan.StepFailed, Err: errLeft}, true
	case errors.As(err, &busy):
		t.r.WaitingFor, t.r.Readers = busy.processes, busy.readers
		t.setAlarm(busy.until)
		return plan.Event{Type: plan.StepBusy}, true
	}
	if effect == plan.UndoStep {
		err = t.undoFailed(err)
	} else {
		err = t.named(err)
	}
	t.e.Log.Warn("a step of a refresh has failed", messages.Key, messages.StepFailed, "refresh", t.id, "instance", t.instance, "step", t.r.Step, "undoing", effect == plan.UndoStep, "error", err)
	return plan.Event{Type: plan.StepFailed, Err: err}, true
}

// named returns the error in the terms of the request, whichever step it was.
func (t *task) named(err error) error {
	what := fmt.Sprintf("cannot %s %s", t.r.Kind, t.r.Instance)
	text := err.Error()
	if strings.HasPrefix(text, what) {
		return err
	}
	if cause, ok := strings.CutPrefix(text, "cannot "); ok {
		text = errkind.SameSentence("could not "+cause, text)
	}
	named := errkind.New(errkind.KindOf(err), "cannot %s %s: %s", t.r.Kind, t.r.Instance, text)
	named.Hint, named.Err = errkind.HintOf(err), err
	return named
}

var errStopping = errors.New("the agent is stopping")

// await sleeps until something may have changed.
func (t *task) await(ctx context.Context) (plan.Event, bool) {
	var rung <-chan struct{}
	if t.alarm != nil {
		rung = t.alarm.C()
	}
	wake := t.wake
	var rested <-chan time.Time
	if rest := t.rest(); rest > 0 {
		wake, rested = nil, time.After(rest)
	}
	for {
		select {
		case <-rested:
			wake = t.wake
		case <-wake:
			t.woken = time.Now()
			return plan.Event{Type: plan.Woken}, true
		case <-rung:
			return plan.Event{Type: plan.Woken}, true
		case l := <-t.letters:
			t.taken = l.taken
			if l.looked != nil {
				t.looks = append(t.looks, l.looked)
			}
			return l.Event, true
		case <-ctx.Done():
			return plan.Event{}, false
		}
	}
}

// rest returns how long a parked refresh is not woken. A user who starts the application in a
// loop wakes it without a pause, and each check reads what runs.
func (t *task) rest() time.Duration {
	now := time.Now()
	if !t.woken.IsZero() {
		t.resting = now.Add(t.checks.Spend(now.Sub(t.woken)))
		t.woken = time.Time{}
	}
	return t.resting.Sub(now)
}

// setAlarm makes a parked refresh recheck at a time; zero means only when it is woken.
func (t *task) setAlarm(at time.Time) {
	if t.alarm == nil {
		if at.IsZero() {
			return
		}
		t.alarm = t.e.Alarm()
	}
	t.alarm.Set(at)
}

func (t *task) closeAlarm() {
	if t.alarm != nil {
		t.alarm.Close()
		t.alarm = nil
	}
}

// persist writes the journal if necessary. The final state of a refresh without a group is
// written once, by end: an agent that is killed before it repeats the last step.
func (t *task) persist(effect plan.Effect) error {
	if !plan.MustPersist(&t.persisted, &t.r) || effect == plan.End && t.group == nil {
		return nil
	}
	if err := t.e.State.PutRefresh(t.r.ID, &t.r); err != nil {
		return err
	}
	t.persisted = t.r
	return nil
}

// sayWaiting logs once what a parked refresh waits for.
func (t *task) sayWaiting() {
	var why messages.ID
	switch {
	case t.r.Held:
		why = messages.RefreshHeld
	case len(t.r.WaitingFor) > 0:
		why = messages.RefreshPostponed
	}
	if why == "" || why == t.said {
		return
	}
	t.said = why
	if why == messages.RefreshHeld {
		t.e.Log.Info("a refresh is held", messages.Key, why, "refresh", t.id, "instance", t.instance)
		return
	}
	var who []string
	for _, p := range t.r.WaitingFor[:min(len(t.r.WaitingFor), maxNamed)] {
		who = append(who, p.String())
	}
	t.e.Log.Info("a refresh waits until the application is closed", messages.Key, why, "refresh", t.id, "instance", t.instance,
		"count", len(t.r.WaitingFor), "processes", strings.Join(who, ", "), "deadline", t.r.Deadline)
}

// maxNamed is how many processes the log names.
const maxNamed = 8

// endMessage returns the message of an end.
func endMessage(s plan.State) messages.ID {
	switch s {
	case plan.Done:
		return messages.RefreshDone
	case plan.Undone:
		return messages.RefreshUndone
	}
	return messages.RefreshEnded
}

// end moves the record to the history.
func (t *task) end() {
	t.r.Ended = wallclock.Now()
	t.r.WaitingFor, t.r.Readers = nil, nil
	t.keepWindow()
	if err := t.e.State.EndRefresh(t.r.ID, t.r); err != nil {
		t.e.Log.Error("cannot drop the journal of a refresh", "refresh", t.r.ID, "error", err)
	}
	if t.group != nil && t.group.end(t) {
		if err := t.e.State.RemoveGroup(t.group.id); err != nil {
			t.e.Log.Error("cannot drop the journal of a group of refreshes", "refresh", t.r.ID, "error", err)
		}
	}
	if t.r.Failure != nil {
		t.e.Log.Warn(fmt.Sprintf("%s of %s: %s", noun(t.r.Kind), t.r.Instance, t.r.End), messages.Key, endMessage(t.r.End), "refresh", t.r.ID,
			"instance", t.r.Instance, "kind", t.r.Kind, "error", t.r.Failure.Text)
	} else {
		t.e.Log.Info(fmt.Sprintf("%s of %s: %s", noun(t.r.Kind), t.r.Instance, t.r.End), messages.Key, endMessage(t.r.End), "refresh", t.r.ID,
			"instance", t.r.Instance, "kind", t.r.Kind, "version", cmp.Or(t.r.ToVersion, t.r.FromVersion), "blocked", t.r.BlockedTime)
	}
	t.show()
	t.e.retire(t)
	t.e.Changed(t.snapshot()) // a listener may submit the next one
}

// noun returns the name of a kind of refresh in messages: "removal" for "remove".
func noun(kind plan.Kind) string {
	switch kind {
	case plan.Install:
		return "installation"
	case plan.Remove:
		return "removal"
	}
	return string(kind)
}
