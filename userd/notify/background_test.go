package notify

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// TestBackground: a background program is restarted by itself while the user works in no
// session, if the policy lets it, once for each revision, and no other program ever.
func TestBackground(t *testing.T) {
	quits := func(p *player) (n int) {
		for _, l := range p.log {
			if strings.HasPrefix(l, "quit") {
				n++
			}
		}
		return n
	}
	background := func() Pending {
		f := firefox()
		f.Background, f.RestartBackground = true, true
		return f
	}
	for what, change := range map[string]func(*Pending){
		"a program with a window":        func(p *Pending) { p.Background = false },
		"a policy that does not want it": func(p *Pending) { p.RestartBackground = false },
		"a condition that is not met":    func(p *Pending) { p.Conditions = []string{"mains"} },
	} {
		p := newPlayer(t, nil)
		f := background()
		change(&f)
		p.pending = []Pending{f}
		p.event(AgentUp{})
		p.event(Unused{Yes: true})
		p.event(Changed{})
		if quits(p) != 0 {
			t.Errorf("%s: got %d requests to quit, want none: %q", what, quits(p), p.log)
		}
	}
	p := newPlayer(t, nil)
	p.pending = []Pending{background()}
	p.event(AgentUp{})
	if n, ok := p.screen["firefox"]; !ok || !strings.Contains(n.Body, "It runs in the background.") || quits(p) != 0 {
		t.Fatalf("got the notice %+v and %d requests to quit, want a notice with %q and none: %q", n, quits(p), "It runs in the background.", p.log)
	}
	p.event(Unused{Yes: true})
	if quits(p) != 1 {
		t.Fatalf("an unused application in the background: got %d requests to quit, want 1: %q", quits(p), p.log)
	}
	for range 3 { // it does not quit, and the user comes and goes
		p.event(Unused{})
		p.event(Changed{})
		p.event(Unused{Yes: true})
		p.event(Changed{})
	}
	if quits(p) != 1 {
		t.Errorf("got %d requests to quit, want 1 however often the user comes and goes: %q", quits(p), p.log)
	}
}

// TestLogOut: the notice of a program that has no window to close offers to log out, where
// the desktop can be asked, and nowhere else.
func TestLogOut(t *testing.T) {
	has := func(n Notice) bool {
		return slices.ContainsFunc(n.Buttons, func(b Button) bool { return b.Action == LogOut })
	}
	back := func(f Pending) Pending { f.Background = true; return f }
	p := newPlayer(t, nil).ready(back(firefox()))
	if has(p.screen["firefox"]) {
		t.Error("offered without a desktop that can be asked")
	}
	p.event(LogOutOffered{true})
	n := p.screen["firefox"]
	if !has(n) || n.Alert {
		t.Fatalf("not offered, or as a new notice: %+v", n)
	}
	p.log = nil
	p.event(Invoked{Instance: "firefox", Action: LogOut})
	p.did("answer r1 when-closed", "log out", "close firefox")
	core := New(DefaultSchedule, time.UTC, nil)
	core.mayLogOut = true
	if n := core.open(back(firefox()), t0); !has(n) || len(n.Buttons) != 3 {
		t.Errorf("one that stays open has the buttons %q, want 3, with that to log out", n.Buttons)
	}
	if f := firefox(); has(newPlayer(t, nil).offer().ready(f).screen["firefox"]) {
		t.Error("offered for a program with a window")
	}
	f := back(firefox())
	f.Conditions = []string{"mains"}
	if has(newPlayer(t, nil).offer().ready(f).screen["firefox"]) {
		t.Error("offered where it would not help")
	}
}

func (p *player) offer() *player {
	p.event(LogOutOffered{true})
	return p
}
