package api

import (
	"cmp"
	"maps"
	"slices"

	"github.com/lull/lull/agent/conditions"
	"github.com/lull/lull/agent/failures"
	"github.com/lull/lull/agent/lib/errkind"
	bus "github.com/lull/lull/dbus"
)

// sendFailures sends each helper the failures that its user is notified of. One that no user
// was notified of goes to one user in the foreground. The service's goroutine calls it.
func (h *helpers) sendFailures(s *Service) {
	list := h.sorted()
	due, sessions := s.m.Failing(), s.m.Conditions().Sessions
	for _, x := range list {
		if x.told == nil {
			continue // it is greeted soon
		}
		now := []bus.FailureOf{}
		var first []failures.Failure
		for i := range due {
			f := &due[i]
			switch {
			case f.Notified == nil && inFront(sessions, x.uid):
				first = append(first, *f)
				now = append(now, s.failureOf(*f))
				f.Notified = &x.uid // and no other
			case f.Notified != nil && *f.Notified == x.uid:
				now = append(now, s.failureOf(*f))
			}
		}
		same := func(a, b bus.FailureOf) bool { a.Notified = b.Notified; return a == b }
		if slices.EqualFunc(now, x.failing, same) {
			continue
		}
		x.failing = now
		x.send(s, bus.HelperFailing{Failures: now})
		for _, f := range first {
			s.m.NoteNotified(f, x.uid)
		}
	}
}

// sorted returns all helpers, by their users.
func (h *helpers) sorted() []*helper {
	h.mu.Lock()
	list := slices.Collect(maps.Values(h.list))
	h.mu.Unlock()
	slices.SortFunc(list, func(a, b *helper) int { return cmp.Or(cmp.Compare(a.uid, b.uid), cmp.Compare(a.name, b.name)) })
	return list
}

// inFront reports whether a user can see a notice. Where no session is known, as without
// logind, every user with a helper can.
func inFront(sessions []conditions.Session, uid uint32) bool {
	return len(sessions) == 0 || slices.ContainsFunc(sessions, func(x conditions.Session) bool { return x.UID == uid && x.Active && !x.LoggingOut })
}

func (s *Service) failureOf(f failures.Failure) bus.FailureOf {
	errkind.Remember(f.Made) // the helper asks how the text was made
	v := bus.FailureOf{Kind: string(f.Kind), Name: f.Name, Title: f.Name, Since: micro(f.Since), Error: errkind.Prefix + string(f.Error), Text: f.Text, Notified: f.Notified != nil}
	if f.Kind == failures.Package {
		if p, err := s.m.Reports().Package(f.Name); err == nil && p.Launch != nil {
			v.Title = p.Launch.Shown()
		}
	}
	return v
}
