package api

import (
	"reflect"
	"slices"
	"sync"

	"github.com/lull/lull/agent/manager"
	"github.com/lull/lull/agent/refresh"
	bus "github.com/lull/lull/dbus"
)

// helper is a lull-userd that has registered.
type helper struct {
	name string // unique name on the bus
	uid  uint32
	told map[string]bus.PendingRefresh // by refresh: what it was told last
	stop func()
}

// helpers are all of them.
type helpers struct {
	mu   sync.Mutex // guards what follows
	list map[string]*helper
}

// pendingRefresh is a Pending on the bus.
func pendingRefresh(p manager.Pending) bus.PendingRefresh {
	var reminders []uint64
	for _, t := range p.Reminders {
		reminders = append(reminders, micro(t))
	}
	v := bus.PendingRefresh{
		Reminders: reminders,
		ID:        p.ID, Refresh: bus.RefreshPath(p.ID), Instance: p.Instance, Name: p.Launch.Shown(),
		FromVersion: p.FromVersion, ToVersion: p.ToVersion, FromRevision: p.From, ToRevision: p.To,
		Urgency: p.Urgency, Notes: p.Launch.Notes, Since: micro(p.Since), Deadline: micro(p.Deadline),
		DBusName: p.DBusName, Hook: p.Hook,
		AtDeadline: string(p.AtDeadline), DesktopEntry: p.Desktop, Icon: p.Icon, Processes: processes(p.WaitingFor),
	}
	v.Conditions = unmet(p.Unmet)
	if p.Hold != nil {
		v.HeldUntil, v.HeldBy, v.HeldReason = micro(p.Hold.Until), p.Hold.Owner, p.Hold.Reason
	}
	return v
}

// add registers a helper until it leaves the bus, and tells it what waits.
func (h *helpers) add(s *Service, name string, uid uint32) error {
	x := &helper{name: name, uid: uid, told: map[string]bus.PendingRefresh{}}
	h.mu.Lock()
	var before func()
	if old := h.list[name]; old != nil {
		before = old.stop
	}
	h.list[name] = x
	h.mu.Unlock()
	if before != nil {
		before()
	}
	first := s.sessions.join(name, uid)
	stop, err := s.names.Watch(s.ctx, name, func(owner string) {
		if owner == "" {
			s.wg.Go(func() { // a watch cannot end itself
				h.remove(name, x)
				s.m.ForgetSessions(name)
				s.sessions.leave(name, uid)
			})
		}
	})
	if err != nil {
		h.remove(name, x)
		s.m.ForgetSessions(name)
		s.sessions.leave(name, uid)
		return err
	}
	h.mu.Lock()
	x.stop = stop
	h.mu.Unlock()
	for _, r := range s.m.Refreshes() {
		if r.End == "" {
			h.tell(s, r)
		}
	}
	s.log.Info("a helper has registered", "name", name, "uid", uid)
	if first {
		s.sessions.begin(name, uid)
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

// tell lets each helper know what a change of a refresh means for its user: a
// notice becomes true, changes, stops being true, or is followed by "was updated".
func (h *helpers) tell(s *Service, r refresh.Refresh) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, x := range h.list {
		told, was := x.told[r.ID]
		var mine bool
		switch st := r.State(); {
		case st == refresh.Waiting:
			own := r
			own.WaitingFor = slices.DeleteFunc(slices.Clone(r.WaitingFor), func(p procs) bool { return p.UID != x.uid })
			if mine = len(own.WaitingFor) > 0; mine {
				now := pendingRefresh(s.m.Describe(own))
				if !was || !reflect.DeepEqual(now, told) {
					x.told[r.ID] = now
					h.send(s, x, bus.HelperPending{Refresh: now})
					s.wg.Go(func() { s.m.Told(r.ID, x.uid) })
				}
			} else if was {
				h.withdraw(s, x, r.ID, waitReason(r))
			}
		case st == refresh.Done && r.Kind == refresh.Update && (was || slices.Contains(r.Told, x.uid)):
			d := s.m.Describe(r)
			delete(x.told, r.ID)
			h.send(s, x, bus.HelperUpdated{Refresh: bus.UpdatedRefresh{ID: r.ID, Instance: r.Instance, Name: d.Launch.Shown(),
				FromVersion: r.FromVersion, ToVersion: r.ToVersion, DesktopEntry: d.Desktop, Icon: d.Icon}})
		case st.Final() && was:
			h.withdraw(s, x, r.ID, map[refresh.State]string{refresh.Cancelled: "cancelled", refresh.Done: "updated"}[st])
		}
	}
}

// waitReason says why a user is no longer waited for.
func waitReason(r refresh.Refresh) string {
	if r.Held {
		return "held"
	}
	return "exited"
}

func (h *helpers) withdraw(s *Service, x *helper, id, reason string) {
	if reason == "" {
		reason = "failed"
	}
	delete(x.told, id)
	h.send(s, x, bus.HelperWithdrawn{ID: id, Reason: reason})
}

func (h *helpers) send(s *Service, x *helper, sig bus.Signal) {
	if err := s.server.SendTo(x.name, bus.AgentPath, sig); err != nil {
		s.log.Warn("cannot tell a helper", "name", x.name, "error", err)
	}
}
