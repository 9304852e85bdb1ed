package share

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestSpend: rare work never rests, and a flood of work of any length gets its part.
func TestSpend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rare Time
		for range 1000 {
			time.Sleep(20 * time.Millisecond)
			time.Sleep(2 * time.Millisecond)
			if rest := rare.Spend(2 * time.Millisecond); rest != 0 {
				t.Fatalf("work of 2 ms after 20 ms rests %v, want no rest", rest)
			}
		}
		for _, work := range []time.Duration{time.Microsecond * 100, 3 * time.Millisecond, 50 * time.Millisecond} {
			var flood Time
			began := time.Now()
			var worked time.Duration
			for time.Since(began) < time.Minute {
				time.Sleep(work)
				worked += work
				time.Sleep(flood.Spend(work))
			}
			if most := time.Since(began)/part + 2*burst; worked > most || worked < most/2 {
				t.Errorf("work of %v took %v of a minute, want about %v", work, worked, most)
			}
		}
		var slow Time
		time.Sleep(time.Minute)
		if rest := slow.Spend(time.Minute); rest != maxRest {
			t.Errorf("after a minute of work it rests %v, want %v", rest, maxRest)
		}
		time.Sleep(maxRest)
		time.Sleep(time.Millisecond)
		if rest := slow.Spend(time.Millisecond); rest > 20*time.Millisecond {
			t.Errorf("after that rest it rests %v, want hardly any", rest)
		}
	})
}
