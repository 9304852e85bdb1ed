package printable

import (
	"math"
	"testing"
	"time"
)

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0 s", 0: "0 s", time.Millisecond: "0.0 s", 400 * time.Millisecond: "0.4 s", time.Second: "1 s", 1037442390: "1.0 s",
		9949 * time.Millisecond: "9.9 s", 9950 * time.Millisecond: "10 s", 59400 * time.Millisecond: "59 s", 59500 * time.Millisecond: "1 min",
		90 * time.Second: "1 min 30 s", time.Hour - time.Millisecond: "1 h", 130 * time.Minute: "2 h 10 min", 24*time.Hour - time.Second: "1 d",
		123 * time.Hour: "5 d 3 h", math.MaxInt64: "106751 d 23 h",
	} {
		if got := Duration(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}
