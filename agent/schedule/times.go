package schedule

import (
	"math/rand/v2"
	"time"
)

// jitter varies an interval by a half, so that machines that were started together are spread
// over all of it.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d+1) }

// alarm is the next time of a periodic action.
type alarm struct {
	at   time.Time     // zero means never
	most time.Duration // the longest time that may be left
}

// after returns an alarm that is due when about the time every has passed.
func after(now time.Time, every time.Duration) alarm {
	if every <= 0 {
		return alarm{}
	}
	d := jitter(every)
	return alarm{now.Add(d), d}
}

// settling is the least time that an overdue check waits after a start: the network may not
// be up yet, and there is enough other work. Up to networkSpread is added, because machines
// start together in the morning and after a power cut.
const settling = 5 * time.Minute

// next returns an alarm that is due when about the time every has passed since last, but
// not at once. Without a last time, or with one in the future, it is due at any time
// within every.
func next(now, last time.Time, every time.Duration) alarm {
	s := after(now, every)
	if every <= 0 {
		return s
	}
	soonest := now.Add(min(s.most, settling+rand.N(networkSpread)))
	if last.IsZero() || last.After(now) {
		s.at = now.Add(rand.N(every))
		if s.at.Before(soonest) {
			s.at = soonest
		}
		s.most = s.at.Sub(now)
		return s
	}
	due := last.Add(s.most)
	if due.Before(soonest) {
		due = soonest
	}
	return alarm{due, due.Sub(now)}
}

// over reports whether it is due. A clock that was set back, so that more time is left than
// possible, makes it due too.
func (s alarm) over(now time.Time) bool {
	left := s.at.Sub(now)
	return !s.at.IsZero() && (left <= 0 || left > s.most)
}

// firstRetry is the delay before the first retry of a check that has failed for want of
// network; each further failure doubles it.
const firstRetry = 2 * time.Minute

// afterFailure returns an alarm that is due sooner than every, after so many failures in a
// row, counted from 1. It is not due before wait has passed, which a server has requested.
// The delay is varied by up to a half: machines that lost their network together do not
// return together.
func afterFailure(now time.Time, failures int, every, wait time.Duration) alarm {
	if every <= 0 {
		return alarm{}
	}
	d := min(firstRetry<<min(failures-1, 16), every)
	d = d/2 + rand.N(d+1)
	if wait > 0 {
		d = max(d, wait+rand.N(wait/10+1))
	}
	return alarm{now.Add(d), d}
}

// networkSpread is the time over which machines are spread whose network comes up together,
// as after a power cut.
const networkSpread = 30 * time.Minute

// onNetwork returns the alarm after the network has come up. A check that is overdue, or
// has failed for want of network, is due a while later than now; otherwise due stays.
func onNetwork(now, last time.Time, every time.Duration, failed bool, due alarm) alarm {
	overdue := failed || !last.IsZero() && now.Sub(last) > every
	if every <= 0 || !overdue {
		return due
	}
	d := rand.N(min(networkSpread, every) + 1)
	if s := (alarm{now.Add(d), d}); due.at.IsZero() || s.at.Before(due.at) {
		return s
	}
	return due
}
