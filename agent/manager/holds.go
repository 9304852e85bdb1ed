package manager

import (
	"slices"
	"time"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/lib/wallclock"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/policy"
	"github.com/lull/lull/policy/strictyaml"
)

// usualHold is the default duration of a hold.
const usualHold = 7 * 24 * time.Hour

const maxReason = 200

// UserHoldEnd returns until when a user who is no administrator may hold an instance from now
// on. An error of kind NotPermitted has the reason why the user may not, or not until then. A
// zero until means as long as permitted.
func (m *Manager) UserHoldEnd(name, owner string, until time.Time) (time.Time, error) {
	if err := m.canBeHeld(name); err != nil {
		return time.Time{}, err
	}
	r, ok := m.engine.Of(name)
	if !ok || r.Kind != plan.Update {
		r = plan.Refresh{}
	}
	now, s := time.Now(), m.Policy().With(name, r.Wishes)
	far := until
	if until.IsZero() {
		far = now.Add(usualHold)
	}
	end := s.UserHoldEnd(far, r.Since, now, r.Urgency)
	switch {
	case s.UserHold <= 0:
		return end, errkind.New(errkind.NotPermitted, "cannot hold %s as user %s: policy lets only administrators hold it", name, owner).
			WithHint("user-hold in the policy says how long users may")
	case end.IsZero():
		return end, errkind.New(errkind.NotPermitted, "cannot hold %s as user %s: the update to %s is a matter of security, which only administrators may hold", name, owner, r.ToVersion).
			WithHint("user-hold-security in the policy lets users do so")
	case !end.After(now):
		return end, errkind.New(errkind.NotPermitted, "cannot hold %s any longer as user %s: the update to %s has been ready since %s, and users may hold it for %s",
			name, owner, r.ToVersion, r.Since.Local().Format(wallclock.Layout), strictyaml.Duration(min(s.UserHold, s.MaxPostponement))).
			WithHint("an administrator may hold it for longer")
	case end.Before(until):
		return end, errkind.New(errkind.NotPermitted, "cannot hold %s until %s as user %s: users may hold it until %s", name, until.Local().Format(wallclock.Layout), owner, end.Local().Format(wallclock.Layout)).
			WithHint("without --for and --until it is held for as long as that; an administrator may hold it for longer")
	}
	return end, nil
}

// canBeHeld returns an error unless there is an instance of that name, or the name is
// state.AllInstances.
func (m *Manager) canBeHeld(name string) error {
	if name == state.AllInstances {
		return nil
	}
	_, err := m.Package(name)
	return err
}

// Hold postpones the refreshes of an instance, or of state.AllInstances, until a time, and
// returns the end. It replaces an earlier hold of the same owner. The caller must check what
// a user may do: see UserHoldEnd.
func (m *Manager) Hold(name string, h state.Hold) (time.Time, error) {
	if err := m.canBeHeld(name); err != nil {
		return h.Until, err
	}
	now := time.Now()
	if h.Until.IsZero() {
		h.Until = now.Add(usualHold)
	}
	switch {
	case policy.ClockAfter().Wrong(now):
		return h.Until, errkind.New(errkind.Failed, "cannot hold %s: the clock of this machine says %s, so no end can be reckoned", name, now.Local().Format(wallclock.Layout)).
			WithHint("set the clock first: timedatectl set-ntp true")
	case !h.Until.After(now):
		return h.Until, errkind.New(errkind.Invalid, "cannot hold %s until %s: that is over", name, h.Until.Local().Format(time.DateTime))
	case len(h.Reason) > maxReason:
		return h.Until, errkind.New(errkind.Invalid, "cannot hold %s: the reason is longer than %d bytes", name, maxReason)
	}
	if err := m.root.MayChange("hold " + name); err != nil {
		return h.Until, err
	}
	h.Instance, h.Since = name, now
	if old, err := m.state.Holds(name); err != nil {
		return h.Until, err
	} else if slices.ContainsFunc(old, func(o state.Hold) bool {
		return o.UID == h.UID && o.Until.Equal(h.Until) && o.Reason == h.Reason && o.Admin == h.Admin
	}) {
		return h.Until, nil // the same hold is in force already
	}
	if err := m.state.PutHold(h); err != nil {
		return h.Until, err
	}
	m.Log.Info("held", messages.Key, messages.Held, "instance", name, "user", h.Owner, "uid", h.UID, "administrator", h.Admin, "until", h.Until, "reason", h.Reason)
	m.holdsChanged(name)
	return h.Until, nil
}

// Unhold ends the hold of a user on an instance, or with all the holds of all users, and
// returns the holds that are still in force.
func (m *Manager) Unhold(name string, uid uint32, all bool) (left []state.Hold, err error) {
	if err := m.root.MayChange("end the hold on " + name); err != nil {
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

// Holds lists the holds in force on an instance, the longest first.
func (m *Manager) Holds(name string) ([]state.Hold, error) {
	if err := m.canBeHeld(name); err != nil {
		return nil, err
	}
	return m.engine.Holds(name)
}

func (m *Manager) holdsChanged(name string) {
	if name == state.AllInstances {
		name = ""
	}
	m.engine.Wake(name)
	m.observer.PackageChanged(name)
}

// dropHolds removes the holds that ended while no agent ran, or long ago.
func (m *Manager) dropHolds() error {
	now := time.Now()
	return m.state.DropHolds(func(h state.Hold) bool { return !policy.ClockAfter().Lasts(h.Since, h.Until, now) })
}
