package machine_test

import (
	"strings"

	"github.com/lull/lull/e2e/rig"
)

// asleep is the application of these parts.
const asleep = "org.lull.asleep"

// suspended has root suspend the machine by logind in the middle of a critical section, while
// a launch waits. The section delays it for logind's time, and afterwards ends as it would have.
func suspended(s *scene) {
	s.gate(asleep, atStop)
	r := s.refresh(asleep)
	s.until("it is in its critical section", r, stopping)
	launch := s.follow(rig.LoginArgv(nil, "lull", "run", asleep)...)
	s.sh("timeout %.0f sh -c 'until pgrep lull-run; do sleep 0.2; done'", limit.Seconds())
	if l := s.locks(); !strings.Contains(l, "shutdown:sleep") {
		s.Errorf("the section holds these locks: got %q, want %q", l, "shutdown:sleep")
	}
	sleeps := s.inhibitors()
	suspend := s.follow("env", "SYSTEMD_BUS_TIMEOUT=5min", "systemctl", "suspend", "--ignore-inhibitors")
	must(s.T, s.vm.Suspended(limit))
	s.vm.WakeUp()
	if r, err := suspend.Wait(s.T.Context(), limit); err != nil || r.Code != 0 {
		s.Errorf("systemctl suspend: %v, %v; want no error and exit status 0", r, err)
	}
	s.until("logind has announced the sleep and its end", sleeps, "PrepareForSleep (true,)", "PrepareForSleep (false,)")
	if l := s.locks(); !strings.Contains(l, "Refreshing "+asleep) {
		s.Errorf("after the sleep there are these locks: got %q, want %q", l, "Refreshing "+asleep)
	}
	s.release(asleep, atStop)
	s.until("it is refreshed", r, s.refreshed(asleep))
	s.until("it is launched", launch, "is running as process")
	s.whole(asleep, false)
	s.shut(asleep)
}

// clockInSection sets the clock a year forward, and back again, in the middle of a critical
// section. It ends as it would have, and its duration is counted in the time that passed.
func clockInSection(s *scene) {
	s.gate(asleep, atStop)
	s.gate(asleep, atHealth)
	r := s.refresh(asleep)
	s.until("it is in its critical section", r, stopping)
	s.sh("date --set='+1 year'")
	s.release(asleep, atStop)
	s.until("it is checked", r, checking)
	s.sh("date --set='-1 year'")
	s.release(asleep, atHealth)
	s.until("it is refreshed", r, s.refreshed(asleep))
	s.whole(asleep, false)
	done := s.sh("journalctl -b -u lulld -o cat --no-pager | grep 'refresh of %s: done' | tail -n 1", asleep)
	_, blocked, ok := strings.Cut(done, "blocked=")
	if !ok || strings.HasSuffix(blocked, " h") || strings.HasSuffix(blocked, " d") || strings.Contains(blocked, " d ") {
		s.Errorf("the section is said to have blocked launches for %q: %s", blocked, done)
	}
}
