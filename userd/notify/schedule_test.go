package notify

import (
	"slices"
	"testing"
	"time"
)

// TestPolicyNamesTheReminders: the agent's policy takes precedence over the
// helper's own schedule; the deadline itself, which ends the list, is none.
func TestPolicyNamesTheReminders(t *testing.T) {
	since := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	deadline := since.Add(14 * 24 * time.Hour)
	early, late := since.Add(7*24*time.Hour), deadline.Add(-2*time.Hour)
	for _, c := range []struct {
		name      string
		reminders []time.Time
		answer    string
		want      []time.Time
	}{
		{"two", []time.Time{early, late, deadline}, "", []time.Time{early, late}},
		{"none", []time.Time{deadline}, "", nil},
		{"who has understood is reminded when it is near", []time.Time{early, late, deadline}, WhenClosed, []time.Time{late}},
	} {
		p := Pending{Since: since, Deadline: deadline, Reminders: c.reminders}
		if got := DefaultSchedule.points(p, c.answer); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	if got := DefaultSchedule.points(Pending{Since: since, Deadline: deadline}, ""); len(got) == 0 {
		t.Error("an agent that names none leaves it to the helper")
	}
}
