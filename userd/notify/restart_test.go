package notify

import (
	"slices"
	"testing"
	"time"
)

func TestRestartNow(t *testing.T) {
	p := newPlayer(t, nil).ready(firefox())
	q := firefox()
	q.Processes = append(q.Processes, Process{PID: 43})
	p.pending = []Pending{q} // one more since
	p.event(Invoked{Instance: "firefox", Action: RestartNow})
	p.did("show ready firefox", "answer r1 restart-now", "close firefox", "quit firefox 2")
	p.after(3 * time.Second)
	p.pending = nil
	p.event(Withdrawn{"r1", "exited"})
	p.event(Updated{Done{ID: "r1", Instance: "firefox", Name: "Firefox", ToVersion: "153"}})
	p.did("launch firefox", "show after firefox")
	if got := p.screen["firefox"].Body; got != "It is now version 153. It is starting again." {
		t.Error(got)
	}
	p.after(time.Hour)
	p.did("close firefox")
}

func TestRestartThatStaysOpen(t *testing.T) {
	p := newPlayer(t, nil).ready(firefox())
	p.event(Invoked{Instance: "firefox", Action: RestartNow})
	p.log = nil
	p.after(14 * time.Second)
	p.did()
	p.after(2 * time.Second)
	p.did("show open firefox")
	if got := p.screen["firefox"].Summary; got != "Firefox is still open" {
		t.Error(got)
	}
	p.after(23 * time.Hour)
	p.did() // once
	p.event(Invoked{Instance: "firefox", Action: RestartNow})
	p.did("answer r1 restart-now", "close firefox", "quit firefox 1")
	p.after(time.Minute)
	p.did("show open firefox")
	p.event(Invoked{Instance: "firefox", Action: WhenClosed}) // no restart
	p.did("forget firefox", "answer r1 when-closed", "close firefox")
	p.pending = nil
	p.event(Withdrawn{"r1", "exited"})
	p.event(Updated{Done{ID: "r1", Instance: "firefox"}})
	p.did("show after firefox")
}

// A user who has agreed to a restart gets the application back, whatever the
// outcome of the refresh.
func TestRestartAlwaysComesBack(t *testing.T) {
	cases := []struct {
		name string
		then func(*player)
	}{
		{"failed", func(p *player) { p.event(Finished{"firefox", "undone"}) }},
		{"never done", func(p *player) { p.after(61 * time.Second) }},
		{"agent gone", func(p *player) { p.event(AgentDown{}); p.after(61 * time.Second) }},
		{"helper restarted", func(p *player) {
			*p = *newPlayer(p.t, p.memory)
			p.ready()
			p.after(61 * time.Second)
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p := newPlayer(t, nil).ready(firefox())
			p.event(Invoked{Instance: "firefox", Action: RestartNow})
			p.pending = nil
			p.event(Withdrawn{"r1", "exited"})
			p.log = nil
			c.then(p)
			p.log = slices.DeleteFunc(p.log, func(l string) bool { return l == "show undone firefox" })
			p.did("launch firefox")
		})
	}
	for _, reason := range []string{"held", "reverted", "cancelled", "failed"} {
		t.Run(reason, func(t *testing.T) {
			p := newPlayer(t, nil).ready(firefox())
			p.event(Invoked{Instance: "firefox", Action: RestartNow})
			p.log, p.pending = nil, nil
			p.event(Withdrawn{"r1", reason})
			p.did("launch firefox")
		})
	}
}

func TestRestartOvertaken(t *testing.T) {
	p := newPlayer(t, nil).ready(firefox())
	p.event(Invoked{Instance: "firefox", Action: RestartNow})
	p.pending = nil
	p.event(Withdrawn{"r1", "exited"})
	p.log = nil
	p.pending = []Pending{firefox()} // started by hand meanwhile
	p.event(Changed{})
	p.did("forget firefox")
	p.after(time.Hour)
	p.did()
}

func TestStaleButtons(t *testing.T) {
	p := newPlayer(t, nil).ready(firefox())
	p.pending = nil
	p.event(Withdrawn{"r1", "exited"})
	p.log = nil
	for _, action := range []string{RestartNow, WhenClosed, Later, Default, "nonsense"} {
		p.event(Invoked{Instance: "firefox", Action: action})
		p.event(Invoked{Instance: "nobody", Action: action})
	}
	p.did()
	p = newPlayer(t, nil).ready(firefox())
	p.closeByHand("firefox") // expired: its buttons still work in the history
	p.log = nil
	p.event(Invoked{Instance: "firefox", Action: "nonsense"})
	p.did()
	p.event(Invoked{Instance: "firefox", Action: RestartNow})
	p.did("answer r1 restart-now", "keep firefox", "quit firefox 1")
}
