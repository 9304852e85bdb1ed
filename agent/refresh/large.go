package refresh

import (
	"context"
	"time"

	"github.com/lull/lull/agent/lib/wallclock"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/policy"
)

// largeNotice is the time between the notice of a large download and its beginning.
const largeNotice = time.Minute

// isLarge reports whether a user must be notified before so many bytes are fetched.
func (t *task) isLarge(bytes int64) bool {
	bound := t.e.Policy().Network.Notice
	return bound > 0 && bytes >= bound && t.r.Kind == plan.Update && !t.r.Now && !t.requested.Load()
}

// announcing returns a context that ends, with a busyError as its cause, before so much is
// fetched that a user must be notified. The size is passed to size, which is called for each
// progress of the fetch. large returns it after the fetch, or zero.
func (t *task) announcing(ctx context.Context) (_ context.Context, size func(bytes int64), large func() int64) {
	if t.r.Large > 0 { // once for each refresh
		return ctx, func(int64) {}, func() int64 { return 0 }
	}
	ctx, cancel := context.WithCancelCause(ctx)
	found := int64(0)
	size = func(bytes int64) {
		if found == 0 && t.isLarge(bytes) {
			found = bytes
			cancel(&busyError{})
		}
	}
	return ctx, size, func() int64 { cancel(nil); return found }
}

// announce records that a user must be notified.
func (t *task) announce(bytes int64) {
	now := wallclock.Now()
	t.r.Large, t.r.LargeFrom = bytes, now.Add(largeNotice)
	t.r.FetchSince = policy.ClockAfter().Began(t.r.FetchSince, now) // bounds the holds
	t.e.Log.Info("a large download begins soon", "refresh", t.id, "instance", t.instance, "bytes", bytes, "from", t.r.LargeFrom)
}

// mayFetchLarge returns nil unless the fetch waits for the answer to its notice, or for the
// end of a hold.
func (t *task) mayFetchLarge() *busyError {
	r, now := &t.r, wallclock.Now()
	r.Held = false
	if r.Large == 0 || r.Now {
		return nil
	}
	if until := t.largeHeld(); !until.IsZero() {
		r.Held = true
		return &busyError{until: until}
	}
	if r.LargeFrom.IsZero() || !policy.ClockAfter().Lasts(r.LargeFrom.Add(-largeNotice), r.LargeFrom, now) {
		return nil
	}
	return &busyError{until: r.LargeFrom}
}

// largeHeld returns until when a hold keeps a large download from going on; zero means that
// none does. It only reads the record.
func (t *task) largeHeld() time.Time {
	if t.r.Large == 0 || t.r.Now || t.requested.Load() {
		return time.Time{}
	}
	list, err := t.e.holds(t.instance, &t.r, wallclock.Now())
	switch {
	case err != nil:
		t.e.Log.Warn("cannot read holds, so a large download does not wait for them", "instance", t.instance, "error", err)
	case len(list) > 0:
		return list[0].Until
	}
	return time.Time{}
}
