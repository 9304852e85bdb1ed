package output

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/lull/lull/agent/lib/errkind"
)

// latest is the last time that is shown. Later ones cannot be written as JSON and have no
// meaning.
var latest = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// FromBus converts a time from the bus; the zero time means none.
func FromBus(micro uint64) time.Time {
	if micro == 0 {
		return time.Time{}
	}
	if micro > uint64(latest.UnixMicro()) {
		return latest
	}
	return time.UnixMicro(int64(micro))
}

func ToBus(t time.Time) uint64 {
	if t.IsZero() || t.UnixMicro() <= 0 {
		return 0
	}
	return uint64(t.UnixMicro())
}

// The units of relative times, as calendars round them.
const (
	day   = 24 * time.Hour
	month = 30 * day
	year  = 12 * month
)

// count returns the number of a duration's largest unit. The duration is at least a second.
func count(d time.Duration) (n int64, unit time.Duration) {
	unit = time.Second
	for _, larger := range []time.Duration{time.Minute, time.Hour, day, 7 * day, month, year} {
		if d >= larger {
			unit = larger
		}
	}
	return int64(d / unit), unit
}

// Ago formats the age of t: "3 hours ago". A time in the future, as after a change of the
// clock, is "just now".
func Ago(t, now time.Time) string {
	past := now.Sub(t)
	switch {
	case t.IsZero():
		return T("never")
	case past < 5*time.Second:
		return T("just now")
	case past > 37*year:
		return T("a long while ago")
	}
	switch n, unit := count(past); unit {
	case time.Second:
		return N("%d second ago", "%d seconds ago", n, n)
	case time.Minute:
		return N("%d minute ago", "%d minutes ago", n, n)
	case time.Hour:
		return N("%d hour ago", "%d hours ago", n, n)
	case day:
		return N("%d day ago", "%d days ago", n, n)
	case 7 * day:
		return N("%d week ago", "%d weeks ago", n, n)
	case month:
		return N("%d month ago", "%d months ago", n, n)
	default:
		return N("%d year ago", "%d years ago", n, n)
	}
}

// In formats the time until t: "in 2 weeks". A past time is now.
func In(t, now time.Time) string {
	ahead := t.Sub(now)
	switch {
	case t.IsZero():
		return T("never")
	case ahead < time.Second:
		return T("now")
	case ahead > 100*365*day:
		return T("in more than 100 years")
	}
	// Units are cut, not rounded. With the addition, slightly less than two weeks is
	// shown as two weeks.
	switch n, unit := count(ahead + ahead/100); unit {
	case time.Second:
		return N("in %d second", "in %d seconds", n, n)
	case time.Minute:
		return N("in %d minute", "in %d minutes", n, n)
	case time.Hour:
		return N("in %d hour", "in %d hours", n, n)
	case day:
		return N("in %d day", "in %d days", n, n)
	case 7 * day:
		return N("in %d week", "in %d weeks", n, n)
	case month:
		return N("in %d month", "in %d months", n, n)
	default:
		return N("in %d year", "in %d years", n, n)
	}
}

// clock formats a duration as a clock does: 0:07, 12:30, 1:00:00. A part of a second counts
// as one.
func clock(d time.Duration) string {
	s := int64((d + time.Second - 1) / time.Second)
	if s < 3600 {
		return fmt.Sprintf("%d:%02d", s/60, s%60)
	}
	return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
}

var (
	weekdays = [...]string{Mark("Sunday"), Mark("Monday"), Mark("Tuesday"), Mark("Wednesday"), Mark("Thursday"), Mark("Friday"), Mark("Saturday")}
	months   = [...]string{
		Mark("%d January"), Mark("%d February"), Mark("%d March"), Mark("%d April"), Mark("%d May"), Mark("%d June"),
		Mark("%d July"), Mark("%d August"), Mark("%d September"), Mark("%d October"), Mark("%d November"), Mark("%d December"),
	}
)

// Date formats a day of this year.
func Date(t time.Time) string {
	return fmt.Sprintf(Marked(months[t.Local().Month()-1]), t.Local().Day())
}

// Day formats a time as a date that needs no calendar.
func Day(t, now time.Time) string {
	t, now = t.Local(), now.Local()
	clock := t.Format("15:04")
	switch d := t.Sub(now); {
	case d < 0:
		return T("now")
	case t.Format(time.DateOnly) == now.Format(time.DateOnly):
		return T("today at %s", clock)
	case d < 6*24*time.Hour:
		return T("%[1]s at %[2]s", Marked(weekdays[t.Weekday()]), clock)
	case t.Year() == now.Year():
		return Date(t)
	}
	return fmt.Sprintf("%s %d", Date(t), t.Year())
}

// Stamp returns a time for JSON: null if there is none.
func Stamp(micro uint64) *time.Time {
	t := FromBus(micro)
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// ParseDuration reads "90m", "6h", "3d", "2w".
func ParseDuration(s string) (time.Duration, error) {
	units := map[byte]time.Duration{'d': 24 * time.Hour, 'w': 7 * 24 * time.Hour}
	if s != "" && units[s[len(s)-1]] > 0 {
		n, err := strconv.ParseFloat(s[:len(s)-1], 64)
		if err == nil && n > 0 && n*float64(units[s[len(s)-1]]) < math.MaxInt64 {
			return time.Duration(n * float64(units[s[len(s)-1]])), nil
		}
	} else if d, err := time.ParseDuration(s); err == nil && d > 0 {
		return d, nil
	}
	return 0, Error(errkind.Usage, "cannot understand the duration %q", s).WithHint("write it as 90m, 6h, 3d or 2w")
}

// IsDuration reports whether an argument is the duration of a hold, not a name.
func IsDuration(s string) bool {
	_, err := ParseDuration(s)
	return err == nil
}

// ParseMoment reads a date, a date and time, or similar, in local time.
func ParseMoment(s string, now time.Time) (time.Time, error) {
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
	return time.Time{}, Error(errkind.Usage, "cannot understand the time %q", s).
		WithHint(`write it as 2030-05-12, "2030-05-12 18:00" or 18:00`)
}
