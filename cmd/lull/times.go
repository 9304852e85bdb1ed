package main

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/lull/lull/agent/problem"
)

// latest is the last time that is shown: later ones cannot be written as JSON
// and mean nothing.
var latest = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// fromBus reads a time as the bus carries it; the zero time means none.
func fromBus(micro uint64) time.Time {
	if micro == 0 {
		return time.Time{}
	}
	if micro > uint64(latest.UnixMicro()) {
		return latest
	}
	return time.UnixMicro(int64(micro))
}

func toBus(t time.Time) uint64 {
	if t.IsZero() || t.UnixMicro() <= 0 {
		return 0
	}
	return uint64(t.UnixMicro())
}

// ago says how long t is past: "3 hours ago". What seems to lie in the future,
// as after a change of the clock, was just now.
func ago(t, now time.Time) string {
	switch {
	case t.IsZero():
		return "never"
	case now.Sub(t) < 5*time.Second:
		return "just now"
	}
	return humanize.RelTime(t, now, "ago", "ago")
}

// in says how far t is ahead: "in 2 weeks". What has passed is now.
func in(t, now time.Time) string {
	switch {
	case t.IsZero():
		return "never"
	case t.Sub(now) < time.Second:
		return "now"
	case t.Sub(now) > 100*365*24*time.Hour:
		return "in more than 100 years"
	}
	// Units are cut, not rounded: what is a moment short of two weeks is said to be two weeks.
	return "in " + strings.TrimSpace(humanize.RelTime(now, t.Add(t.Sub(now)/100), "", ""))
}

// day says a time as a date that a person needs no calendar for.
func day(t, now time.Time) string {
	t, now = t.Local(), now.Local()
	switch d := t.Sub(now); {
	case d < 0:
		return "now"
	case t.Format(time.DateOnly) == now.Format(time.DateOnly):
		return "today at " + t.Format("15:04")
	case d < 6*24*time.Hour:
		return t.Format("Monday at 15:04")
	case t.Year() == now.Year():
		return t.Format("2 January")
	}
	return t.Format("2 January 2006")
}

// stamp is a time in JSON: null when there is none.
func stamp(micro uint64) *time.Time {
	t := fromBus(micro)
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// duration reads "90m", "6h", "3d", "2w".
func duration(s string) (time.Duration, error) {
	units := map[byte]time.Duration{'d': 24 * time.Hour, 'w': 7 * 24 * time.Hour}
	if s != "" && units[s[len(s)-1]] > 0 {
		n, err := strconv.ParseFloat(s[:len(s)-1], 64)
		if err == nil && n > 0 && n*float64(units[s[len(s)-1]]) < math.MaxInt64 {
			return time.Duration(n * float64(units[s[len(s)-1]])), nil
		}
	} else if d, err := time.ParseDuration(s); err == nil && d > 0 {
		return d, nil
	}
	return 0, problem.New(problem.Usage, "cannot understand the duration %q", s).WithHint("write it as 90m, 6h, 3d or 2w")
}

// moment reads a date, a date and time, or the like, in local time.
func moment(s string, now time.Time) (time.Time, error) {
	for _, layout := range []string{time.RFC3339, "2006-01-02 15:04", "2006-01-02T15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return t, nil
		}
	}
	if t, err := time.ParseInLocation("15:04", s, now.Location()); err == nil {
		t = time.Date(now.Year(), now.Month(), now.Day(), t.Hour(), t.Minute(), 0, 0, now.Location())
		if !t.After(now) {
			t = t.AddDate(0, 0, 1)
		}
		return t, nil
	}
	return time.Time{}, problem.New(problem.Usage, "cannot understand the time %q", s).
		WithHint(`write it as 2030-05-12, "2030-05-12 18:00" or 18:00`)
}
