package notify

import (
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/agent/lib/texts"
)

// TestDownloads: large downloads are shown once, as one notice, with what the person can do, and
// only while it is true.
func TestDownloads(t *testing.T) {
	p := newPlayer(t, nil).ready()
	game := Download{ID: "7", Instance: "game", Name: "Game", Version: "2", Bytes: 2_340_000_000, Begins: t0.Add(time.Minute), HoldUntil: t0.Add(7 * 24 * time.Hour), Unmetered: true}
	p.event(Locked{true})
	p.event(Downloads{[]Download{game}})
	known := game
	known.Notified = true
	p.event(Downloads{[]Download{known}}) // before it could be shown
	p.did()
	p.event(Locked{false})
	p.did("show fetch " + downloadsKey)
	n := p.screen[downloadsKey]
	if n.Summary != "Large update of Game" || !n.Alert ||
		n.Body != "The download of 2.3 GB begins in a minute, in the background. On a network that is set as metered, the download waits by itself." {
		t.Errorf("%+v, want an alert with size and beginning", n)
	}
	labels := func() string {
		var list []string
		for _, b := range p.screen[downloadsKey].Buttons {
			list = append(list, b.Label)
		}
		return strings.Join(list, ", ")
	}
	if got := labels(); got != "Download now, Tomorrow, OK" {
		t.Errorf("buttons %s, want Download now, Tomorrow, OK", got)
	}
	p.after(time.Minute) // it has begun: the same notice, in its place
	p.did("show fetch " + downloadsKey)
	if n := p.screen[downloadsKey]; n.Alert || !strings.HasPrefix(n.Body, "2.3 GB are being downloaded") || labels() != "Tomorrow, OK" {
		t.Errorf("%+v, want a replacement without an alert", n)
	}
	p.event(Downloads{}) // done
	p.did("close " + downloadsKey)
	p.event(Downloads{[]Download{known}}) // it is tried again
	p.did()

	film := Download{ID: "8", Instance: "film", Bytes: 5e9, Begins: p.now.Add(time.Minute)}
	known.Begins = film.Begins
	p.event(Downloads{[]Download{known, film}})
	p.did("show fetch " + downloadsKey)
	if n := p.screen[downloadsKey]; n.Summary != "Large updates of Game and 1 more" || !n.Alert || labels() != "Download now, OK" { // policy lets nobody hold film
		t.Errorf("%+v with %s, want an alert about two", n, labels())
	}
	p.event(Invoked{Instance: downloadsKey, Action: FetchNow})
	p.did("answer 7 download-now", "answer 8 download-now", "close "+downloadsKey)
	p.event(Downloads{})
	p.did()

	game.ID, game.HoldUntil = "9", p.now.Add(time.Hour)
	p.event(Downloads{[]Download{game}})
	p.did("show fetch " + downloadsKey)
	p.event(Invoked{Instance: downloadsKey, Action: Tomorrow})
	p.did("put off game for 1h0m0s: large download", "close "+downloadsKey)

	p = newPlayer(t, p.memory).ready() // after a restart of the helper
	p.event(Downloads{[]Download{game}})
	p.did()
	game.ID = "10"
	p.event(Downloads{[]Download{game}})
	p.did("show fetch " + downloadsKey)
	p.closeByHand(downloadsKey)
	p.event(Downloads{[]Download{known, game}})
	p.event(AgentDown{})
	p.after(agentGrace)

	c := New(DefaultSchedule, time.UTC, nil)
	c.Texts = texts.For("lull-userd", "de")
	c.downloading = []Download{known}
	if n := c.fetches(t0); n.Summary != "Große Aktualisierung von Game" || !strings.HasPrefix(n.Body, "Das Herunterladen von 2,3 GB beginnt") {
		t.Errorf("%+v, want it in German", n)
	}
}

func TestSize(t *testing.T) {
	c := New(DefaultSchedule, time.UTC, nil)
	for n, want := range map[uint64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 9_949: "9.9 kB", 9_960: "10 kB", 999_600: "1.0 MB", 82_854_982: "83 MB", 1 << 63: "9.2 EB"} {
		if got := c.size(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}
