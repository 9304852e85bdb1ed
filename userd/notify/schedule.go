package notify

import (
	"slices"
	"time"
)

// Schedule has the times of reminders. There are no reminders at other times.
type Schedule struct {
	After []time.Duration // since the refresh began to wait
	Last  time.Duration   // before the deadline: from then on once every Each
	Each  time.Duration
	Gap   time.Duration // two notices about one application are never closer
}

// DefaultSchedule reminds after one day and three days, and daily in the last
// three days before the deadline.
var DefaultSchedule = Schedule{
	After: []time.Duration{24 * time.Hour, 72 * time.Hour},
	Last:  72 * time.Hour,
	Each:  24 * time.Hour,
	Gap:   20 * time.Hour,
}

// near reports whether the deadline is so close that the notice mentions it.
func (s Schedule) near(p Pending, now time.Time) bool {
	return !p.Deadline.IsZero() && !now.Before(p.Deadline.Add(-s.Last))
}

// points are the times of all reminders of a refresh, in order: those that the
// agent's policy names, else those of s. At the deadline and after it there
// are none. A user who has answered "when I close it" is reminded only when
// the deadline is near.
func (s Schedule) points(p Pending, answer string) []time.Time {
	var at []time.Time
	if len(p.Reminders) > 0 {
		at = slices.Clone(p.Reminders)
		if answer == WhenClosed {
			at = slices.DeleteFunc(at, func(t time.Time) bool { return !s.near(p, t) })
		}
	} else if answer != WhenClosed {
		for _, d := range s.After {
			at = append(at, p.Since.Add(d))
		}
	}
	if len(p.Reminders) == 0 && !p.Deadline.IsZero() && s.Each > 0 {
		for before := s.Last; before > 0; before -= s.Each {
			at = append(at, p.Deadline.Add(-before))
		}
	}
	at = slices.DeleteFunc(at, func(t time.Time) bool {
		return !t.After(p.Since) || !p.Deadline.IsZero() && !t.Before(p.Deadline)
	})
	slices.SortFunc(at, time.Time.Compare)
	return at
}

// next is the time of the first notice of p after what m remembers, or zero.
func (s Schedule) next(p Pending, m Memory, now time.Time) time.Time {
	if m.Revision != p.ToRevision || m.Shown.IsZero() {
		if m.Shown.IsZero() || p.Urgency == security {
			return now
		}
		// An earlier revision was announced a moment ago: once a day is enough.
		if free := m.Shown.Add(s.Gap); free.After(now) {
			return free
		}
		return now
	}
	for _, t := range s.points(p, m.Answer) {
		if t.After(m.Shown) && !t.Before(m.Shown.Add(s.Gap)) {
			return t
		}
	}
	return time.Time{}
}
