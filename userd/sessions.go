package userd

import (
	"sync"

	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/userd/session"
)

// reporter joins the state of the user's sessions for the agent: one part
// comes from logind, the other from the notification server. It may be used
// from several goroutines.
type reporter struct {
	tell func([]bus.HelperSession)

	mu       sync.Mutex // guards what follows; reporting under it keeps the order
	sessions []session.Session
	quiet    bool // do not disturb
}

func (r *reporter) stand(list []session.Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sessions = list
	r.reportLocked()
}

func (r *reporter) disturb(no bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.quiet = no
	r.reportLocked()
}

func (r *reporter) reportLocked() {
	list := make([]bus.HelperSession, len(r.sessions))
	for i, s := range r.sessions {
		list[i] = bus.HelperSession{ID: s.ID, Active: s.Active, Locked: s.Locked, Idle: s.Idle, DoNotDisturb: r.quiet, LoggingOut: s.LoggingOut}
	}
	r.tell(list)
}
