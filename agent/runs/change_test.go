package runs

import (
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/inotify"
)

// TestLastOfEach has a group come and go many times in one read: it is handled once, as it
// was at last, and all its events count.
func TestLastOfEach(t *testing.T) {
	const made, gone = unix.IN_CREATE | unix.IN_ISDIR, unix.IN_DELETE | unix.IN_ISDIR
	var events []inotify.Event
	for range 200 {
		events = append(events, inotify.Event{Watch: 1, Mask: made, Name: "a.scope"}, inotify.Event{Watch: 1, Mask: gone, Name: "a.scope"})
	}
	events = append(events,
		inotify.Event{Watch: 2, Mask: made, Name: "a.scope"},
		inotify.Event{Watch: 3, Mask: unix.IN_MODIFY},
		inotify.Event{Watch: 3, Mask: unix.IN_IGNORED},
		inotify.Event{Watch: 1, Mask: made, Name: "b.scope"},
		inotify.Event{Watch: -1, Mask: unix.IN_Q_OVERFLOW})
	want := []change{
		{inotify.Event{Watch: 1, Mask: gone, Name: "a.scope"}, 400},
		{inotify.Event{Watch: 2, Mask: made, Name: "a.scope"}, 1},
		{inotify.Event{Watch: 3, Mask: unix.IN_MODIFY}, 1},
		{inotify.Event{Watch: 1, Mask: made, Name: "b.scope"}, 1},
		{inotify.Event{Watch: -1, Mask: unix.IN_Q_OVERFLOW}, 1},
	}
	if got := lastOfEach(events); !slices.Equal(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

// TestCalm: a user whose groups change too often again and again is tried ever more rarely,
// one who has been calm is not.
func TestCalm(t *testing.T) {
	var f following
	now := time.Now()
	for _, want := range []time.Duration{calm, 2 * calm, 4 * calm, 8 * calm, 16 * calm, 16 * calm} {
		f.calmDown(now)
		if f.calm != want || f.until != now.Add(want) {
			t.Errorf("got %v until %v, want %v until %v", f.calm, f.until, want, now.Add(want))
		}
		now = f.until.Add(time.Second)
	}
	f.calmDown(f.until.Add(f.calm + time.Second))
	if f.calm != calm {
		t.Errorf("after a calm time: got %v, want %v", f.calm, calm)
	}
}
