package refresh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lull/lull/agent/faultpoint"
	"github.com/lull/lull/agent/inhibit"
	"github.com/lull/lull/agent/messages"
	"github.com/lull/lull/agent/problem"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/wallclock"
)

// task carries one refresh out. Its goroutine owns everything below; others see
// the copy that show leaves, and talk to it through mail and wake.
type task struct {
	e        *Engine
	id       string
	instance string
	group    *group        // nil: it goes by itself
	mail     chan Event    // CancelAsked, NoticeShown, NowAsked
	wake     chan struct{} // capacity 1: something may have changed; never lost, never counted
	done     chan struct{} // closed when the goroutine has ended

	r         Refresh
	persisted Refresh
	alarm     wallclock.Alarm // rings at the next moment at which a parked refresh has to look by itself; nil until one is needed
	asked     time.Time       // when the processes were asked to end at the deadline; zero: never
	locks     []*inhibit.Lock // against shutdown
	lockWhy   string          // their text
	said      messages.ID     // why it waits, as the journal was told last

	mu        sync.Mutex // guards published
	published Refresh
}

// busyError says that the instance is not vacant.
type busyError struct {
	processes []runs.Process
	until     time.Time // look again then, if no event comes before; zero: events only
}

func (b *busyError) Error() string { return "the instance is not vacant" }

func (t *task) snapshot() Refresh {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.published
	r.WaitingFor = slices.Clone(r.WaitingFor)
	r.Told = slices.Clone(r.Told)
	return r
}

// show lets the rest of the agent see the record, when it asks.
func (t *task) show() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.r.BytesDone, t.r.BytesTotal = t.published.BytesDone, t.published.BytesTotal
	t.published = t.r
}

// racing says whether the last exit may just have been seen, and the door is not
// shut yet. What others could be told now they are told when it is; until then
// the bus would only be in the way.
func (t *task) racing(e Effect) bool {
	return e == DoStep && (t.r.Step == Wait || t.r.Step == Inhibit)
}

