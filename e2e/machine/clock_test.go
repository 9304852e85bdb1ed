package machine_test

import "strings"

// clockJumps sets the clock forward: over the deadline of a refresh that then goes on
// beneath the application, and over the end of a hold. Afterwards it is right again.
func clockJumps(s *scene) {
	s.Skip("nothing hears yet of the clock being set")
	s.open(well)
	s.prepare(well)
	end := s.follow("lull", "refresh", "--wait", well)
	s.sh("date --set='+15 days'")
	s.until("the deadline is over", end, s.refreshed(well))
	s.shut(well)

	s.sh("lull hold %s 1d", plain)
	s.publish(plain)
	if said := s.sh("lull refresh --no-wait %s", plain); !strings.Contains(said, plain+" waits") {
		s.Fatalf("it does not wait: %s", said)
	}
	end = s.follow("lull", "refresh", "--wait", plain)
	s.sh("date --set='+2 days'")
	s.until("the hold is over", end, s.refreshed(plain))
	s.sh("date --set='-17 days'")
}
