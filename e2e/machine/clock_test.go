package machine_test

import (
	"strings"

	"github.com/lull/lull/e2e/rig"
)

// clockJumps sets the clock forward: over the deadline of a refresh that then goes on
// while the application runs, and over the end of a hold; then back, and to 1970.
// Afterwards it is right.
func clockJumps(s *scene) {
	s.open(well)
	s.prepare(well)
	end := s.follow("lull", "refresh", "--wait", well)
	s.sh("date --set='+15 days'")
	s.over("the deadline is over", end, well)
	s.shut(well)

	s.sh("lull hold --for 1d %s", plain)
	s.publish(plain)
	if said := s.sh("lull refresh --no-wait %s", plain); !strings.Contains(said, plain+" waits") {
		s.Fatalf("it does not wait: %s", said)
	}
	end = s.follow("lull", "refresh", "--wait", plain)
	s.sh("date --set='+2 days'")
	s.over("the hold is over", end, plain)
	s.sh("date --set='-17 days'")

	// A machine without a battery begins in 1970: no end can be reckoned then.
	now := strings.TrimSpace(s.sh("date +%%s"))
	s.sh("date --set='1970-01-02 00:00'")
	said := s.sh("lull hold --for 1d %s 2>&1 || true; lull doctor 2>&1 || true", plain)
	s.sh("date --set=@%s", now)
	for _, want := range []string{"cannot hold " + plain + ": the clock of this machine says 1970-01-02", "it says 1970-01-02"} {
		if !strings.Contains(said, want) {
			s.Errorf("in 1970 nobody says %q:\n%s", want, said)
		}
	}
}

// over waits until a refresh that the clock has released is done. The command
// that follows it may have come after that.
func (s *scene) over(what string, end *rig.Command, name string) {
	s.Helper()
	s.untilSaid(what, end, func(said string) bool {
		return strings.Contains(said, s.refreshed(name)) || strings.Contains(said, "everything is up to date")
	})
	if got, want := s.installed(name).Version, versions[s.version[name]]; got != want {
		s.Errorf("%s has version %s, want %s", name, got, want)
	}
}
