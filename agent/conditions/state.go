package conditions

import (
	"cmp"
	"slices"
	"time"

	"github.com/lull/lull/agent/lib/printable"
	"github.com/lull/lull/agent/lib/wallclock"
	"github.com/lull/lull/policy"
)

// Power is what the machine runs on.
type Power string

// Network is what it costs to transfer something.
type Network string

// Use is whether a user works at the machine.
type Use string

// The states. Unknown is common to all.
const (
	Unknown = "unknown"

	OnMains   Power = "mains"
	OnBattery Power = "battery"

	Unmetered Network = "unmetered"
	Metered   Network = "metered"

	IdleNow Use = "idle"
	InUse   Use = "in-use"
)

// Session is one of a user.
type Session struct {
	ID           string `json:"id"` // of logind
	UID          uint32 `json:"uid"`
	User         string `json:"user"`
	Active       bool   `json:"active"` // in the foreground, or remote
	Locked       bool   `json:"locked"`
	Idle         bool   `json:"idle"`
	DoNotDisturb bool   `json:"do-not-disturb"`
	LoggingOut   bool   `json:"logging-out"`
	// IdleAt is when a session on a terminal may be idle at the earliest:
	// logind checks the terminal only when it is asked, and sends no signal.
	// Zero means that there is a signal.
	IdleAt time.Time `json:"-"`
}

// InUse reports whether a user works in it.
func (s Session) InUse() bool {
	return s.Active && !s.Locked && !s.LoggingOut && (!s.Idle || s.DoNotDisturb)
}

// State is the whole state at one moment.
type State struct {
	Power    Power     `json:"power"`
	Network  Network   `json:"network"`
	Logind   bool      `json:"logind"` // the sessions are logind's; else they are those that helpers have reported
	Sessions []Session `json:"sessions,omitempty"`
}

// Use reports whether a user works at the machine.
func (s State) Use() Use {
	switch {
	case slices.ContainsFunc(s.Sessions, Session.InUse):
		return InUse
	case s.Logind || len(s.Sessions) > 0:
		return IdleNow
	}
	return Unknown
}

// idleAt is when the machine may be idle at the earliest without a signal;
// zero if there will be a signal.
func (s State) idleAt() (at time.Time) {
	for _, x := range s.Sessions {
		if !x.InUse() {
			continue
		}
		if x.IdleAt.IsZero() {
			return time.Time{}
		}
		if x.IdleAt.After(at) {
			at = x.IdleAt
		}
	}
	return at
}

// Unmet is a condition that is not fulfilled.
type Unmet struct {
	Condition policy.Condition `json:"condition"`
	Seen      string           `json:"seen"` // what is so instead, in words
}

// Unmet returns those of the conditions that are not fulfilled, and when that
// may change without a signal; zero means that changes are signalled. With all
// fulfilled, that is when the first of them ends by the clock.
func (s State) Unmet(required policy.Conditions, windows policy.Windows, now time.Time) (list []Unmet, again time.Time) {
	first := func(at time.Time) {
		if at.After(now) && (again.IsZero() || at.Before(again)) {
			again = at
		}
	}
	for _, c := range required {
		switch c {
		case policy.Mains:
			if s.Power == OnBattery {
				list = append(list, Unmet{c, "it runs on battery"})
			}
		case policy.Unmetered:
			if s.Network == Metered {
				list = append(list, Unmet{c, "the connection is metered"})
			}
		case policy.Idle:
			if s.Use() == InUse {
				list = append(list, Unmet{c, s.users() + " at work"})
				first(s.idleAt())
			}
		case policy.InWindow:
			open, change := windows.At(now)
			if !open {
				seen := "none opens"
				if !change.IsZero() {
					seen = "the next one opens " + change.Format(wallclock.Layout)
				}
				list = append(list, Unmet{c, seen})
			}
			first(change)
		}
	}
	return list, again
}

// users names those who work at the machine, as in "ann and bob are".
func (s State) users() string {
	var names []string
	for _, x := range s.Sessions {
		if x.InUse() && !slices.Contains(names, x.User) {
			names = append(names, x.User)
		}
	}
	slices.Sort(names)
	if len(names) == 1 {
		return names[0] + " is"
	}
	return printable.List(names, "and") + " are"
}

// Report is the state of a session that a user's helper reports.
type Report struct {
	ID           string
	Active       bool
	Locked       bool
	Idle         bool
	DoNotDisturb bool
	LoggingOut   bool
}

// helper is who has reported, and what.
type helper struct {
	uid      uint32
	user     string
	sessions []Report
}

// merged adds the helpers' reports to logind's state. A helper's report of
// another user's session is ignored.
func merged(logind bool, sessions []Session, helpers map[string]helper) []Session {
	list := slices.Clone(sessions)
	for _, h := range helpers {
		for _, r := range h.sessions {
			i := slices.IndexFunc(list, func(s Session) bool { return s.ID == r.ID && s.UID == h.uid })
			if i < 0 {
				if logind {
					continue
				}
				list = append(list, Session{ID: r.ID, UID: h.uid, User: h.user, Active: r.Active})
				i = len(list) - 1
			}
			s := &list[i]
			s.Active = s.Active || !logind && r.Active
			s.Locked = s.Locked || r.Locked
			s.Idle = s.Idle || r.Idle
			s.DoNotDisturb = s.DoNotDisturb || r.DoNotDisturb
			s.LoggingOut = s.LoggingOut || r.LoggingOut
		}
	}
	slices.SortFunc(list, func(a, b Session) int { return cmp.Or(cmp.Compare(a.UID, b.UID), cmp.Compare(a.ID, b.ID)) })
	return list
}
