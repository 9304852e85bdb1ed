package api

import (
	"maps"
	"reflect"
	"slices"
	"sync"

	"github.com/lull/lull/agent/lib/accounts"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/reports"
	bus "github.com/lull/lull/dbus"
)

// helper is a lull-userd that has registered.
type helper struct {
	name string // unique name on the bus
	uid  uint32
	of   uint32 // the user whose bounds it counts for
	stop func()

	// The last reports. The service's goroutine owns them.
	told      map[string]bus.PendingRefresh // by refresh
	failing   []bus.FailureOf
	downloads []bus.LargeDownload

	ready chan struct{} // closed when it is watched, or cannot be
	err   error         // why it cannot; is read after ready
}

// maxHelpers is how many one user may have. One is needed; a user's systemd and
// each of some sessions may have started one.
const maxHelpers = 16

// helpers are all of them.
type helpers struct {
	mu   sync.Mutex // guards what follows
	list map[string]*helper
}

// pendingRefresh is a Pending on the bus.
func pendingRefresh(p reports.Pending) bus.PendingRefresh {
	var reminders []uint64
	for _, t := range p.Reminders {
		reminders = append(reminders, micro(t))
	}
	v := bus.PendingRefresh{
		Reminders: reminders,
		ID:        p.ID, Refresh: bus.RefreshPath(p.ID), Instance: p.Instance, Name: p.Launch.Shown(),
		FromVersion: p.FromVersion, ToVersion: p.ToVersion, FromRevision: p.From, ToRevision: p.To,
		Urgency: p.Urgency, Notes: p.Launch.Notes, Since: micro(p.Since), Deadline: micro(p.Deadline),
		DBusName: p.DBusName, Hook: p.OldHook, QuitHook: p.QuitHook, PendingHook: p.PendingHook, BackgroundApps: p.BackgroundApps, RestartBackground: p.RestartBackground,
		AtDeadline: string(p.AtDeadline), DesktopEntry: p.Desktop, Icon: p.Icon, Processes: processes(p.WaitingFor),
	}
	v.Conditions = unmet(p.Unmet)
	if v.DownloadBegins = micro(p.DownloadBegins()); v.DownloadBegins != 0 {
		v.DownloadSize = uint64(p.Large)
	}
	if p.Hold != nil {
		v.HeldUntil, v.HeldBy, v.HeldReason = micro(p.Hold.Until), p.Hold.Owner, p.Hold.Reason
	}
	return v
}

// add registers a helper until it leaves the bus, and sends it the waiting
// refreshes. A repeated registration repeats the report; the helper is watched
// once.
func (h *helpers) add(s *Service, name string, uid uint32) error {
	of := accounts.Of(uid)
	h.mu.Lock()
	x := h.list[name]
	again := x != nil
	if !again {
		have := 0
		for _, other := range h.list {
			if other.of == of {
				have++
			}
		}
		if have >= maxHelpers {
			h.mu.Unlock()
			return errkind.New(errkind.LimitsExceeded, "cannot register a helper: user %s has %d already", accounts.Name(of), have)
		}
		x = &helper{name: name, uid: uid, of: of, ready: make(chan struct{})}
		h.list[name] = x
	}
	h.mu.Unlock()
	first := s.sessions.join(name, uid)
	if !again {
		x.err = h.watch(s, x)
		close(x.ready)
	}
	<-x.ready
	if x.err != nil {
		return x.err
	}
	s.queue.put(func() { s.queue.helpers = append(s.queue.helpers, x) })
	if !again {
		s.log.Info("a helper has registered", "name", name, "uid", uid)
	}
	if first {
		s.sessions.begin(name, uid)
	}
	return nil
}

// watch has the helper forgotten when it leaves the bus.
func (h *helpers) watch(s *Service, x *helper) error {
	left := func() {
		h.remove(x.name, x)
		s.m.ForgetSessions(x.name)
		s.sessions.leave(x.name, x.uid)
	}
	stop, err := s.names.Watch(s.ctx, x.name, func(owner string) {
		if owner == "" {
			s.wg.Go(left) // a watch cannot end itself
		}
	})
	if err != nil {
		left()
		return err
	}
	h.mu.Lock()
	x.stop = stop
	gone := h.list[x.name] != x
	h.mu.Unlock()
	if gone {
		stop()
	}
	return nil
}

func (h *helpers) remove(name string, x *helper) {
	h.mu.Lock()
	if h.list[name] == x {
		delete(h.list, name)
	}
	stop := x.stop
	h.mu.Unlock()
	if stop != nil {
		stop()
	}
}

// greet sends a helper the whole state. The service's goroutine calls it.
func (x *helper) greet(s *Service) {
	x.told = map[string]bus.PendingRefresh{}
	for _, r := range s.m.Engine().All() {
		if r.End == "" {
			x.tell(s, r)
		}
	}
}

// tell notifies each helper of a change of a refresh. The service's goroutine
// calls it; no lock is held while the manager reads the state.
func (h *helpers) tell(s *Service, r plan.Refresh) {
	h.mu.Lock()
	list := slices.Collect(maps.Values(h.list))
	h.mu.Unlock()
	for _, x := range list {
		if x.told != nil { // else it is greeted soon
			x.tell(s, r)
		}
	}
}

// tell notifies a helper of the meaning of a change for its user: a notice
// becomes true, changes, stops being true, or is followed by "was updated".
func (x *helper) tell(s *Service, r plan.Refresh) {
	told, was := x.told[r.ID]
	var mine bool
	switch st := r.State(); {
	case st == plan.Waiting:
		own := r
		// The user cannot close a backup or an indexer.
		own.WaitingFor = slices.DeleteFunc(slices.Clone(r.WaitingFor), func(p procs) bool { return p.UID != x.uid || slices.Contains(r.Readers, p) })
		if mine = len(own.WaitingFor) > 0; mine {
			now := pendingRefresh(s.m.Reports().Describe(own))
			if !was || !reflect.DeepEqual(now, told) {
				x.told[r.ID] = now
				x.send(s, bus.HelperPending{Refresh: now})
				s.wg.Go(func() { s.m.Engine().NoteNotified(r.ID, x.uid) })
			}
		} else if was {
			x.withdraw(s, r.ID, waitReason(r))
		}
	case st == plan.Done && r.Kind == plan.Update && (was || slices.Contains(r.Notified, x.uid)):
		d := s.m.Reports().Describe(r)
		delete(x.told, r.ID)
		x.send(s, bus.HelperUpdated{Refresh: bus.UpdatedRefresh{ID: r.ID, Instance: r.Instance, Name: d.Launch.Shown(),
			FromVersion: r.FromVersion, ToVersion: r.ToVersion, DesktopEntry: d.Desktop, Icon: d.Icon}})
	case st.Final() && was:
		x.withdraw(s, r.ID, map[plan.State]string{plan.Cancelled: "cancelled", plan.Done: "updated"}[st])
	}
}

// waitReason returns why a user is no longer waited for.
func waitReason(r plan.Refresh) string {
	if r.Held {
		return "held"
	}
	return "exited"
}

func (x *helper) withdraw(s *Service, id, reason string) {
	if reason == "" {
		reason = "failed"
	}
	delete(x.told, id)
	x.send(s, bus.HelperWithdrawn{ID: id, Reason: reason})
}

func (x *helper) send(s *Service, sig bus.Signal) {
	if err := s.server.SendTo(x.name, bus.AgentPath, sig); err != nil {
		s.log.Warn("cannot notify a helper", "name", x.name, "error", err)
	}
}
