package manager

import (
	"time"

	"github.com/lull/lull/agent/messages"
	"github.com/lull/lull/agent/problem"
	"github.com/lull/lull/agent/refresh"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/policy"
	"github.com/lull/lull/policy/strictyaml"
)

// clockTime is how a moment is written in an error.
const clockTime = "2006-01-02 15:04"

// usualHold is how long a hold lasts when nothing else is said.
const usualHold = 7 * 24 * time.Hour

const maxReason = 200

// UserHoldEnd says until when a user who is no administrator may hold an instance
// from now on, and with an error of kind NotPermitted why he may not, or not
// until then. Until zero is as long as he may.
func (m *Manager) UserHoldEnd(name, owner string, until time.Time) (time.Time, error) {
	if _, err := m.Package(name); err != nil {
		return time.Time{}, err
	}
	r, ok := m.engine.Of(name)
	if !ok || r.Kind != refresh.Update {
		r = refresh.Refresh{}
	}
	now, s := time.Now(), m.Policy().For(name)
	far := until
	if until.IsZero() {
		far = now.Add(usualHold)
	}
	end := s.UserHoldEnd(far, r.Since, now, r.Urgency)
	switch {
	case s.UserHold <= 0:
		return end, problem.New(problem.NotPermitted, "cannot hold %s as user %s: policy lets only administrators hold it", name, owner).
			WithHint("user-hold in the policy says how long users may")
	case end.IsZero():
		return end, problem.New(problem.NotPermitted, "cannot hold %s as user %s: the update to %s is a matter of security, which only administrators may hold", name, owner, r.ToVersion).
			WithHint("user-hold-security in the policy lets users do so")
	case !end.After(now):
		return end, problem.New(problem.NotPermitted, "cannot hold %s any longer as user %s: the update to %s has been ready since %s, and users may hold it for %s",
			name, owner, r.ToVersion, r.Since.Local().Format(clockTime), strictyaml.Duration(min(s.UserHold, s.MaxPostponement))).
			WithHint("an administrator may hold it for longer")
	case end.Before(until):
		return end, problem.New(problem.NotPermitted, "cannot hold %s until %s as user %s: users may hold it until %s", name, until.Local().Format(clockTime), owner, end.Local().Format(clockTime)).
			WithHint("without --for and --until it is held for as long as that; an administrator may hold it for longer")
	}
	return end, nil
}

// Hold postpones the refreshes of an instance until a time, in place of an earlier
// hold of the same owner, and returns its end. What users may is the caller's to
// ask: see UserHoldEnd.
func (m *Manager) Hold(name string, h state.Hold) (time.Time, error) {
	if _, err := m.Package(name); err != nil {
		return h.Until, err
	}
	now := time.Now()
	if h.Until.IsZero() {
		h.Until = now.Add(usualHold)
	}
	switch {
	case policy.ClockAfter().Wrong(now):
		return h.Until, problem.New(problem.Failed, "cannot hold %s: the clock of this machine says %s, so no end can be reckoned", name, now.Local().Format(clockTime)).
			WithHint("set the clock first: timedatectl set-ntp true")
	case !h.Until.After(now):
		return h.Until, problem.New(problem.Invalid, "cannot hold %s until %s: that is over", name, h.Until.Local().Format(time.DateTime))
	case len(h.Reason) > maxReason:
		return h.Until, problem.New(problem.Invalid, "cannot hold %s: the reason is longer than %d bytes", name, maxReason)
	}
	if err := m.mayChange("hold " + name); err != nil {
		return h.Until, err
	}
	h.Instance, h.Since = name, now
	if err := m.state.PutHold(h); err != nil {
		return h.Until, err
	}
	m.Log.Info("held", messages.Key, messages.Held, "instance", name, "user", h.Owner, "uid", h.UID, "administrator", h.Admin, "until", h.Until, "reason", h.Reason)
	m.holdsChanged(name)
	return h.Until, nil
}

// Unhold ends the hold of a user on an instance, or with all those of everybody,
// and returns what is still in force.
func (m *Manager) Unhold(name string, uid uint32, all bool) (left []state.Hold, err error) {
	if err := m.mayChange("end the hold on " + name); err != nil {
		return nil, err
	}
	if all {
		err = m.state.RemoveHolds(name)
	} else {
		err = m.state.RemoveHold(name, uid)
	}
	if err != nil {
		return nil, err
	}
	m.Log.Info("a hold was lifted", messages.Key, messages.Unheld, "instance", name, "uid", uid, "all", all)
	m.holdsChanged(name)
	return m.engine.Holds(name)
}

// Holds lists those in force on an instance, the longest first.
func (m *Manager) Holds(name string) ([]state.Hold, error) {
	p, err := m.Package(name)
	if err != nil {
		return nil, err
	}
	return p.Holds, nil
}

func (m *Manager) holdsChanged(name string) {
	m.engine.Wake(name)
	m.observer.PackageChanged(name)
}

// dropHolds forgets the holds that ended while no agent ran, or long ago.
func (m *Manager) dropHolds() error {
	now := time.Now()
	return m.state.DropHolds(func(h state.Hold) bool { return !policy.ClockAfter().Lasts(h.Since, h.Until, now) })
}
