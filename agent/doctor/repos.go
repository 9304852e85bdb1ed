package doctor

import (
	"fmt"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/lull/lull/agent/lib/wallclock"
)

// longReading is how long the reading of a repository may take before the doctor warns.
const longReading = time.Minute

// checkRepositories checks the repositories as a whole, and adds a line for each one with a
// problem.
func (d *Doctor) checkRepositories(add func(name, state, seen, advice string)) {
	s := d.Repositories.State()
	switch {
	case s.Unlisted != nil:
		add("repositories", Fail, s.Unlisted.Error(), "see that "+d.Files.Repositories+" can be read; lull policy reload reads it again")
	case s.CheckError != "":
		add("repositories", Fail, s.CheckError, "lull refresh looks again; updates do not arrive until this works")
	case len(s.All) == 0:
		add("repositories", Warn, "none", "lull repo add NAME ADDRESS adds one")
	case s.LastCheck.IsZero():
		add("repositories", OK, fmt.Sprintf("%d, not looked into yet", len(s.Addresses)), "")
	case time.Since(s.LastCheck) > staleCheck:
		add("repositories", Warn, "last read "+humanize.Time(s.LastCheck), "lull refresh looks now; schedule.check in the policy says how often")
	default:
		add("repositories", OK, fmt.Sprintf("%d, last read %s", len(s.Addresses), humanize.Time(s.LastCheck)), "")
	}
	for _, h := range s.All {
		name := "repository " + h.Name
		switch {
		case h.LeftOut:
			add(name, Fail, "left out: "+h.Error, "mend the file; lull policy reload reads it again")
		case !h.Checking.IsZero() && time.Since(h.Checking) > longReading:
			add(name, Warn, "being read since "+h.Checking.Local().Format(wallclock.Layout), "its server is slow; others are not held up by it")
		case h.Error != "":
			seen := h.Error
			if h.Read.IsZero() {
				seen += "; not read since the agent started"
			} else {
				seen += "; last read " + humanize.Time(h.Read)
			}
			add(name, Fail, seen, "lull refresh looks again; updates from it do not arrive until this works")
		}
		if h.Exposed {
			add(name, Warn, "every user can read its password", "chmod 600 the file in "+d.Files.Repositories+", or put the password into a file that credentials: names")
		}
	}
}
