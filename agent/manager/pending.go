package manager

import (
	"slices"
	"strconv"
	"time"

	"github.com/lull/lull/agent/exports"
	"github.com/lull/lull/agent/meta"
	"github.com/lull/lull/agent/problem"
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
	DBusName   string      // of the application that runs
	Hook       bool        // it has a refresh-pending hook
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
	if l := m.launchOf(r.Instance, r.From); l != nil {
		_, p.Hook = l.Hooks[meta.HookRefreshPending]
		for _, a := range l.Apps {
			if a.DBusName != "" {
				p.DBusName = a.DBusName
				break
			}
		}
	}
	if l, err := m.store.Launch(r.Package); err == nil {
		p.Launch = l
		p.Icon = m.exports.IconPath(r.Instance, l)
		p.Desktop = m.DesktopEntry(r.Instance, l)
	}
	return p
}

// launchOf reads what a revision's package says of itself; nil where that is unknown.
func (m *Manager) launchOf(instance string, rev uint32) *meta.Launch {
	pkg, err := m.links.Package(instance, rev)
	if err != nil {
		return nil
	}
	l, err := m.store.Launch(pkg)
	if err != nil {
		return nil
	}
	return l
}

// DesktopEntry is the exported desktop entry of an instance, without .desktop, or empty.
func (m *Manager) DesktopEntry(instance string, l *meta.Launch) string {
	for _, a := range l.Apps {
		if a.Desktop != "" {
			return exports.Wrapper(instance, l, a.Name)
		}
	}
	return ""
}

// Self says of which run a process is: the instance, and the hash of the package that
// it runs, which may be unknown. The kernel is asked, not the process.
func (m *Manager) Self(pid int) (instance, pkg string, err error) {
	list, err := m.Tracker.Runs()
	if err != nil {
		return "", "", err
	}
	for _, r := range list {
		if !slices.ContainsFunc(r.Processes, func(p runs.Process) bool { return p.PID == pid }) {
			continue
		}
		if _, _, err := m.links.Read(r.Instance); err != nil {
			continue // another agent's
		}
		if hash, ok := m.store.Find(r.PackagePrefix); ok {
			pkg = hash.String()
		}
		return r.Instance, pkg, nil
	}
	return "", "", problem.New(problem.NotFound, "cannot tell which application asks: process %d is in no run of one", pid).
		WithHint("this works inside an application that lull run has started")
}

// Offer is the package that a launch of the instance gets now, and the refresh that is
// prepared for it, if there is one.
func (m *Manager) Offer(instance string) (local string, next *refresh.Refresh, err error) {
	_, pkg, err := m.links.Read(instance)
	if err != nil {
		return "", nil, err
	}
	if r, ok := m.engine.Of(instance); ok && r.Kind == refresh.Update && r.State() == refresh.Waiting {
		next = &r
	}
	return pkg.String(), next, nil
}

// revisionName is how a holder in the installed index is called.
func revisionName(instance string, n uint32) string {
	return instance + " revision " + strconv.FormatUint(uint64(n), 10)
}
