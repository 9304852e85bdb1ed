package schedule

import (
	"testing"
	"time"
)

// The next check of the repositories is due by the time of the last one, also after a
// restart.
func TestNext(t *testing.T) {
	now := time.Date(2030, 5, 6, 12, 0, 0, 0, time.UTC)
	const every = 6 * time.Hour
	for _, c := range []struct {
		name        string
		last        time.Time
		every       time.Duration
		least, most time.Duration // from now
	}{
		{"never yet", time.Time{}, every, settling, every},
		{"just now", now, every, every / 2, every + every/2},
		{"an hour ago", now.Add(-time.Hour), every, every/2 - time.Hour, every + every/2 - time.Hour},
		{"overdue", now.Add(-48 * time.Hour), every, settling, settling + networkSpread},
		{"nearly due", now.Add(-every), every, settling, every / 2},
		{"to come", now.Add(time.Hour), every, settling, every},
		{"more often than it settles", now.Add(-time.Hour), time.Minute, 30 * time.Second, 90 * time.Second},
	} {
		for range 100 {
			s := next(now, c.last, c.every)
			if d := s.at.Sub(now); d < c.least || d > c.most || s.over(now) || !s.over(s.at) {
				t.Fatalf("%s: got an alarm in %v, over now %v and then %v; want it in %v to %v, false and true", c.name, d, s.over(now), s.over(s.at), c.least, c.most)
			}
		}
	}
	if s := next(now, now, 0); !s.at.IsZero() || s.over(now.Add(1000*time.Hour)) {
		t.Errorf("never: got %v, want no alarm", s)
	}
}

// After a failure the next check comes in minutes, and later the more failures there are.
func TestScheduleAfterFailures(t *testing.T) {
	now := time.Unix(1e9, 0)
	for _, c := range []struct {
		failures    int
		every, wait time.Duration
		least, most time.Duration
	}{
		{1, 6 * time.Hour, 0, time.Minute, 3 * time.Minute},
		{2, 6 * time.Hour, 0, 2 * time.Minute, 6 * time.Minute},
		{5, 6 * time.Hour, 0, 16 * time.Minute, 48 * time.Minute},
		{100, 6 * time.Hour, 0, 3 * time.Hour, 9 * time.Hour},
		{1, time.Minute, 0, 30 * time.Second, 90 * time.Second},
		{1, 6 * time.Hour, 24 * time.Hour, 24 * time.Hour, 27 * time.Hour},
	} {
		for range 200 {
			s := afterFailure(now, c.failures, c.every, c.wait)
			if d := s.at.Sub(now); d < c.least || d > c.most || s.over(now) || !s.over(s.at) {
				t.Fatalf("%+v: got an alarm in %v, over now %v and then %v; want it from least to most, false and true", c, d, s.over(now), s.over(s.at))
			}
		}
	}
	if s := afterFailure(now, 1, 0, time.Hour); !s.at.IsZero() {
		t.Errorf("never: got %v, want no alarm", s)
	}
}

// When the network comes up an overdue check follows soon, but not on all machines at once. A
// check that is not overdue waits for its time.
func TestScheduleWhenTheNetworkComes(t *testing.T) {
	now := time.Unix(1e9, 0)
	due := after(now, 6*time.Hour)
	if s := onNetwork(now, now.Add(-time.Hour), 6*time.Hour, false, due); s != due {
		t.Errorf("not overdue: got %v, want %v", s, due)
	}
	if s := onNetwork(now, now.Add(-time.Hour), 0, true, alarm{}); !s.at.IsZero() {
		t.Errorf("never: got %v, want no alarm", s)
	}
	apart := map[time.Duration]bool{}
	for range 200 {
		for _, s := range []alarm{onNetwork(now, now.Add(-7*time.Hour), 6*time.Hour, false, due), onNetwork(now, now, 6*time.Hour, true, due)} {
			d := s.at.Sub(now)
			if d < 0 || d > networkSpread {
				t.Fatalf("overdue: got an alarm in %v, want it in 0 to %v", d, networkSpread)
			}
			apart[d.Truncate(3*time.Minute)] = true
		}
	}
	if len(apart) < 8 {
		t.Errorf("got machines in %d groups, want at least 8", len(apart))
	}
	soon := alarm{now, time.Minute}
	if s := onNetwork(now, now, time.Hour, true, soon); s.at.After(soon.at) {
		t.Errorf("due sooner: got %v, want at most %v", s, soon)
	}
}
