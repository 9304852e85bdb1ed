package printable

import (
	"fmt"
	"time"
)

// Duration returns a length of time in one or two units: "0.4 s", "12 s", "3 min 5 s",
// "2 h 10 min", "5 d 3 h". A negative one is 0.
func Duration(d time.Duration) string {
	two := func(n time.Duration, unit string, rest time.Duration, small string) string {
		if rest == 0 {
			return fmt.Sprintf("%d %s", n, unit)
		}
		return fmt.Sprintf("%d %s %d %s", n, unit, rest, small)
	}
	switch d = max(d, 0); {
	case d < 9950*time.Millisecond && d%time.Second != 0:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Minute-500*time.Millisecond:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < time.Hour-500*time.Millisecond:
		d = d.Round(time.Second)
		return two(d/time.Minute, "min", d%time.Minute/time.Second, "s")
	case d < 24*time.Hour-30*time.Second:
		d = d.Round(time.Minute)
		return two(d/time.Hour, "h", d%time.Hour/time.Minute, "min")
	}
	d = d.Round(time.Hour)
	return two(d/(24*time.Hour), "d", d%(24*time.Hour)/time.Hour, "h")
}
