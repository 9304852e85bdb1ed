package refresh

import (
	"context"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/refresh/plan"
)

// letter is an event that the engine sends to a task.
type letter struct {
	plan.Event
	taken  chan struct{} // closed when the record shows the result of the event; nil if not awaited
	looked chan struct{} // closed when the record shows a check after the event; nil if not awaited
}

// answer releases the callers that wait for the letter.
func (l letter) answer() {
	for _, c := range []chan struct{}{l.taken, l.looked} {
		if c != nil {
			close(c)
		}
	}
}

// send sends a letter to a refresh and returns its task; nil means that it has ended.
func (e *Engine) send(id string, l letter) *task {
	e.mu.Lock()
	t := e.tasks[id]
	e.mu.Unlock()
	if t == nil {
		return nil
	}
	select {
	case t.letters <- l:
		return t
	case <-t.done:
		return nil
	}
}

// Cancel gives up a refresh that has not entered its critical section, or is being undone
// already, and waits until it is undone.
func (e *Engine) Cancel(ctx context.Context, id string) error {
	e.mu.Lock()
	t := e.tasks[id]
	e.mu.Unlock()
	if t == nil {
		return errkind.New(errkind.NotFound, "cannot cancel refresh %s: it is not under way", id)
	}
	r := t.snapshot()
	if r.State() == plan.Stuck {
		return errkind.New(errkind.Busy, "cannot cancel the %s of %s: it is stuck: %s", r.Kind, r.Instance, r.Stuck.Text).
			WithHint("lull refresh --retry %s undoes it when the cause has gone", r.Instance)
	}
	switch {
	case r.Undo && r.Tries > 0:
		return errkind.New(errkind.Busy, "cannot cancel the %s of %s: it is being undone already", r.Kind, r.Instance)
	case r.Step.InSection() && !r.Undo:
		return errkind.New(errkind.Busy, "cannot cancel the %s of %s: it is in its critical section", r.Kind, r.Instance)
	}
	return e.cancelAndWait(ctx, t)
}

func (e *Engine) cancelAndWait(ctx context.Context, t *task) error {
	select {
	case t.letters <- letter{Event: plan.Event{Type: plan.CancelAsked}}:
	case <-t.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return t.wait(ctx)
}

// Now makes a refresh continue without its conditions, because a user requested it.
func (e *Engine) Now(id string) { e.send(id, letter{Event: plan.Event{Type: plan.NowAsked}}) }

// look acts as Now, and returns the refresh after a new check of what runs: the last process
// may have ended since the previous check. A refresh that is not at its check is returned as
// it is.
func (e *Engine) look(ctx context.Context, t *task) plan.Refresh {
	r := t.snapshot()
	switch s := r.State(); {
	case s == plan.Preparing && r.Now:
		return r
	case s != plan.Preparing && s != plan.Waiting:
		e.Now(t.id) // it may return to waiting
		return r
	}
	looked := make(chan struct{})
	// A group checks when all its members do.
	if e.send(t.id, letter{Event: plan.Event{Type: plan.NowAsked}, looked: looked}) != nil && r.Group == "" {
		select {
		case <-looked:
		case <-t.done:
		case <-ctx.Done():
		}
	}
	return t.snapshot()
}

// Beside makes a refresh switch under running applications, as with the mode side-by-side,
// this once: running applications keep their revision. It returns when the refresh no longer
// waits for them, or false if it has ended.
func (e *Engine) Beside(id string) bool {
	taken := make(chan struct{})
	if t := e.send(id, letter{Event: plan.Event{Type: plan.BesideAsked}, taken: taken}); t != nil {
		select {
		case <-taken:
			return true
		case <-t.done:
		case <-e.ctx.Done():
		}
	}
	return false
}

// Retry makes a stuck refresh retry its undoing. It returns when that is under way.
func (e *Engine) Retry(ctx context.Context, id string) error {
	e.mu.Lock()
	t := e.tasks[id]
	e.mu.Unlock()
	if t == nil {
		return errkind.New(errkind.NotFound, "cannot retry refresh %s: it is not under way", id)
	}
	if r := t.snapshot(); r.State() != plan.Stuck {
		return errkind.New(errkind.Failed, "cannot retry the %s of %s: it is not stuck", r.Kind, r.Instance)
	}
	taken := make(chan struct{})
	select {
	case t.letters <- letter{Event: plan.Event{Type: plan.RetryAsked}, taken: taken}:
	case <-t.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-taken:
	case <-t.done:
	case <-ctx.Done():
	}
	return nil
}

// NoteLargeNotified records that a user was notified of what a refresh fetches.
func (e *Engine) NoteLargeNotified(id string, uid uint32) {
	e.send(id, letter{Event: plan.Event{Type: plan.LargeShown, UID: uid}})
}

// FetchNow makes a refresh fetch at once what a user was notified of.
func (e *Engine) FetchNow(id string) { e.send(id, letter{Event: plan.Event{Type: plan.FetchAsked}}) }

// NoteNotified records that a user was shown a notice about a refresh, so that the same user is
// notified of its end.
func (e *Engine) NoteNotified(id string, uid uint32) {
	e.send(id, letter{Event: plan.Event{Type: plan.NoticeShown, UID: uid}})
}
