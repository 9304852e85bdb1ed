package notify

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestTexts(t *testing.T) {
	day := 24 * time.Hour
	cases := []struct {
		name    string
		change  func(*Pending)
		at      time.Duration // since t0
		summary string
		body    string
		urgency byte
	}{
		{"plain", func(*Pending) {}, 0, "Firefox 153 is ready", "It will be installed when you close it.", Low},
		{"security", func(p *Pending) { p.Urgency = security }, 0, "Firefox 153 is ready",
			"It fixes a security problem. It will be installed when you close it.", Normal},
		{"near the deadline, keep waiting", func(*Pending) {}, 12 * day, "Firefox 153 is ready",
			"It will be installed when you close it, at the latest when you log out.", Normal},
		{"unknown policy is the mildest", func(p *Pending) { p.AtDeadline = "" }, 12 * day, "Firefox 153 is ready",
			"It will be installed when you close it, at the latest when you log out.", Normal},
		{"near the deadline, side by side", func(p *Pending) { p.AtDeadline = sideBySide }, 12 * day, "Firefox 153 is ready",
			"It will be installed when you close it, at the latest on Friday at 10:00. If it is open then, it stays on version 152 until you close it.", Normal},
		{"last day, side by side", func(p *Pending) { p.AtDeadline = sideBySide; p.FromVersion = "" }, 14*day - time.Hour, "Firefox 153 is ready",
			"It will be installed when you close it, at the latest today at 10:00. If it is open then, it stays as it is until you close it.", Normal},
		{"terminate is said at once", func(p *Pending) { p.AtDeadline = terminate }, 0, "Firefox 153 is ready",
			"It will be installed when you close it. If it is still open on Friday, 4 December at 10:00, it will be closed then: save your work before.", Low},
		{"terminate without a deadline", func(p *Pending) { p.AtDeadline = terminate; p.Deadline = time.Time{} }, 0, "Firefox 153 is ready",
			"It will be installed when you close it.", Low},
		{"no name, no version", func(p *Pending) { p.Name, p.ToVersion = "", "" }, 0, "An update of firefox is ready",
			"It will be installed when you close it.", Low},
		{"news", func(p *Pending) { p.Notes = "Faster start.\n\nFewer  colours." }, 0, "Firefox 153 is ready",
			"It will be installed when you close it.\nNew: Faster start. Fewer colours.", Low},
		{"text that wants to be something else", func(p *Pending) {
			p.Name = "\u202eeliF\u202c <b>Fire</b>\x1b[31m\nfox & \x00Co"
			p.ToVersion = "1\r\n2"
		}, 0, "eliF <b>Fire</b>[31m fox & Co 1 2 is ready", "It will be installed when you close it.", Low},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p := firefox()
			c.change(&p)
			core := New(DefaultSchedule, time.UTC, nil)
			n := core.ready(p, t0.Add(c.at))
			if n.Summary != c.summary || n.Body != c.body || n.Urgency != c.urgency {
				t.Errorf("got  %q\n     %q %d\nwant %q\n     %q %d", n.Summary, n.Body, n.Urgency, c.summary, c.body, c.urgency)
			}
		})
	}
}

// No time arithmetic may end in nonsense, however wrong the clocks are.
func TestTimesAreSane(t *testing.T) {
	core := New(DefaultSchedule, time.UTC, nil)
	for _, since := range []time.Time{{}, t0, t0.Add(1e6 * time.Hour), time.Unix(1<<40, 0)} {
		for _, deadline := range []time.Time{{}, t0, t0.Add(-1e6 * time.Hour), t0.Add(1e6 * time.Hour), time.Unix(1<<40, 0), time.Unix(0, 1)} {
			for _, what := range []string{keepWaiting, sideBySide, terminate} {
				p := firefox()
				p.Since, p.Deadline, p.AtDeadline = since, deadline, what
				n := core.ready(p, t0)
				if strings.Contains(n.Body, "-") || strings.Contains(n.Body, "minutes") || strings.Contains(n.Body, "%!") {
					t.Errorf("%v %v %s: %q", since, deadline, what, n.Body)
				}
				at := DefaultSchedule.next(p, Memory{Revision: p.ToRevision, Shown: t0}, t0)
				if !at.IsZero() && !at.After(t0) {
					t.Errorf("%v %v %s: next at %v", since, deadline, what, at)
				}
			}
		}
	}
}

func TestClean(t *testing.T) {
	cases := []struct {
		in    string
		limit int
		want  string
	}{
		{"", 10, ""},
		{"  a \t b\n", 10, "a b"},
		{"exactly ten", 11, "exactly ten"},
		{"one too long", 11, "one too lo…"},
		{"breaks here at", 8, "breaks…"},
		{"日本語の名前です", 5, "日本語の…"},
		{"\xff\xfebad", 10, "bad"},
		{"\u2066\u200f", 10, ""},
	}
	for _, c := range cases {
		if got := clean(c.in, c.limit); got != c.want {
			t.Errorf("clean(%q, %d) = %q, want %q", c.in, c.limit, got, c.want)
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add("Firefox  153", 7)
	f.Add("\u202e\x00日本", 3)
	f.Fuzz(func(t *testing.T, s string, limit int) {
		limit = 1 + limit&0xff
		got := clean(s, limit)
		if !utf8.ValidString(got) || utf8.RuneCountInString(got) > limit || strings.ContainsAny(got, "\n\r\t\x00\x1b\u202e") ||
			strings.TrimSpace(got) != got {
			t.Errorf("clean(%q, %d) = %q", s, limit, got)
		}
	})
}
