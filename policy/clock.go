package policy

import (
	"slices"
	"time"
)

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

// Over says whether the deadline has passed.
func (p Postponement) Over(now time.Time) bool { return p.Left(now) == 0 }

// Reminders returns when the reminders, given as spans before the deadline, fall
// due, in order. Those that are longer than the postponement itself never do: the
// first notice stands for them.
func (p Postponement) Reminders(before []time.Duration) (at []time.Time) {
	for _, r := range before {
		if r > 0 && r < p.Max {
			at = append(at, p.Deadline().Add(-r))
		}
	}
	slices.SortFunc(at, time.Time.Compare)
	return at
}
