package policy

import "time"

// UserHoldEnd returns until when the hold of a user who is no administrator can
// keep one revision off: at the latest UserHold after the revision was ready,
// according to since, and never past the deadline. Zero means not at all. Zero
// for since means that no revision is ready yet; then now counts.
func (s Settings) UserHoldEnd(until, since, now time.Time, urgency string) time.Time {
	if s.UserHold <= 0 || urgency == UrgencySecurity && !s.UserHoldSecurity {
		return time.Time{}
	}
	if since.IsZero() {
		since = now
	}
	latest := since.Add(min(s.UserHold, max(s.MaxPostponement, 0)))
	if until.After(latest) {
		return latest
	}
	return until
}

// UrgencySecurity is the urgency of an update that closes a hole.
const UrgencySecurity = "security"
