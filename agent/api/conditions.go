package api

import (
	"github.com/lull/lull/agent/conditions"
	"github.com/lull/lull/agent/lib/accounts"
	bus "github.com/lull/lull/dbus"
)

// updateConditions shows what is known of the machine.
func (s *Service) updateConditions() {
	st := s.m.Conditions()
	s.manager.Update(func(p *bus.ManagerProperties) {
		p.Power, p.Network, p.Use, p.Sessions = string(st.Power), string(st.Network), string(st.Use()), nil
		for _, x := range st.Sessions {
			p.Sessions = append(p.Sessions, bus.UserSession{ID: x.ID, UID: x.UID, State: sessionWords(x)})
		}
	})
}

func sessionWords(x conditions.Session) []string {
	words := []string{}
	for _, w := range []struct {
		so   bool
		word string
	}{{x.Active, "active"}, {x.Locked, "locked"}, {x.Idle, "idle"}, {x.DoNotDisturb, "do-not-disturb"}, {x.LoggingOut, "logging-out"}} {
		if w.so {
			words = append(words, w.word)
		}
	}
	return words
}

func unmet(list []conditions.Unmet) map[string]string {
	m := map[string]string{}
	for _, u := range list {
		m[string(u.Condition)] = u.Seen
	}
	return m
}

// reported handles a helper's report of its user's sessions.
func (s *Service) reported(name string, uid uint32, list []bus.HelperSession) {
	reports := make([]conditions.Report, len(list))
	for i, x := range list {
		reports[i] = conditions.Report{ID: x.ID, Active: x.Active, Locked: x.Locked, Idle: x.Idle, DoNotDisturb: x.DoNotDisturb, LoggingOut: x.LoggingOut}
	}
	s.m.ReportSessions(name, uid, accounts.Name(uid), reports)
	if !s.helpers.has(name) { // it has left meanwhile
		s.m.ForgetSessions(name)
	}
}

func (h *helpers) has(name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.list[name] != nil
}
