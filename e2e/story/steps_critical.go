package story

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/sample"
)

// stepExit: the application is closed, and the lull is used.
func (s *story) stepExit() {
	s.Step(5, "The user closes the application: the lull has come")
	marker := filepath.Join(s.RunDir, "runctl", "lull."+s.name+".inhibited")
	s.exited = s.end(s.app)
	s.Say("the application has ended; it had written %d notes", lines(read(s.notes(1)), sample.V1))
	saved := read(s.notes(1))

	// The service takes a second to stop, which is enough time for the checks.
	s.untilFile("the marker shows a refresh in progress", nil, marker, func(text string) bool { return strings.TrimSpace(text) == "refresh-in-progress" })
	began := s.began(sample.V2)
	s.Say("the critical section began %v after the exit", began.Sub(s.exited).Round(100*time.Microsecond))
	if s.LogindBus() != "" {
		locks := s.Inhibitors()
		s.Say("systemd-inhibit --list: %s", strings.Join(strings.Fields(locks), " "))
		s.check(strings.Contains(locks, "lull") && strings.Contains(locks, "shutdown"), "no inhibitor lock of lull's: %q", locks)
	}
	s.check(read(marker) != "" && strings.TrimSpace(read(marker)) != "refresh-pending", "the marker has gone while the service still stops")

	done := s.ended(sample.V2, "done")
	s.check(done.Str("ErrorText") == "", "the refresh ended with %s", done.Str("ErrorText"))
	revision, hash := s.current()
	s.check(revision == 2 && hash == s.v2, "current is revision %d, %s", revision, hash)
	s.check(read(s.syncLog(1)) == "1.0 started\n1.0 stopping\n1.0 stopped\n", "the old data was touched, or the service not stopped in peace:\n%s", read(s.syncLog(1)))
	s.untilFile("the new service runs on a copy of the data", nil, s.syncLog(2), func(text string) bool {
		return text == "1.0 started\n1.0 stopping\n1.0 stopped\n2.0 started\n"
	})
	s.Until("the marker is gone", limit, func() (bool, string) {
		_, err := os.Stat(marker)
		return os.IsNotExist(err), strings.Join(s.Markers(), " ")
	})
	s.Say("services stopped, data copied, link swapped, services started and found healthy, marker removed: %v after the exit", done.When.Sub(s.exited).Round(time.Millisecond))
	if s.LogindBus() != "" {
		s.Until("the inhibitor lock is released", limit, func() (bool, string) {
			locks := s.Inhibitors()
			return !strings.Contains(locks, "lull"), locks
		})
	}
	s.Until("the notice is withdrawn and replaced by one about the update", limit, func() (bool, string) {
		live := s.desk.Live()
		return len(live) == 1 && strings.Contains(live[0].Summary+live[0].Body, "was updated"), s.desk.String()
	})
	now := s.desk.Live()[0]
	s.Say("the notice was withdrawn; now it says %q: %q", now.Summary, now.Body)

	s.untilFile("the launch that waited goes on by itself, as version 2", s.late, s.notes(2), func(text string) bool { return lines(text, sample.V2) >= 2 })
	s.check(strings.HasPrefix(read(s.notes(2)), saved), "version 2 does not see what version 1 saved:\n%s", read(s.notes(2)))
	s.check(read(s.notes(1)) == saved, "the data of revision 1 has changed")
	s.Say("the launch that had waited went on by itself: it is version 2.0 and sees all %d notes of 1.0", lines(saved, sample.V1))
}

// finished is a refresh that has ended, and when that was heard.
type finished struct {
	rig.Object
	When time.Time
}

// began returns when the bus signalled the beginning of the critical section
// of the refresh to a version.
func (s *story) began(version string) time.Time {
	s.Helper()
	var at time.Time
	refresh, _ := s.api.Refresh(s.name, version)
	s.Until("the bus signals the critical section", limit, func() (bool, string) {
		changes := s.api.Changes("Refresh", "State")
		for _, c := range changes {
			if c.Path == refresh.Path && c.Value == "critical" {
				at = c.At
			}
		}
		return !at.IsZero(), fmt.Sprint(changes)
	})
	return at
}

// ended waits until the newest refresh to a version has ended in a state.
func (s *story) ended(version, state string) finished {
	s.Helper()
	var f finished
	s.Until("the refresh to "+version+" is "+state, limit, func() (bool, string) {
		o, ok := s.api.Refresh(s.name, version)
		f = finished{o, time.Now()}
		return ok && o.Str("State") == state, o.Str("State") + " at " + o.Str("Step") + " " + o.Str("ErrorText")
	})
	for _, c := range s.api.Changes("Refresh", "State") {
		if c.Path == f.Path && c.Value == state {
			f.When = c.At
		}
	}
	return f
}

// stepRevert: the next launch, and the way back.
func (s *story) stepRevert() {
	s.Step(6, "The next launch is version 2.0; revert goes back, with version 1.0's data")
	r := s.User.Lull("run", s.name, "--show")
	s.Ran(r)
	s.check(r.Code == 0 && strings.Contains(r.Stdout, "version 1.0") && strings.Contains(r.Stdout, "version 2.0"), "version 2 does not count the notes of both: %v", r)

	busy := s.lull(75, "revert", s.name)
	s.check(strings.Contains(busy.Stderr, s.name), "the refusal does not name the application:\n%s", busy.Stderr)
	s.Say("revert waits too while the application runs; it is closed now")
	s.endLate()
	s.Until("revision 1 is current again", limit, func() (bool, string) {
		revision, _ := s.current()
		return revision == 1, fmt.Sprint("revision ", revision)
	})
	s.ended(sample.V1, "done")
	before := read(s.notes(1))
	s.check(lines(before, sample.V2) == 0, "version 1's data has notes of version 2")
	r = s.User.Lull("run", s.name, "--once", "after the revert")
	s.Ran(r)
	s.check(r.Code == 0 && read(s.notes(1)) == before+"1.0 after the revert\n", "version 1 does not go on with its own data: %v", r)
	s.lull(0, "refresh", s.name)
	revision, _ := s.current()
	s.check(revision == 1, "the reverted revision was offered again")
	s.Say("1.0 runs again on its own data, and 2.0 is not offered again")
}

// endLate ends the launch that had waited, which runs below a terminal.
func (s *story) endLate() {
	s.Helper()
	o, _ := s.api.Package(s.name)
	for _, p := range rig.Processes(o.Props["Processes"]) {
		p.Terminate()
	}
	if _, err := s.late.Wait(s.Context(), limit); err != nil {
		s.Fatalf("%v", err)
	}
}
