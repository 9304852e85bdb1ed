// Package holds sets and ends holds: a user's or an administrator's postponement of the
// refreshes of an instance, or of all, which always has an owner and an end.
//
// The holds are in state.db, which the refresh engine reads. This package has the rules: how
// long who may hold what, and that a hold by a wrong clock is refused. Holds has no state of its own;
// its methods may be called from any goroutine.
package holds

import (
	"log/slog"
	"slices"
	"time"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/lib/wallclock"
	"github.com/lull/lull/agent/refresh"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/policy"
	"github.com/lull/lull/policy/strictyaml"
)

// Holds are the holds on instances.
type Holds struct {
	State  *state.DB
	Engine *refresh.Engine
	Policy func() *policy.Policy
	Log    *slog.Logger
	// MayChange returns why the root cannot be changed, as the error of doing what.
	MayChange func(what string) error
	Installed func(instance string) error // an error unless an instance is installed
	Changed   func(instance string)       // "" means all
}

// usualHold is the default duration of a hold.
const usualHold = 7 * 24 * time.Hour

const maxReason = 200

// UserEnd returns until when a user who is no administrator may hold an instance from now
// on. An error of kind NotPermitted has the reason why the user may not, or not until then. A
// zero until means as long as permitted.
func (h *Holds) UserEnd(name, owner string, until time.Time) (time.Time, error) {
	if err := h.canBeHeld(name); err != nil {
		return time.Time{}, err
	}
	r, ok := h.Engine.Of(name)
	if !ok || r.Kind != plan.Update {
		r = plan.Refresh{}
	}
	now, s := time.Now(), h.Policy().With(name, r.Wishes)
	far := until
	if until.IsZero() {
		far = now.Add(usualHold)
	}
	end := s.UserHoldEnd(far, r.HoldSince(), now, r.Urgency)
	switch {
	case s.UserHold <= 0:
		return end, errkind.New(errkind.NotPermitted, "cannot hold %s as user %s: policy lets only administrators hold it", name, owner).
			WithHint("user-hold in the policy says how long users may")
	case end.IsZero():
		return end, errkind.New(errkind.NotPermitted, "cannot hold %s as user %s: the update to %s is a matter of security, which only administrators may hold", name, owner, r.ToVersion).
			WithHint("user-hold-security in the policy lets users do so")
	case !end.After(now):
		return end, errkind.New(errkind.NotPermitted, "cannot hold %s any longer as user %s: the update to %s has been ready since %s, and users may hold it for %s",
			name, owner, r.ToVersion, r.HoldSince().Local().Format(wallclock.Layout), strictyaml.Duration(min(s.UserHold, s.MaxPostponement))).
			WithHint("an administrator may hold it for longer")
	case end.Before(until):
		return end, errkind.New(errkind.NotPermitted, "cannot hold %s until %s as user %s: users may hold it until %s", name, until.Local().Format(wallclock.Layout), owner, end.Local().Format(wallclock.Layout)).
			WithHint("without --for and --until it is held for as long as that; an administrator may hold it for longer")
	}
	return end, nil
}

// canBeHeld returns an error unless there is an instance of that name, or the name is
// state.AllInstances.
func (h *Holds) canBeHeld(name string) error {
	if name == state.AllInstances {
		return nil
	}
	return h.Installed(name)
}

// Put postpones the refreshes of an instance, or of state.AllInstances, until a time, and
// returns the end. It replaces an earlier hold of the same owner. The caller must check what
// a user may do: see UserEnd.
func (h *Holds) Put(name string, hold state.Hold) (time.Time, error) {
	if err := h.canBeHeld(name); err != nil {
		return hold.Until, err
	}
	now := time.Now()
	if hold.Until.IsZero() {
		hold.Until = now.Add(usualHold)
	}
	switch {
	case policy.ClockAfter().Wrong(now):
		return hold.Until, errkind.New(errkind.Failed, "cannot hold %s: the clock of this machine says %s, so no end can be reckoned", name, now.Local().Format(wallclock.Layout)).
			WithHint("set the clock first: timedatectl set-ntp true")
	case !hold.Until.After(now):
		return hold.Until, errkind.New(errkind.Invalid, "cannot hold %s until %s: that is over", name, hold.Until.Local().Format(time.DateTime))
	case len(hold.Reason) > maxReason:
		return hold.Until, errkind.New(errkind.Invalid, "cannot hold %s: the reason is longer than %d bytes", name, maxReason)
	}
	if err := h.MayChange("hold " + name); err != nil {
		return hold.Until, err
	}
	hold.Instance, hold.Since = name, now
	if old, err := h.State.Holds(name); err != nil {
		return hold.Until, err
	} else if slices.ContainsFunc(old, func(o state.Hold) bool {
		return o.UID == hold.UID && o.Until.Equal(hold.Until) && o.Reason == hold.Reason && o.Admin == hold.Admin
	}) {
		return hold.Until, nil // the same hold is in force already
	}
	if err := h.State.PutHold(hold); err != nil {
		return hold.Until, err
	}
	h.Log.Info("held", messages.Key, messages.Held, "instance", name, "user", hold.Owner, "uid", hold.UID, "administrator", hold.Admin, "until", hold.Until, "reason", hold.Reason)
	h.changed(name)
	return hold.Until, nil
}

// Release ends the hold of a user on an instance, or with all the holds of all users, and
// returns the holds that are still in force.
func (h *Holds) Release(name string, uid uint32, all bool) (left []state.Hold, err error) {
	if err := h.MayChange("end the hold on " + name); err != nil {
		return nil, err
	}
	if all {
		err = h.State.RemoveHolds(name)
	} else {
		err = h.State.RemoveHold(name, uid)
	}
	if err != nil {
		return nil, err
	}
	h.Log.Info("a hold was lifted", messages.Key, messages.Unheld, "instance", name, "uid", uid, "all", all)
	h.changed(name)
	return h.Engine.Holds(name)
}

// List returns the holds in force on an instance, the longest first.
func (h *Holds) List(name string) ([]state.Hold, error) {
	if err := h.canBeHeld(name); err != nil {
		return nil, err
	}
	return h.Engine.Holds(name)
}

func (h *Holds) changed(name string) {
	if name == state.AllInstances {
		name = ""
	}
	h.Engine.Wake(name)
	h.Changed(name)
}

// Drop removes the holds that ended while no agent ran, or long ago.
func (h *Holds) Drop() error {
	now := time.Now()
	return h.State.DropHolds(func(o state.Hold) bool { return !policy.ClockAfter().Lasts(o.Since, o.Until, now) })
}
