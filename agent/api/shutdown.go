package api

import (
	"slices"
	"time"

	"github.com/lull/lull/agent/refresh/plan"
	bus "github.com/lull/lull/dbus"
)

// warning is the last notification of helpers about a shutdown. It belongs to
// the service's goroutine.
type warning struct {
	refreshes []string // that it waits for; none if there was no notification
}

// warn notifies all helpers when the machine shuts down (down has changed) during
// critical sections, once, and when the last of these has ended. Sections that begin
// after that are short: see refresh.Engine.Shutdown.
func (s *Service) warn(down *bool) {
	w := &s.warning
	if down == nil && len(w.refreshes) == 0 {
		return
	}
	var running, names []string
	var left time.Duration
	for _, r := range s.m.Engine().All() {
		if r.State() != plan.Critical && (r.State() != plan.Undoing || r.EnteredAt.IsZero()) {
			continue
		}
		running = append(running, r.ID)
		names = append(names, s.m.Reports().Describe(r).Launch.Shown())
		left = max(left, r.Estimate-time.Since(r.EnteredAt), time.Second)
	}
	over := func(id string) bool { return !slices.Contains(running, id) }
	switch {
	case down != nil && *down && len(w.refreshes) == 0 && len(running) > 0:
		w.refreshes = running
		slices.Sort(names)
		s.helpers.all(s, bus.HelperShuttingDown{Names: names, Left: uint64(left.Microseconds())})
	case down != nil && !*down, !slices.ContainsFunc(w.refreshes, func(id string) bool { return !over(id) }):
		if len(w.refreshes) > 0 {
			w.refreshes = nil
			s.helpers.all(s, bus.HelperShuttingDown{Names: []string{}})
		}
	}
}

// all notifies every helper.
func (h *helpers) all(s *Service, sig bus.Signal) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, x := range h.list {
		x.send(s, sig)
	}
}
