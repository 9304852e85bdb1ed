package doctor

import (
	"time"

	"github.com/dustin/go-humanize"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/wallclock"
)

// longReading is how long the reading of a repository may take before the doctor warns.
const longReading = time.Minute

// checkRepositories checks the repositories as a whole, and adds a line for each one with a
// problem.
func (d *Doctor) checkRepositories(add func(name, state, seen, advice string)) {
	s := d.Repositories.State()
	var oldest time.Time // when the last of them was read, if all were
	for i, h := range s.All {
		if i == 0 || h.Read.Before(oldest) {
			oldest = h.Read
		}
	}
	switch {
	case s.Unlisted != nil:
		add("repositories", Fail, s.Unlisted.Error(), errkind.Text("see that %s can be read; lull policy reload reads it again", d.Files.Repositories))
	case s.CheckError != "":
		add("repositories", Fail, s.CheckError, errkind.Text("lull refresh retries; updates do not arrive until this works"))
	case len(s.All) == 0:
		add("repositories", Warn, errkind.Text("none"), errkind.Text("lull repo add NAME ADDRESS adds one"))
	case s.LastCheck.IsZero() && !oldest.IsZero():
		add("repositories", OK, errkind.Text("%d, last read %s", len(s.Addresses), oldest.Local().Format(wallclock.Layout)), "")
	case s.LastCheck.IsZero():
		add("repositories", OK, errkind.Text("%d, not looked into yet", len(s.Addresses)), "")
	case time.Since(s.LastCheck) > staleCheck:
		add("repositories", Warn, errkind.Text("last read %s", s.LastCheck.Local().Format(wallclock.Layout)), errkind.Text("lull refresh looks now; schedule.check in the policy says how often"))
	default:
		add("repositories", OK, errkind.Text("%d, last read %s", len(s.Addresses), s.LastCheck.Local().Format(wallclock.Layout)), "")
	}
	for _, h := range s.All {
		name := "repository " + h.Name
		switch {
		case h.LeftOut:
			add(name, Fail, errkind.Text("left out: %s", h.Error), errkind.Text("mend the file; lull policy reload reads it again"))
		case !h.Checking.IsZero() && time.Since(h.Checking) > longReading:
			add(name, Warn, errkind.Text("being read since %s", h.Checking.Local().Format(wallclock.Layout)), errkind.Text("its server is slow; others are not held up by it"))
		case h.Error != "":
			seen := h.Error
			if h.Read.IsZero() {
				seen += "; never read"
			} else {
				seen += "; last read " + humanize.Time(h.Read)
			}
			add(name, Fail, seen, errkind.Text("lull refresh retries; updates from it do not arrive until this works"))
		}
		if h.Exposed {
			add(name, Warn, errkind.Text("every user can read its password"), errkind.Text("chmod 600 the file in %s, or put the password into a file that credentials: names", d.Files.Repositories))
		}
	}
}
