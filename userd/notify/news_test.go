package notify

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/agent/lib/words"
)

// A notice that needs attention is marked, so that a desktop shows it once; an
// update that only keeps a notice true is not.
func TestAlert(t *testing.T) {
	day := 24 * time.Hour
	near := func(p *player) {
		q := firefox()
		q.Reminders = []time.Time{t0.Add(20 * day)} // policy has none before the deadline
		p.pending = []Pending{q}
		p.ready(q)
		p.now = t0.Add(12 * day)
	}
	change := func(f func(*Pending)) func(*player) {
		return func(p *player) {
			q := p.pending[0]
			f(&q)
			p.pending = []Pending{q}
			p.event(Changed{})
		}
	}
	launch := func(p *player) {
		p.event(LaunchWaits{":1.7", "firefox", words.RefreshInProgress})
		p.event(progress(20))
	}
	cases := []struct {
		name   string
		before func(*player)
		then   func(*player)
		shown  bool // anything, at least
		want   bool
	}{
		{"the first", func(*player) {}, func(p *player) { p.ready(firefox()) }, true, true},
		{"nothing new", func(p *player) { p.ready(firefox()) }, func(p *player) { p.event(Changed{}) }, false, false},
		{"another revision while it is up", func(p *player) { p.ready(firefox()) }, change(func(q *Pending) { q.ToVersion, q.ToRevision = "154", 3 }), true, false},
		{"a security update in its place", func(p *player) { p.ready(firefox()) }, change(func(q *Pending) { q.ToRevision, q.Urgency = 3, security }), true, true},
		{"the same turns out to be one", func(p *player) { p.ready(firefox()) }, change(func(q *Pending) { q.Urgency = security }), true, true},
		{"less pressing", func(p *player) {
			q := firefox()
			q.Urgency = security
			p.ready(q)
		}, change(func(q *Pending) { q.Urgency = "low" }), true, false},
		{"the deadline comes near", near, change(func(*Pending) {}), true, true},
		{"a reminder while it is up", func(p *player) { p.ready(firefox()) }, func(p *player) { p.after(day) }, true, true},
		{"asked for", func(p *player) { p.ready(firefox()) }, func(p *player) { p.event(ShowAll{}) }, true, true},
		{"a launch that waits", func(p *player) { p.ready(firefox()) }, launch, true, true},
		{"its progress", launch, func(p *player) { p.event(progress(80)) }, true, false},
		{"it waits for another thing", launch, func(p *player) { p.event(LaunchWaits{":1.7", "firefox", words.RefreshPending}) }, true, true},
		{"after a restart of the helper", func(p *player) {
			p.ready(firefox())
			*p = *newPlayer(p.t, p.memory)
		}, func(p *player) { p.ready(firefox()) }, true, true},
		{"news", func(p *player) { p.ready(firefox()) }, func(p *player) {
			p.pending = nil
			p.event(Updated{Done{ID: "r1", Instance: "firefox", Name: "Firefox"}})
		}, true, true},
		{"the machine goes off", func(p *player) { p.ready(firefox()) }, func(p *player) { p.event(ShuttingDown{Names: []string{"Firefox"}}) }, true, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p := newPlayer(t, nil)
			c.before(p)
			p.log, p.alerts = nil, 0
			c.then(p)
			shown := slices.ContainsFunc(p.log, func(l string) bool { return strings.HasPrefix(l, "show") })
			if shown != c.shown || (p.alerts > 0) != c.want {
				t.Errorf("got shown %v and %d alerts, want shown %v and an alert %v: %q", shown, p.alerts, c.shown, c.want, p.log)
			}
		})
	}
}

// An update that did not work is announced once, to users who were notified of the update.
func TestUndone(t *testing.T) {
	p := newPlayer(t, nil).ready(firefox())
	p.event(Finished{"another", "undone"})
	p.pending = nil
	p.event(Withdrawn{"r1", "exited"})
	p.event(Finished{"firefox", "undone"})
	p.event(Withdrawn{"r1", "failed"})
	p.did("show ready firefox", "close firefox", "show undone firefox")
	if n := p.screen["firefox"]; n.Summary != "The update of Firefox did not work" || !strings.HasPrefix(n.Body, "It is version 152 again") || !n.Alert || n.Expire != 0 {
		t.Errorf("got %+v, want an alert that stays: The update of Firefox did not work. It is version 152 again …", n)
	}
	p.after(time.Hour)
	p.did() // it stays
	q := firefox()
	q.ID = "r2" // the next try
	p.pending = []Pending{q}
	p.event(Changed{})
	p.pending = nil
	p.event(Withdrawn{"r2", "exited"})
	p.event(Finished{"firefox", "undone"})
	p.did()
	p.after(undoneShown)
	p.did("close firefox")

	// While nothing may be shown it waits.
	p = newPlayer(t, nil).ready(firefox())
	p.event(Locked{true})
	p.pending = nil
	p.event(Withdrawn{"r1", "exited"})
	p.event(Finished{"firefox", "undone"})
	p.log = nil
	p.after(8 * time.Hour)
	p.event(Locked{false})
	p.did("show undone firefox")
	if p.event(Finished{"firefox", "failed"}); len(p.screen) != 1 {
		t.Error("an end of another kind is no news")
	}
}

// Data that could not be migrated is reported in the place of the news, and stays.
func TestDataIncomplete(t *testing.T) {
	lacks := DataIncomplete{Instance: "firefox", Name: "Firefox", Count: 2, First: "a/b\x1b", Directory: "/home/ann/1"}
	p := newPlayer(t, nil).ready(firefox())
	p.pending = nil
	p.event(Withdrawn{"r1", "exited"})
	p.event(lacks)
	p.event(Updated{Done{ID: "r1", Instance: "firefox"}})
	p.did("show ready firefox", "close firefox", "show lacks firefox")
	n := p.screen["firefox"]
	if n.Summary != "2 files of Firefox could not be brought over" || n.Body != "The new version works without them, for example a/b. They are still in /home/ann/1." || !n.Alert {
		t.Errorf("got %+v, want an alert that 2 files could not be brought over, with a/b and /home/ann/1", n)
	}
	p.after(time.Hour)
	p.did()
	p.after(undoneShown)
	p.did("close firefox")

	// The news goes for it. While nothing may be shown it waits.
	p = newPlayer(t, nil).ready(firefox())
	p.event(Locked{true})
	p.pending = nil
	p.event(Withdrawn{"r1", "exited"})
	p.event(Updated{Done{ID: "r1", Instance: "firefox"}})
	lacks.Count = 1
	p.event(lacks)
	p.log = nil
	p.after(8 * time.Hour)
	p.event(Locked{false})
	p.did("show lacks firefox")
	if n := p.screen["firefox"]; n.Summary != "A file of Firefox could not be brought over" || n.Body != "The new version works without a/b, which is still in /home/ann/1." {
		t.Errorf("got %+v, want summary %q and body %q", n, "A file of Firefox could not be brought over", "The new version works without a/b, which is still in /home/ann/1.")
	}
}

// News that could not be shown for long is none.
func TestOldNews(t *testing.T) {
	for _, c := range []struct {
		away time.Duration
		want []string
	}{{30 * time.Minute, []string{"show after firefox"}}, {5 * time.Hour, nil}} {
		p := newPlayer(t, nil).ready(firefox())
		p.event(Locked{true})
		p.pending = nil
		p.event(Withdrawn{"r1", "exited"})
		p.event(Updated{Done{ID: "r1", Instance: "firefox"}})
		p.log = nil
		p.after(c.away)
		p.event(Locked{false})
		p.did(c.want...)
	}
}
