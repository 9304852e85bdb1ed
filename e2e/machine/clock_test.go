package machine_test

import (
	"strings"
)

// clockJumps sets the clock forward over the end of a hold, and over a deadline.
func clockJumps(s *scene) {
	s.Skip("nothing hears of the clock being set yet")
	s.sh("lull hold --until=+1d %s", well)
	s.publish(well)
	if said := s.sh("lull refresh --no-wait %s", well); !strings.Contains(said, well+" waits") {
		s.Fatalf("it does not wait: %s", said)
	}
	end := s.follow("lull", "refresh", "--wait", well)
	s.sh("date -s '+2 days'")
	s.until("the hold is over", end, s.refreshed(well))
}