// poke wakes a parked refresh; it never blocks.
func (t *task) poke() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// A step that must not fail and did is left alone for firstRetry, and each time
// twice as long, up to lastRetry: launches may wait for it.
const (
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// run is the task's goroutine.
func (t *task) run(ctx context.Context, first Event) {
	defer close(t.done)
	defer t.closeAlarm()
	defer t.releaseLock()
	if t.group != nil {
		defer t.group.stop(t)
	}
	ev, pause := first, firstRetry
	for {
		var effect Effect
		atDoor := t.r.Step == Inhibit && !t.r.Undo
		t.r, effect = Next(t.r, ev)
		if err := t.persist(); err != nil {
			t.e.Log.Error("cannot write the journal of a refresh", "refresh", t.r.ID, "error", err)
			if !t.r.Undo && effect == DoStep {
				ev = Event{Type: StepFailed, Err: err}
				continue
			}
		}
		if effect != End { // which is told when nothing is under way any more
			t.show()
		}
		if effect == Park {
			t.sayWaiting()
		}
		if effect != End && !t.racing(effect) {
			t.e.Changed(t.snapshot())
		}
		if effect == Park && atDoor {
			// What somebody has made while it seemed to be about to shut the door.
			if _, err := t.e.Police(t.instance); err != nil {
				t.e.Log.Error("cannot remove a marker", "instance", t.instance, "error", err)
			}
		}
		if t.group != nil && t.r.Undo && !t.r.Again {
			t.group.fail(t)
		}
		switch effect {
		case DoStep, UndoStep:
			var ok bool
			if ev, ok = t.perform(ctx, effect); !ok {
				return
			}
			if ev.Type == StepFailed && critical(t.r.Step) && !t.r.Undo && t.e.goingDown() {
				failed := ev
				if ev, ok = t.leftToBoot(ctx); !ok {
					return
				}
				if t.group != nil {
					ev = failed // the others are not kept waiting for another try
				}
			}
		case Park, Nothing:
			var ok bool
			if ev, ok = t.await(ctx); !ok {
				return
			}
		case Retry:
			t.e.Log.Error("a step of a refresh that must not fail has failed, and is tried again", messages.Key, messages.StepFailed, "refresh", t.r.ID, "instance", t.r.Instance,
				"step", t.r.Step, "undoing", t.r.Undo, "error", ev.Err)
			select {
			case <-time.After(pause):
				pause = min(2*pause, lastRetry)
			case <-t.wake:
			case <-ctx.Done():
				return
			}
			again := DoStep
			if t.r.Undo {
				again = UndoStep
			}
			var ok bool
			if ev, ok = t.perform(ctx, again); !ok {
				return
			}
		case End:
			t.end()
			return
		}
	}
}

// perform runs one step in the direction of the record. The steps of the critical
// section are not interrupted when the agent is told to stop: they are short and
// bounded, and stopping in the middle would only have to be undone. When the machine
// goes down with it they are: the time that they had is over.
func (t *task) perform(ctx context.Context, effect Effect) (Event, bool) {
	step := steps[t.r.Step]
	action := step.do
	if effect == UndoStep {
		action = step.undo
	}
	if action == nil {
		return Event{Type: StepDone}, true
	}
	if ctx.Err() != nil && critical(t.r.Step) && t.e.goingDown() {
		return Event{}, false
	}
	name := "refresh." + string(t.r.Step)
	if effect == UndoStep {
		name += ".undo"
	}
	return t.carry(ctx, name, effect, action)
}

// carry runs an action and returns what came of it. While it runs, the record
// belongs to it: what is learned meanwhile is kept and taken into the record
// afterwards, except that a cancellation ends the action's context at once.
func (t *task) carry(ctx context.Context, name string, effect Effect, act action) (Event, bool) {
	stepCtx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	mayCancel := effect == DoStep && !critical(t.r.Step)
	mayStop := func() bool { return mayCancel }
	if critical(t.r.Step) {
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
	var learned []Event
	for {
		select {
		case ev := <-t.mail:
			learned = append(learned, ev)
			if ev.Type == NowAsked {
				t.poke() // the step may have found that it has to wait, or be about to
			}
			if ev.Type == CancelAsked && mayCancel {
				cancel(problem.New(problem.Interrupted, "cannot go on with the %s of %s: it was cancelled", t.r.Kind, t.instance))
			}
		case err := <-result:
			for _, ev := range learned {
				t.r, _ = Next(t.r, ev)
			}
			return t.outcome(stepCtx, effect, err)
		}
	}
}

// outcome turns the error of an action into an event.
func (t *task) outcome(stepCtx context.Context, effect Effect, err error) (Event, bool) {
	var busy *busyError
	switch {
	case err == nil:
		return Event{Type: StepDone}, true
	case errors.Is(context.Cause(stepCtx), errStopping), errors.Is(err, errStopping):
		return Event{}, false // the next agent goes on with what the journal says
	case errors.As(err, &busy):
		t.r.WaitingFor = busy.processes
		t.setAlarm(busy.until)
		return Event{Type: StepBusy}, true
	}
	t.e.Log.Warn("a step of a refresh has failed", messages.Key, messages.StepFailed, "refresh", t.id, "instance", t.instance, "step", t.r.Step, "undoing", effect == UndoStep, "error", err)
	return Event{Type: StepFailed, Err: t.named(err)}, true
}

// named says what failed in the words of who asked for it, whatever step it was.
func (t *task) named(err error) error {
	what := fmt.Sprintf("cannot %s %s", t.r.Kind, t.r.Instance)
	text := err.Error()
	if strings.HasPrefix(text, what) {
		return err
	}
	if cause, ok := strings.CutPrefix(text, "cannot "); ok {
		text = "could not " + cause
	}
	return &problem.Error{Kind: problem.KindOf(err), Text: what + ": " + text, Hint: problem.HintOf(err), Err: err}
}

var errStopping = errors.New("the agent is stopping")

// await sleeps until something may have changed.
func (t *task) await(ctx context.Context) (Event, bool) {
	var rung <-chan struct{}
	if t.alarm != nil {
		rung = t.alarm.C()
	}
	select {
	case <-t.wake:
		return Event{Type: Woken}, true
	case <-rung:
		return Event{Type: Woken}, true
	case ev := <-t.mail:
		return ev, true
	case <-ctx.Done():
		return Event{}, false
	}
}

// setAlarm makes a parked refresh look again at a time; zero: only when it is woken.
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

// persist writes the journal if need be.
func (t *task) persist() error {
	if !mustPersist(&t.persisted, &t.r) {
		return nil
	}
	if err := t.e.State.PutRefresh(t.r.ID, &t.r); err != nil {
		return err
	}
	t.persisted = t.r
	return nil
}

// sayWaiting tells the journal once what a parked refresh waits for.
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
		who = append(who, fmt.Sprintf("%s (pid %d, uid %d)", p.Command, p.PID, p.UID))
	}
	t.e.Log.Info("a refresh waits until the application is closed", messages.Key, why, "refresh", t.id, "instance", t.instance,
		"count", len(t.r.WaitingFor), "processes", strings.Join(who, ", "), "deadline", t.r.Deadline)
}

// maxNamed is how many processes are named in the journal.
const maxNamed = 8

// endMessage is the message of an end.
func endMessage(s State) messages.ID {
	switch s {
	case Done:
		return messages.RefreshDone
	case Undone:
		return messages.RefreshUndone
	}
	return messages.RefreshEnded
}

// end makes the record history.
func (t *task) end() {
	t.r.Ended = wallclock.Now()
	t.r.WaitingFor = nil
	if err := t.e.State.RemoveRefresh(t.r.ID); err != nil {
		t.e.Log.Error("cannot drop the journal of a refresh", "refresh", t.r.ID, "error", err)
	}
	if t.group != nil && t.group.end(t) {
		if err := t.e.State.RemoveGroup(t.group.id); err != nil {
			t.e.Log.Error("cannot drop the journal of a group of refreshes", "refresh", t.r.ID, "error", err)
		}
	}
	if t.r.Failure != nil {
		t.e.Log.Warn(fmt.Sprintf("%s of %s: %s", t.r.Kind, t.r.Instance, t.r.End), messages.Key, endMessage(t.r.End), "refresh", t.r.ID,
			"instance", t.r.Instance, "kind", t.r.Kind, "error", t.r.Failure.Text)
	} else {
		t.e.Log.Info(fmt.Sprintf("%s of %s: %s", t.r.Kind, t.r.Instance, t.r.End), messages.Key, endMessage(t.r.End), "refresh", t.r.ID,
			"instance", t.r.Instance, "kind", t.r.Kind, "version", t.r.ToVersion, "blocked", t.r.BlockedTime)
	}
	t.show()
	t.e.retire(t)
	t.e.Changed(t.snapshot()) // whoever hears of it may ask for the next one
}
