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

// over says whether it is due. A clock that was set back, so that more is left
// than there can be, makes it due too.
func (s schedule) over(now time.Time) bool {
	left := s.at.Sub(now)
	return !s.at.IsZero() && (left <= 0 || left > s.most)
}
