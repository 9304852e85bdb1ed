package notify

import (
	"testing"
	"time"

	"github.com/lull/lull/agent/lib/words"
)

func progress(percent int) Progress {
	return Progress{Instance: "firefox", Name: "Firefox", DesktopEntry: "firefox.desktop", Icon: "firefox", Percent: percent}
}

func TestLaunchThatWaits(t *testing.T) {
	p := newPlayer(t, nil).ready()
	p.event(LaunchWaits{":1.7", "firefox", words.RefreshInProgress})
	p.did("follow firefox true") // nothing is shown before it is known what is launched
	p.event(progress(20))
	p.did("show wait firefox")
	n := p.screen["firefox"]
	if n.Summary != "Firefox is about to start" || n.Percent != 20 || n.App != "Firefox" || n.Icon != "firefox" || n.DesktopEntry != "firefox" || len(n.Buttons) != 0 {
		t.Errorf("got %+v, want Firefox is about to start, at 20 %%, with the name, icon and entry of Firefox and without buttons", n)
	}
	p.event(progress(20))
	p.event(LaunchWaits{":1.7", "firefox", words.RefreshInProgress})
	p.did()
	p.event(LaunchWaits{":1.8", "firefox", words.RefreshInProgress}) // a second click
	p.did()
	p.event(progress(80))
	p.did("show wait firefox") // in its place
	p.event(LaunchOver{":1.7"})
	p.did()
	p.event(Updated{Done{ID: "r1", Instance: "firefox", Name: "Firefox", ToVersion: "153"}})
	p.did() // not while one waits
	p.event(LaunchOver{":1.8"})
	p.did("follow firefox false", "close firefox", "show after firefox")
	p.event(LaunchOver{":1.8"})
	p.did()
	p.after(newsShown)
	p.did("close firefox")
	if !p.wake.IsZero() {
		t.Errorf("it wakes up at %v, want never, as nothing is shown", p.wake)
	}
}

// There is one notice of a package; the former one returns.
func TestLaunchInThePlaceOfANotice(t *testing.T) {
	p := newPlayer(t, nil).ready(firefox())
	p.did("show ready firefox")
	p.event(LaunchWaits{":1.7", "firefox", words.RefreshPending})
	p.event(progress(-1))
	p.did("follow firefox true", "show wait firefox")
	if n := p.screen["firefox"]; n.Summary != "Firefox starts later" || n.Percent != -1 {
		t.Errorf("got %+v, want summary %q and percent %v", n, "Firefox starts later", -1)
	}
	p.event(Changed{})
	p.after(2 * 24 * time.Hour) // no reminder in between
	p.did()
	p.event(LaunchOver{":1.7"})
	p.did("follow firefox false", "close firefox", "show ready firefox")
}

func TestLaunchThatWaitsClosedByHand(t *testing.T) {
	p := newPlayer(t, nil).ready()
	p.event(LaunchWaits{":1.7", "firefox", words.RefreshInProgress})
	p.event(progress(20))
	p.closeByHand("firefox")
	p.log = nil
	p.event(progress(55))
	p.did() // once is enough
	p.event(LaunchOver{":1.7"})
	p.event(LaunchWaits{":1.9", "firefox", words.RefreshStarting})
	p.event(progress(65))
	p.did("follow firefox false", "follow firefox true", "show wait firefox")
}

func TestLaunchThatWaitsInQuiet(t *testing.T) {
	p := newPlayer(t, nil).ready()
	p.event(Disturb{true})
	p.event(LaunchWaits{":1.7", "firefox", words.RefreshInProgress})
	p.event(progress(20))
	p.did("follow firefox true")
	p.event(Disturb{false})
	p.did("show wait firefox")
	for n := range 2 * maxLaunches { // a client floods the session bus
		p.event(LaunchWaits{string(rune('a' + n)), "firefox", words.RefreshInProgress})
	}
	if len(p.core.launches) != maxLaunches {
		t.Errorf("%d launches are kept, want %v", len(p.core.launches), maxLaunches)
	}
	p.did()
}

func TestShutdownWarning(t *testing.T) {
	p := newPlayer(t, nil).ready()
	p.event(Disturb{true}) // nevertheless
	p.event(ShuttingDown{[]string{"Firefox"}, 7 * time.Second})
	p.event(ShuttingDown{[]string{"Firefox", "GIMP"}, time.Minute}) // once
	p.did("show down ")
	if n := p.screen[""]; n.Body != "Firefox is being updated. The computer goes on shutting down by itself when that is done, in about 7 seconds." || n.Urgency > Normal {
		t.Errorf("got %+v, want urgency normal at most and the text of a shutdown that waits for Firefox, about 7 seconds", n)
	}
	p.event(ShuttingDown{})
	p.event(ShuttingDown{})
	p.did("close ")
	p.event(Invoked{Instance: "", Action: NextStart}) // of a notice that is not true any more
	p.did()
	p.event(ShuttingDown{[]string{"a", "b"}, 100 * time.Second})
	if n := p.screen[""]; n.Body != "2 applications are being updated. The computer goes on shutting down by itself when that is done, in about 2 minutes." {
		t.Errorf("got %+v, want body %q", n, "2 applications are being updated. The computer goes on shutting down by itself when that is done, in about 2 minutes.")
	}
	p.did("show down ")
	p.event(Invoked{Instance: "", Action: Default}) // it is finished now, as it would be without an answer
	p.did("close ")
	p.event(Invoked{Instance: "", Action: NextStart}) // from the history of notices
	p.did("answer  next-start")
}

func TestNewsOfAnotherSession(t *testing.T) {
	p := newPlayer(t, nil).ready()
	p.event(Updated{Done{ID: "r1", Instance: "firefox", Name: "Firefox", ToVersion: "153"}})
	p.did()
}

func TestGerman(t *testing.T) {
	c := New(DefaultSchedule, time.UTC, nil)
	c.Step(t0, Language{Names: []string{"de_DE.UTF-8"}})
	p := firefox()
	p.AtDeadline, p.Urgency, p.Notes = terminate, security, "Schneller."
	n := c.ready(p, t0)
	if n.Summary != "Firefox 153 ist bereit" || n.Body != "Behebt ein Sicherheitsproblem. Die Aktualisierung wird eingerichtet, wenn Sie das Programm schließen. "+
		"Ist es am Freitag, 4. Dezember um 10:00 Uhr noch offen, wird es dann beendet: Speichern Sie vorher Ihre Arbeit.\nNeu: Schneller." ||
		n.Buttons[0].Label != "Jetzt neu starten" {
		t.Errorf("got %+v, want summary %q, body %q and label %q", n, "Firefox 153 ist bereit", "Behebt ein Sicherheitsproblem. Die Aktualisierung wird eingerichtet, wenn Sie das Programm schließen. "+
			"Ist es am Freitag, 4. Dezember um 10:00 Uhr noch offen, wird es dann beendet: Speichern Sie vorher Ihre Arbeit.\nNeu: Schneller.", "Jetzt neu starten")
	}
	if got := c.length(time.Second); got != "1 Sekunde" {
		t.Error(got)
	}
	if got := c.length(-5 * time.Second); got != "1 Sekunde" {
		t.Error(got)
	}
}
