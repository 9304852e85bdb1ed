package output

import (
	"math"
	"testing"
	"time"

	bus "github.com/lull/lull/dbus"
)

func TestRate(t *testing.T) {
	start := time.Unix(1_000_000, 0)
	var r rate
	for _, c := range []struct {
		step        string
		after       time.Duration
		done, total uint64
		room        int
		want        string
	}{
		{"fetch", 0, 10e6, 100e6, 40, "10 MB of 100 MB"},
		{"fetch", 500 * time.Millisecond, 11e6, 100e6, 40, "11 MB of 100 MB"},
		{"fetch", 2 * time.Second, 20e6, 100e6, 40, "20 MB of 100 MB, 5.0 MB/s, 0:16 left"},
		{"fetch", 2 * time.Second, 20e6, 100e6, 30, "20 MB of 100 MB, 5.0 MB/s"},
		{"fetch", 2 * time.Second, 20e6, 100e6, 20, "20 MB of 100 MB"},
		{"fetch", 4 * time.Second, 20e6, 10e9, 40, "20 MB of 10 GB, 2.5 MB/s, 1:06:32 left"},
		{"fetch", 9 * time.Second, 100e6, 100e6, 40, "100 MB of 100 MB"},
		{"fetch", 9 * time.Second, 5e6, 100e6, 40, "5.0 MB of 100 MB"}, // it restarted
		{"fetch", 11 * time.Second, 7e6, 100e6, 40, "7.0 MB of 100 MB, 1.0 MB/s, 1:33 left"},
		{"fetch", 12 * time.Second, 7e6 + 1, math.MaxUint64, 60, "7.0 MB of 18 EB, 667 kB/s"}, // no remaining time of years
		{"system-images", 13 * time.Second, 8e6, 100e6, 40, "8.0 MB of 100 MB"},
	} {
		p := bus.RefreshProperties{Step: c.step, BytesDone: c.done, BytesTotal: c.total}
		if got := r.text(start.Add(c.after), p, c.room); got != c.want {
			t.Errorf("%s after %v, %d of %d bytes: %q, want %q", c.step, c.after, c.done, c.total, got, c.want)
		}
	}
}
