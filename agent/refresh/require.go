package refresh

import (
	"context"
	"time"

	"github.com/lull/lull/agent/conditions"
	"github.com/lull/lull/agent/lib/wallclock"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/policy"
)

// unmet returns the conditions that keep this refresh from going on by itself, and when that
// may change by the clock; since is when they first did. They only bound automatic refreshes:
// an explicitly requested one waits for none of them, and no refresh waits for them beyond
// its deadline.
func (t *task) unmet(s policy.Settings, required policy.Conditions, since time.Time) ([]conditions.Unmet, time.Time) {
	r, now := &t.r, wallclock.Now()
	switch {
	case r.Kind != plan.Update, r.Now, len(required) == 0, t.e.Conditions == nil,
		r.Urgency == policy.UrgencySecurity && !s.SecurityRequires,
		!since.IsZero() && (policy.Postponement{Since: since, Max: s.MaxPostponement}).Over(now):
		return nil, time.Time{}
	}
	return t.e.Conditions(required).Unmet(required, t.e.Policy().Schedule.Windows, now)
}

// earlier returns the first of two times; zero means never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// mayFetch returns nil if the new revision may be fetched. The time of waiting for that is
// not part of the postponement window, which begins when the new revision is ready. But it
// has the same limit.
func (t *task) mayFetch() *busyError {
	r := &t.r
	s := t.settings()
	// It may have begun before this revision was published: see Submit.
	began := policy.ClockAfter().Began(r.FetchSince, wallclock.Now())
	unmet, again := t.unmet(s, s.FetchRequires, began)
	r.Unmet = unmet
	if len(unmet) == 0 {
		r.Deadline = time.Time{}
		return t.mayFetchLarge()
	}
	r.FetchSince = began
	r.Deadline = policy.Postponement{Since: r.FetchSince, Max: s.MaxPostponement}.Deadline()
	return &busyError{until: earlier(again, r.Deadline)}
}

// whileMayFetch returns a context that ends, with a busyError as its cause, when a condition
// for fetching is lost. stop ends the watching; a wake-up that it has received is passed on.
// Meanwhile the record is only read.
func (t *task) whileMayFetch(ctx context.Context) (_ context.Context, stop func()) {
	s := t.settings()
	_, again := t.unmet(s, s.FetchRequires, t.r.FetchSince)
	t.setAlarm(again)
	var rung <-chan struct{}
	if t.alarm != nil {
		rung = t.alarm.C()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	ended, over, heard := make(chan struct{}), make(chan struct{}), false
	go func() {
		defer close(over)
		for {
			select {
			case <-t.wake:
				heard = true
			case <-rung:
			case <-ended:
				return
			}
			s := t.settings()
			unmet, again := t.unmet(s, s.FetchRequires, t.r.FetchSince)
			if len(unmet) > 0 || !t.largeHeld().IsZero() {
				cancel(&busyError{})
				return
			}
			if rung != nil {
				t.alarm.Set(again)
			}
		}
	}()
	stopped := false
	return ctx, func() {
		if stopped {
			return
		}
		stopped = true
		close(ended)
		<-over
		cancel(nil)
		if heard {
			t.nudge()
		}
	}
}
