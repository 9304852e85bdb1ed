package agentclient

import (
	"testing"

	"github.com/lull/lull/agent/lib/errkind"
	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/dbus/bustest"
	"github.com/lull/lull/userd/notify"
)

// TestFailing: the errors of a list are translated with what the agent returns about them, and
// an empty list is passed on at once.
func TestFailing(t *testing.T) {
	address := bustest.Start(t)
	r := runWith(t, Options{Address: address, Translation: func() func(string, map[string]errkind.Sentence) string {
		return func(text string, made map[string]errkind.Sentence) string {
			return made[text].Fill("%s lesen geht nicht", func(part string) string { return part })
		}
	}})
	a := newAgent(t, address)
	wait[notify.AgentUp](r)
	r.Do(notify.Ask{})
	wait[notify.Listed](r)
	a.made = []bus.Sentence{{Text: "cannot read main", Message: "cannot read %s", Parts: []string{"main"}}}
	a.send(bus.HelperFailing{Failures: []bus.FailureOf{{Kind: "repository", Name: "main", Text: "cannot read main", Error: errkind.Prefix + "Unavailable"}}})
	got := wait[notify.Failing](r).List
	if len(got) != 1 || got[0].Text != "main lesen geht nicht" || got[0].Cause != "Unavailable" || !got[0].Repository {
		t.Errorf("%+v, want the error in German", got)
	}
	a.send(bus.HelperFailing{})
	if got := wait[notify.Failing](r).List; len(got) != 0 {
		t.Errorf("%+v, want an empty list", got)
	}
}
