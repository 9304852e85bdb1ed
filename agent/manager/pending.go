package manager

import (
	"strconv"
	"time"

	"github.com/lull/lull/agent/exports"
	"github.com/lull/lull/agent/meta"
	"github.com/lull/lull/agent/refresh"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/policy"
)

// Pending is a refresh that waits for running applications, as people are told of it.
type Pending struct {
	refresh.Refresh
	Launch     *meta.Launch // of the new revision
	Icon       string
	Desktop    string // desktop entry, without .desktop
	AtDeadline policy.Deadline
	Reminders  []time.Time // when to bring it to mind again, the deadline last
	Hold       *state.Hold // that which lasts longest
}

// Pending lists the refreshes that wait for processes, for a condition or for the end
// of a hold. With all unset, of the first only those of the user uid, and of these only
// that user's processes; the others are for everybody to know.
func (m *Manager) Pending(uid uint32, all bool) (list []Pending) {
	for _, r := range m.engine.All() {
		if r.State() != refresh.Waiting || len(r.WaitingFor) == 0 && !waitsOtherwise(r) {
			continue
		}
		if !all {
			r.WaitingFor = ofUser(r.WaitingFor, uid)
		}
		if len(r.WaitingFor) > 0 || waitsOtherwise(r) {
			list = append(list, m.Describe(r))
		}
	}
	return list
}

// waitsOtherwise says whether a refresh waits for something that is no process.
func waitsOtherwise(r refresh.Refresh) bool { return r.Held || len(r.Unmet) > 0 }

func ofUser(procs []runs.Process, uid uint32) (list []runs.Process) {
	for _, p := range procs {
		if p.UID == uid {
			list = append(list, p)
		}
	}
	return list
}

// Describe adds what people want to see to a refresh.
func (m *Manager) Describe(r refresh.Refresh) Pending {
	p := Pending{Refresh: r, Launch: &meta.Launch{Name: r.Instance, Version: r.ToVersion}, AtDeadline: m.Policy().For(r.Instance).AtDeadline}
	if !r.Since.IsZero() {
		pol := m.Policy()
		window := policy.Postponement{Since: r.Since, Max: pol.For(r.Instance).MaxPostponement}
		p.Reminders = append(window.Reminders(pol.Schedule.Reminders), window.Deadline())
	}
	if r.Held {
		if holds, err := m.engine.Holds(r.Instance); err != nil {
			m.Log.Warn("cannot tell who holds a refresh", "instance", r.Instance, "error", err)
		} else if len(holds) > 0 {
			p.Hold = &holds[0]
		}
	}
	if l, err := m.store.Launch(r.Package); err == nil {
		p.Launch = l
		p.Icon = m.exports.IconPath(r.Instance, l)
		for _, a := range l.Apps {
			if a.Desktop != "" {
				p.Desktop = exports.Wrapper(r.Instance, l, a.Name)
				break
			}
		}
	}
	return p
}

// revisionName is how a holder in the installed index is called.
func revisionName(instance string, n uint32) string {
	return instance + " revision " + strconv.FormatUint(uint64(n), 10)
}
