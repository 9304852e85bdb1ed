package notify

import (
	"strings"
	"testing"
	"time"
)

// What fails for long is shown once, as one notice, when the user can see it, and only while
// it is true.
func TestFailures(t *testing.T) {
	main := Failure{Repository: true, Name: "main", Title: "main", Since: t0.Add(-8 * 24 * time.Hour), Cause: "Unavailable", Text: "cannot read repository main: connection refused"}
	app := Failure{Name: "firefox", Title: "Firefox", Since: t0.Add(-7 * 24 * time.Hour), Cause: "NoSpace", Text: "cannot fetch firefox: 2 GB needed"}
	p := newPlayer(t, nil).ready()
	p.event(Locked{true})
	p.event(Failing{[]Failure{main}})
	known := main
	known.Notified = true
	p.event(Failing{[]Failure{known}}) // before it could be shown
	p.did()
	p.event(Locked{false})
	p.did("show fails " + failuresKey)
	n := p.screen[failuresKey]
	for _, want := range []string{"has been unusable since 12 November", "Its server cannot be reached", "\nCause: cannot read repository main: connection refused"} {
		if !strings.Contains(n.Body, want) {
			t.Errorf("no %q in %q", want, n.Body)
		}
	}
	if n.Summary != "No updates from main" || !n.Alert || n.Instance != failuresKey {
		t.Errorf("%+v, want an alert about main", n)
	}
	p.after(40 * 24 * time.Hour)
	p.did()
	p.event(Failing{[]Failure{main, app}})
	p.did("show fails " + failuresKey)
	if n := p.screen[failuresKey]; n.Summary != "main and 1 more get no updates" || !n.Alert {
		t.Errorf("%+v, want an alert about two", n)
	}
	p.event(Failing{[]Failure{app}})
	p.did("show fails " + failuresKey) // in its place
	if n := p.screen[failuresKey]; n.Summary != "Firefox gets no updates" || n.Alert || !strings.Contains(n.Body, "not enough space") {
		t.Errorf("%+v, want a replacement about Firefox", n)
	}
	p.closeByHand(failuresKey)
	p.event(Failing{[]Failure{app}})
	p.did()
	p.event(Failing{})
	p.did()

	p = newPlayer(t, nil).ready() // after a log-in
	p.event(Failing{[]Failure{known}})
	p.did()
	p.event(Failing{[]Failure{app}})
	p.did("show fails " + failuresKey)
	p.event(Invoked{Instance: failuresKey, Action: Default})
	p.did("close " + failuresKey)

	p = newPlayer(t, p.memory).ready() // after a restart of the helper
	p.event(Failing{[]Failure{app}})
	p.did()
	main.Since = t0
	p.event(Failing{[]Failure{main}})
	p.did("show fails " + failuresKey)
	p.event(AgentDown{})
	p.after(agentGrace)
	p.did("close " + failuresKey)
}
