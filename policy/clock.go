package policy

import (
	"runtime/debug"
	"slices"
	"time"
)

// Earliest is a time that has certainly passed, that of the source that this
// program was built from: a clock before it is wrong.
var Earliest = built()

// built is the time of the commit, which the Go tool records where it builds from
// a version control system, and a constant otherwise.
func built() time.Time {
	at := time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return at
	}
	for _, s := range info.Settings {
		if s.Key != "vcs.time" {
			continue
		}
		if t, err := time.Parse(time.RFC3339, s.Value); err == nil && t.After(at) {
			at = t.UTC()
		}
	}
	return at
}

// slack is how far clocks differ, or are set back, in the course of things.
const slack = 24 * time.Hour

// Clock judges times that were written down while the clock may have been wrong,
// as before the network has set it. It only ever corrects what cannot be true, and
// only by a clock that can be right: a lie about what has passed gains nothing.
type Clock struct {
	floor time.Time
}

// ClockAfter returns a Clock with times that have certainly passed, as that of
// a package's publication.
func ClockAfter(passed ...time.Time) Clock {
	c := Clock{Earliest}
	for _, t := range passed {
		if t.After(c.floor) {
			c.floor = t
		}
	}
	return c
}

// Wrong reports whether the clock must be wrong at now.
func (c Clock) Wrong(now time.Time) bool { return now.Before(c.floor) }

// Began returns when the postponement window of a revision began, given when
// it was recorded to have begun (zero: not yet). An impossible time, a
// beginning before the revision was published or one in the future, is
// replaced by now. So a window is never over at once because the clock was
// set, and never lasts for ever. While the clock is wrong nothing is judged.
func (c Clock) Began(since, now time.Time) time.Time {
	switch {
	case since.IsZero():
		return now
	case c.Wrong(now):
		return since
	case since.Before(c.floor.Add(-slack)), since.After(now.Add(slack)):
		return now
	}
	return since
}

// Lasts reports whether an entry that was recorded at since to end at until is
// in force at now. A time ahead of a clock that may be right was recorded by a
// wrong one; a clock that must be wrong ends nothing.
func (c Clock) Lasts(since, until, now time.Time) bool {
	return now.Before(until) && (c.Wrong(now) || !since.After(now.Add(slack)))
}

// Postponement is how long one revision has been, and may be, put off. Clocks
// jump, so every answer is clamped to what can be meant.
type Postponement struct {
	Since time.Time     // when the revision was ready and found the application running
	Max   time.Duration // Settings.MaxPostponement
}

// Deadline returns the moment at which the postponement ends.
func (p Postponement) Deadline() time.Time { return p.Since.Add(max(p.Max, 0)) }

// Left returns how much of it is left at now: never below 0, and never above
// Max, also when the clock has been set back to before Since.
func (p Postponement) Left(now time.Time) time.Duration {
	return min(max(p.Deadline().Sub(now), 0), max(p.Max, 0))
}

// Over reports whether the deadline has passed.
func (p Postponement) Over(now time.Time) bool { return p.Left(now) == 0 }

// Reminders returns when the reminders, given as spans before the deadline, fall
// due, in order. Those that are longer than the postponement itself never do: the
// first notice replaces them.
func (p Postponement) Reminders(before []time.Duration) (at []time.Time) {
	for _, r := range before {
		if r > 0 && r < p.Max {
			at = append(at, p.Deadline().Add(-r))
		}
	}
	slices.SortFunc(at, time.Time.Compare)
	return at
}
