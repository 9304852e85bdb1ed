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
		{"plain", func(*Pending) {}, 0, "Firefox 153 is ready", "It will be installed when you close it. Save your work before you restart it.", Low},
		{"security", func(p *Pending) { p.Urgency = security }, 0, "Firefox 153 is ready",
			"It fixes a security problem. It will be installed when you close it. Save your work before you restart it.", Normal},
		{"near the deadline, keep waiting", func(*Pending) {}, 12 * day, "Firefox 153 is ready",
			"It will be installed when you close it, at the latest when you log out. Save your work before you restart it.", Normal},
		{"unknown policy is the mildest", func(p *Pending) { p.AtDeadline = "" }, 12 * day, "Firefox 153 is ready",
			"It will be installed when you close it, at the latest when you log out. Save your work before you restart it.", Normal},
		{"near the deadline, side by side", func(p *Pending) { p.AtDeadline = sideBySide }, 12 * day, "Firefox 153 is ready",
			"It will be installed when you close it, at the latest on Friday at 10:00. If it is open then, it stays on version 152 until you close it. Save your work before you restart it.", Normal},
		{"last day, side by side", func(p *Pending) { p.AtDeadline = sideBySide; p.FromVersion = "" }, 14*day - time.Hour, "Firefox 153 is ready",
			"It will be installed when you close it, at the latest today at 10:00. If it is open then, it stays as it is until you close it. Save your work before you restart it.", Normal},
		{"terminate is said at once", func(p *Pending) { p.AtDeadline = terminate }, 0, "Firefox 153 is ready",
			"It will be installed when you close it. If it is still open on Friday, 4 December at 10:00, it will be closed then: save your work before.", Low},
		{"terminate without a deadline", func(p *Pending) { p.AtDeadline = terminate; p.Deadline = time.Time{} }, 0, "Firefox 153 is ready",
			"It will be installed when you close it. Save your work before you restart it.", Low},
		{"no name, no version", func(p *Pending) { p.Name, p.ToVersion = "", "" }, 0, "An update of firefox is ready",
			"It will be installed when you close it. Save your work before you restart it.", Low},
		{"news", func(p *Pending) { p.Notes = "Faster start.\n\nFewer  colours." }, 0, "Firefox 153 is ready",
			"It will be installed when you close it. Save your work before you restart it.\nNew: Faster start. Fewer colours.", Low},
		{"its hook asks by itself", func(p *Pending) { p.QuitHook = true }, 0, "Firefox 153 is ready", "It will be installed when you close it.", Low},
		{"on battery", func(p *Pending) { p.Conditions = []string{"mains"} }, 0, "Firefox 153 is ready",
			"It will be installed once it is closed and the computer does not run on battery.", Low},
		{"in use, and closed at the deadline", func(p *Pending) { p.Conditions, p.AtDeadline = []string{"idle"}, terminate }, 0, "Firefox 153 is ready",
			"It will be installed once it is closed and the computer is not in use. If it is still open on Friday, 4 December at 10:00, it will be closed then: save your work before.", Low},
		{"no window", func(p *Pending) { p.Conditions = []string{"window"} }, 0, "Firefox 153 is ready",
			"It will be installed once it is closed, in the next maintenance window.", Low},
		{"two conditions, last day", func(p *Pending) { p.Conditions, p.AtDeadline = []string{"idle", "mains"}, sideBySide }, 14*day - time.Hour, "Firefox 153 is ready",
			"It will be installed once it is closed and the computer is ready for it. It will be installed today at 10:00 at the latest, and an open one stays as it is.", Normal},
		{"text that wants to be something else", func(p *Pending) {
			p.Name = "\u202eeliF\u202c <b>Fire</b>\x1b[31m\nfox & \x00Co"
			p.ToVersion = "1\r\n2"
		}, 0, "eliF <b>Fire</b>[31m fox & Co 1 2 is ready", "It will be installed when you close it. Save your work before you restart it.", Low},
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

