package refresh

import (
	"slices"
	"time"

	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/policy"
)

// Holds returns the holds in force on an instance, the longest first, each with its end for
// the refresh under way: policy bounds users' holds.
func (e *Engine) Holds(instance string) ([]state.Hold, error) {
	r, ok := e.Of(instance)
	if !ok || r.Kind != plan.Update {
		r = plan.Refresh{}
	}
	return e.holds(instance, &r, time.Now())
}

func (e *Engine) holds(instance string, r *plan.Refresh, now time.Time) ([]state.Hold, error) {
	list, err := e.State.Holds(instance)
	if instance != state.AllInstances && err == nil {
		var all []state.Hold
		all, err = e.State.Holds(state.AllInstances)
		list = append(list, all...)
	}
	s := e.Policy().With(instance, r.Wishes)
	var force []state.Hold
	for _, h := range list {
		since := r.HoldSince()
		if since.IsZero() {
			since = h.Since // nothing is ready yet: only the hold itself is bounded
		}
		if !h.Admin {
			h.Until = s.UserHoldEnd(h.Until, since, now, r.Urgency)
		}
		if policy.ClockAfter(r.Published).Lasts(h.Since, h.Until, now) {
			force = append(force, h)
		}
	}
	slices.SortStableFunc(force, func(a, b state.Hold) int { return b.Until.Compare(a.Until) })
	return force, err
}

// held returns until when a hold is in force; zero means that there is none. A user's hold
// begins the postponement window, as a running application does, so that neither can postpone
// a revision for longer than policy allows. An administrator's hold does not.
func (t *task) held(now time.Time) (time.Time, error) {
	ready := t.r
	ready.Since = policy.ClockAfter(ready.Published).Began(t.since(), now)
	list, err := t.e.holds(t.instance, &ready, now)
	if err != nil || len(list) == 0 {
		return time.Time{}, err
	}
	if slices.ContainsFunc(list, func(h state.Hold) bool { return !h.Admin }) {
		t.r.Since = ready.Since
	}
	return list[0].Until, nil
}
