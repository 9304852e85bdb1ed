package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Condition is something about the machine that can be required before anything
// happens by itself.
type Condition string

// The conditions.
const (
	Mains     Condition = "mains"     // it does not run on battery
	Unmetered Condition = "unmetered" // its network is not paid for by volume
	Idle      Condition = "idle"      // no user works at it
	InWindow  Condition = "window"    // a maintenance window is open
)

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *Condition) UnmarshalText(b []byte) error {
	return word(c, b, Mains, Unmetered, Idle, InWindow)
}

// Conditions are some of them.
type Conditions []Condition

func (list Conditions) validate(path string, fail func(path, format string, args ...any)) {
	for i, c := range list {
		if at := fmt.Sprintf("%s[%d]", path, i); slices.Contains(list[:i], c) {
			fail(at, "cannot use %s as %s: it is there already", c, at)
		}
	}
}

// Window is a maintenance window, which opens on some days of the week. Its
// times are wall-clock times of the machine, regardless of changes of the
// clock in between.
type Window struct {
	days     [7]bool // by time.Weekday; on which it opens
	from, to int     // minutes of the day; to at or below from: of the next day
	text     string
}

// Windows are some of them.
type Windows []Window

var weekdays = [7]string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

const windowWant = "days and hours such as sat,sun 02:00-05:00, mon-fri 22:00-06:00, or hours alone"

// Want describes the spelling.
func (Window) Want() string { return windowWant }

func (w Window) String() string { return w.text }

// UnmarshalText implements encoding.TextUnmarshaler.
func (w *Window) UnmarshalText(b []byte) error {
	bad := fmt.Errorf("want %s", windowWant)
	fields := strings.Fields(strings.ToLower(string(b)))
	v := Window{text: strings.Join(fields, " ")}
	switch len(fields) {
	case 1:
		v.days = [7]bool{true, true, true, true, true, true, true}
	case 2:
		if !v.parseDays(fields[0]) {
			return bad
		}
		fields = fields[1:]
	default:
		return bad
	}
	from, to, ok := strings.Cut(fields[0], "-")
	var okFrom, okTo bool
	v.from, okFrom = minutes(from)
	v.to, okTo = minutes(to)
	if !ok || !okFrom || !okTo || v.from == 24*60 || v.from == v.to {
		return bad
	}
	*w = v
	return nil
}

func (w *Window) parseDays(text string) bool {
	for part := range strings.SplitSeq(text, ",") {
		first, last, span := strings.Cut(part, "-")
		a, ok := weekday(first)
		b := a
		if span && ok {
			b, ok = weekday(last)
		}
		if !ok {
			return false
		}
		for d := a; ; d = (d + 1) % 7 {
			w.days[d] = true
			if d == b {
				break
			}
		}
	}
	return true
}

func weekday(name string) (int, bool) {
	for i, d := range weekdays {
		if d == name {
			return i, true
		}
	}
	return 0, false
}

// minutes reads 02:00, up to 24:00.
func minutes(text string) (int, bool) {
	h, m, ok := strings.Cut(text, ":")
	hours, err := strconv.ParseUint(h, 10, 8)
	mins, merr := strconv.ParseUint(m, 10, 8)
	n := int(hours*60 + mins)
	return n, ok && err == nil && merr == nil && len(h) <= 2 && len(m) == 2 && mins < 60 && n <= 24*60
}

// At reports whether a window is open at a time, and when that changes: when
// all open ones have closed, or the next one opens. Zero means never.
func (list Windows) At(now time.Time) (open bool, change time.Time) {
	for extended := true; extended; { // a window may open before another closes
		extended = false
		for _, w := range list {
			at := now
			if open {
				at = change
			}
			if end := w.covers(at); end.After(at) {
				open, change, extended = true, end, true
			}
		}
		if open && change.Sub(now) > 8*24*time.Hour {
			return true, time.Time{} // one follows the other for ever
		}
	}
	if open {
		return true, change
	}
	for _, w := range list {
		for day := range 9 {
			start, _, ok := w.on(now, day)
			if ok && start.After(now) && (change.IsZero() || start.Before(change)) {
				change = start
			}
		}
	}
	return false, change
}

// covers returns when the window closes that is open at a moment; zero: it is not.
func (w Window) covers(at time.Time) time.Time {
	for _, day := range []int{-1, 0} {
		if start, end, ok := w.on(at, day); ok && !at.Before(start) && at.Before(end) {
			return end
		}
	}
	return time.Time{}
}

// on is the window that opens some days after a moment. A clock that is set forward
// for the summer can leave nothing of it.
func (w Window) on(at time.Time, days int) (start, end time.Time, ok bool) {
	y, m, d := at.Date()
	moment := func(day, minutes int) time.Time { return time.Date(y, m, d+day, 0, minutes, 0, 0, at.Location()) }
	start, end = moment(days, w.from), moment(days, w.to)
	if w.to <= w.from {
		end = moment(days+1, w.to)
	}
	return start, end, w.days[start.Weekday()] && end.After(start)
}