// A notice has at most three buttons with what a click on it does, never speaks of
// closing as if that were enough while a condition is what it waits for, and names
// unsaved work wherever it offers a restart that no hook asks for.
func TestButtonsAndWords(t *testing.T) {
	for _, conditions := range [][]string{nil, {"mains"}, {"idle"}, {"window"}, {"unmetered"}, {"future", "mains"}} {
		for _, at := range []string{keepWaiting, sideBySide, terminate} {
			for _, since := range []time.Duration{0, 12 * 24 * time.Hour, 13*24*time.Hour + 23*time.Hour} {
				for _, urgency := range []string{"low", security} {
					p := firefox()
					p.Conditions, p.AtDeadline, p.Urgency = conditions, at, urgency
					n := New(DefaultSchedule, time.UTC, nil).ready(p, t0.Add(since))
					all := n.Summary + " " + n.Body
					restart := false
					for _, b := range n.Buttons {
						all += " " + b.Label
						restart = restart || b.Action == RestartNow
					}
					if len(n.Buttons) > 3 {
						t.Errorf("got the buttons %q, want 3 at most", n.Buttons)
					}
					if len(conditions) > 0 && (restart || strings.Contains(all, "when you close it") || strings.Contains(all, "When I close it")) {
						t.Errorf("while %v are not met, the notice is %q, want no restart and no word of closing the application", conditions, all)
					}
					if restart && !strings.Contains(strings.ToLower(all), "save your work before") {
						t.Errorf("work may be lost and it is not said: %s", all)
					}
				}
			}
		}
	}
}

// A click on a notice has the label of the button that does the same; other notices have none.
func TestClickLabel(t *testing.T) {
	for _, c := range []struct {
		conditions []string
		logOut     bool
		want       string
	}{{nil, false, "When I close it"}, {nil, true, "OK"}, {[]string{"mains"}, false, "OK"}} {
		p := firefox()
		p.Conditions, p.Background = c.conditions, c.logOut
		core := New(DefaultSchedule, time.UTC, nil)
		core.mayLogOut = c.logOut
		n := core.ready(p, t0)
		if got := n.Buttons[len(n.Buttons)-1]; got != (Button{Default, c.want}) {
			t.Errorf("conditions %q, may log out %v: the last button is %v, want %v", c.conditions, c.logOut, got, Button{Default, c.want})
		}
	}
}

// The notice of an application that is still open names what it has started.
func TestOthersAreNamed(t *testing.T) {
	p := firefox()
	p.Processes = append(p.Processes, Process{PID: 43, Command: "chromium", Other: true}, Process{PID: 44, Command: "chromium", Other: true}, Process{PID: 45, Command: "ev\x1bince", Other: true})
	c := New(DefaultSchedule, time.UTC, nil)
	if n := c.open(p, t0); n.Summary != "Firefox is still open" || !strings.HasSuffix(n.Body, " Programs that it has started have to be closed, too: chromium, evince.") || len(n.Buttons) > 3 {
		t.Errorf("got %+v, want that Firefox is still open, with chromium and evince to close, and at most 3 buttons", n)
	}
	p.Processes = p.Processes[1:]
	if n := c.open(p, t0); n.Summary != "Programs of Firefox are still open" || !strings.HasSuffix(n.Body, ": chromium, evince.") {
		t.Errorf("got %+v, want summary %q and body that ends with %q", n, "Programs of Firefox are still open", ": chromium, evince.")
	}
	for i := range 9 {
		p.Processes = append(p.Processes, Process{PID: uint32(100 + i), Command: string(rune('a' + i)), Other: true})
	}
	if n := c.open(p, t0); !strings.HasSuffix(n.Body, ": chromium, evince, a, ….") {
		t.Errorf("got %+v, want body that ends with %q", n, ": chromium, evince, a, ….")
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
					t.Errorf("since %v, deadline %v, %s: the text is %q, want one without negative times, minutes and %%!", since, deadline, what, n.Body)
				}
				at := DefaultSchedule.next(p, Memory{Revision: p.ToRevision, Shown: t0}, t0)
				if !at.IsZero() && !at.After(t0) {
					t.Errorf("since %v, deadline %v, %s: the next notice is at %v, want one after %v or none", since, deadline, what, at, t0)
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
			t.Errorf("clean(%q, %d) = %q, want valid UTF-8 of at most %d characters, trimmed and without control characters", s, limit, got, limit)
		}
	})
}
