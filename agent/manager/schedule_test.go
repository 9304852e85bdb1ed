package manager

import (
	"testing"
	"time"

	"github.com/lull/lull/agent/repositories"
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
		{"never yet", time.Time{}, every, every - every/20, every + every/20},
		{"just now", now, every, every - every/20, every + every/20},
		{"an hour ago", now.Add(-time.Hour), every, 5*time.Hour - every/20, 5*time.Hour + every/20},
		{"overdue", now.Add(-48 * time.Hour), every, 9 * time.Minute, 11 * time.Minute},
		{"nearly due", now.Add(-every), every, 9 * time.Minute, every/20 + 11*time.Minute},
		{"to come", now.Add(time.Hour), every, every - every/20, every + every/20},
		{"more often than it settles", now.Add(-time.Hour), time.Minute, 57 * time.Second, 63 * time.Second},
	} {
		for range 100 {
			s := next(now, c.last, c.every)
			if d := s.at.Sub(now); d < c.least || d > c.most || s.over(now) || !s.over(s.at) {
				t.Fatalf("%s: in %v", c.name, d)
			}
		}
	}
	if s := next(now, now, 0); !s.at.IsZero() || s.over(now.Add(1000*time.Hour)) {
		t.Errorf("never: %v", s)
	}
}

// The time of the last reading of the repositories is kept for the next agent.
func TestLastCheckLasts(t *testing.T) {
	m := newManager(t)
	if last := m.repos.State().LastCheck; !last.IsZero() {
		t.Fatalf("it was never, and is %v", last)
	}
	m.repos.NoteCheck(true, nil, nil)
	last := m.repos.State().LastCheck
	again := repositories.New(m.repos.Config)
	if err := again.LoadLastCheck(); err != nil || !again.State().LastCheck.Equal(last) {
		t.Errorf("%v is remembered as %v (%v)", last, again.State().LastCheck, err)
	}
}
