package refresh

import (
	"slices"
	"time"

	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/policy"
)

// Holds returns the holds in force on an instance, the longest first, each with
// the end that it has for the refresh under way: policy bounds those of users.
func (e *Engine) Holds(instance string) ([]state.Hold, error) {
	r, ok := e.Of(instance)
	if !ok || r.Kind != Update {
		r = Refresh{}
	}
	return e.holds(instance, &r, time.Now())
}

func (e *Engine) holds(instance string, r *Refresh, now time.Time) ([]state.Hold, error) {
	list, err := e.State.Holds(instance)
	s := e.Policy().For(instance)
	var force []state.Hold
	for _, h := range list {
		since := r.Since
		if since.IsZero() {
			since = h.Since // nothing is ready yet: the hold alone is bounded
		}
		if !h.Admin {
			h.Until = s.UserHoldEnd(h.Until, since, now, r.Urgency)
		}
		if r.clock().Lasts(h.Since, h.Until, now) {
			force = append(force, h)
		}
	}
	slices.SortStableFunc(force, func(a, b state.Hold) int { return b.Until.Compare(a.Until) })
	return force, err
}

// clock knows that the package was published before it could be ready.
func (r *Refresh) clock() policy.Clock { return policy.ClockAfter(r.Published) }

// held says until when somebody has said "not now"; zero: nobody has. A user's
// hold begins the postponement window, as a running application does, so that
// neither can put a revision off for longer than policy says. An administrator's
// does not.
func (t *task) held(now time.Time) (time.Time, error) {
	ready := t.r
	ready.Since = ready.clock().Began(ready.Since, now)
	list, err := t.e.holds(t.instance, &ready, now)
	if err != nil || len(list) == 0 {
		return time.Time{}, err
	}
	if slices.ContainsFunc(list, func(h state.Hold) bool { return !h.Admin }) {
		t.r.Since = ready.Since
	}
	return list[0].Until, nil
}
