package manager

import (
	"math/rand/v2"
	"time"
)

// jitter spreads ten thousand machines over a tenth of the interval.
func jitter(d time.Duration) time.Duration { return d - d/20 + rand.N(d/10+1) }

// schedule is the next moment of something that is done every so often.
type schedule struct {
	at   time.Time     // zero: never
	most time.Duration // no longer than this may be left at any time
}

// after is due once every has passed, give or take.
func after(now time.Time, every time.Duration) schedule {
	if every <= 0 {
		return schedule{}
	}
	d := jitter(every)
	return schedule{now.Add(d), d}
}

// settling is about how long is waited after a start with what is overdue: the
// network may not be there yet, and there is enough to do.
const settling = 10 * time.Minute

// next is due once every has passed since the last time, give or take, but not at
// once. Without a last time, or with one that is to come, it counts from now.
func next(now, last time.Time, every time.Duration) schedule {
	s := after(now, every)
	if every <= 0 || last.IsZero() || last.After(now) {
		return s
	}
	due, soonest := last.Add(s.most), now.Add(min(s.most, jitter(settling)))
	if due.Before(soonest) {
		due = soonest
	}
	return schedule{due, due.Sub(now)}
}

// over says whether it is due. A clock that was set back, so that more is left
// than there can be, makes it due too.
func (s schedule) over(now time.Time) bool {
	left := s.at.Sub(now)
	return !s.at.IsZero() && (left <= 0 || left > s.most)
}
