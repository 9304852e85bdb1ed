package conditions

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lull/lull/agent/lib/wallclock"
	"github.com/lull/lull/policy"
)

func TestInUse(t *testing.T) {
	for text, s := range map[string]Session{
		"false: in the background":         {},
		"true: at work":                    {Active: true},
		"false: idle":                      {Active: true, Idle: true},
		"true: in a presentation":          {Active: true, Idle: true, DoNotDisturb: true},
		"false: locked in a presentation":  {Active: true, Idle: true, DoNotDisturb: true, Locked: true},
		"false: locked while keys are hit": {Active: true, Locked: true},
		"false: logging out":               {Active: true, LoggingOut: true},
	} {
		if got := fmt.Sprint(s.InUse()); got != text[:len(got)] || text[len(got)] != ':' {
			t.Errorf("InUse: got %s, want %q", got, text)
		}
	}
}

func TestUnmet(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC) // a Saturday
	all := policy.Conditions{policy.Mains, policy.Unmetered, policy.Idle, policy.InWindow}
	var w policy.Window
	if err := w.UnmarshalText([]byte("sun 02:00-05:00")); err != nil {
		t.Fatal(err)
	}
	ann, bob := Session{ID: "1", UID: 1, User: "ann", Active: true}, Session{ID: "2", UID: 2, User: "bob", Active: true}
	typing := ann
	typing.IdleAt = now.Add(3 * time.Minute)
	cases := []struct {
		name     string
		state    State
		required policy.Conditions
		windows  policy.Windows
		at       time.Time
		unmet    string
		again    string
	}{
		{"nothing is known", State{Power: Unknown, Network: Unknown}, all[:3], nil, now, "[]", "never"},
		{"all is bad", State{OnBattery, Metered, true, []Session{bob, ann, ann}}, all, policy.Windows{w}, now,
			"[{mains it runs on battery} {unmetered the connection is metered} {idle ann and bob are at work} {window the next one opens 2026-11-29 02:00}]", "2026-11-29 02:00"},
		{"all is good", State{OnMains, Unmetered, true, []Session{{User: "ann"}}}, all, policy.Windows{w}, now.Add(15 * time.Hour), "[]", "2026-11-29 05:00"},
		{"nothing is asked", State{OnBattery, Metered, true, []Session{ann}}, nil, policy.Windows{w}, now, "[]", "never"},
		{"on a terminal", State{Logind: true, Sessions: []Session{typing}}, all, policy.Windows{w}, now,
			"[{idle ann is at work} {window the next one opens 2026-11-29 02:00}]", "2026-11-28 12:03"},
		{"on a terminal and a screen", State{Logind: true, Sessions: []Session{typing, bob}}, all[:3], nil, now, "[{idle ann and bob are at work}]", "never"},
		{"no window at all", State{}, all, nil, now, "[{window none opens}]", "never"},
	}
	for _, c := range cases {
		list, again := c.state.Unmet(c.required, c.windows, c.at)
		when := "never"
		if !again.IsZero() {
			when = again.Format(wallclock.Layout)
		}
		if fmt.Sprint(list) != c.unmet || when != c.again {
			t.Errorf("%s: %v, again %s\nwant %s, again %s", c.name, list, when, c.unmet, c.again)
		}
	}
}

func TestUse(t *testing.T) {
	for want, s := range map[Use]State{
		Unknown: {}, IdleNow: {Logind: true}, InUse: {Sessions: []Session{{Active: true}}},
	} {
		if got := s.Use(); got != want {
			t.Errorf("%+v: %s, want %s", s, got, want)
		}
	}
}

// False reports of users change no other user's sessions, and if there is a
// logind, users have only the sessions that it lists.
func TestNobodySpeaksForOthers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		known := rapid.Bool().Draw(t, "logind")
		ids := rapid.SampledFrom([]string{"1", "2", "c1"})
		uids := rapid.Uint32Range(1, 3)
		flag := rapid.Bool()
		var sessions []Session
		if known {
			for _, id := range rapid.SliceOfDistinct(ids, func(s string) string { return s }).Draw(t, "sessions") {
				sessions = append(sessions, Session{ID: id, UID: uids.Draw(t, "uid"), Active: flag.Draw(t, "active"), Idle: flag.Draw(t, "idle"), Locked: flag.Draw(t, "locked")})
			}
		}
		liar := uids.Draw(t, "liar")
		reports := map[string]helper{}
		for i := range rapid.IntRange(0, 3).Draw(t, "helpers") {
			var list []Report
			for range rapid.IntRange(0, 3).Draw(t, "reports") {
				list = append(list, Report{ids.Draw(t, "id"), flag.Draw(t, "a"), flag.Draw(t, "l"), flag.Draw(t, "i"), flag.Draw(t, "d"), flag.Draw(t, "o")})
			}
			reports[fmt.Sprint(i)] = helper{uid: liar, sessions: list}
		}
		before, after := map[string]Session{}, merged(known, sessions, reports)
		for _, s := range merged(known, sessions, nil) {
			before[fmt.Sprint(s.UID, " ", s.ID)] = s
		}
		if known && len(after) != len(sessions) {
			t.Fatalf("got sessions %+v, want no more than %+v", after, sessions)
		}
		for _, s := range after {
			old, ok := before[fmt.Sprint(s.UID, " ", s.ID)]
			if s.UID != liar && (!ok || s != old) {
				t.Fatalf("got session %+v of another user, want it unchanged: %+v", s, old)
			}
			if known && s.Active != old.Active {
				t.Fatalf("got session %+v, want active %v as logind has it", s, old.Active)
			}
		}
	})
}
