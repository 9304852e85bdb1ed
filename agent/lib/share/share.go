// Package share bounds how much of the time a loop works whose work others cause.
//
// A Time has an owner, one goroutine, which measures its work and rests as long as Spend
// returns. Work that comes now and then is done at once; a flood of it is taken together,
// and leaves most of a processor to others. Nothing here blocks, and there is no timer.
package share

import "time"

// The bounds of a Time.
const (
	part    = 10                     // one in so many
	burst   = 100 * time.Millisecond // of work that needs no rest
	maxRest = time.Second
)

// Time is the time that a loop may work. The zero value is ready.
type Time struct {
	spent time.Duration // beyond what has been earned by resting
	at    time.Time     // when that was
}

// Spend counts work that ends now, and returns how long to rest before the next.
func (t *Time) Spend(work time.Duration) (rest time.Duration) {
	now := time.Now()
	if !t.at.IsZero() {
		t.spent = max(0, t.spent-max(0, now.Sub(t.at)-work)/(part-1))
	}
	t.spent, t.at = min(t.spent+work, burst+maxRest/(part-1)+1), now
	return min(max(0, (t.spent-burst)*(part-1)), maxRest)
}
