package api

import (
	"time"

	"github.com/lull/lull/agent/authz"
	"github.com/lull/lull/agent/lib/accounts"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/printable"
	"github.com/lull/lull/agent/lib/wallclock"
	"github.com/lull/lull/agent/state"
	bus "github.com/lull/lull/dbus"
)

// maxTime is the latest end of a hold that is taken seriously.
var maxTime = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)

// Hold implements bus.Manager. Within what policy lets users, it is a matter of
// the hold action; beyond that, of the administrator's.
func (o managerObject) Hold(c bus.Caller, instance string, until uint64, reason string) (uint64, error) {
	uid, err := c.UID()
	if err != nil {
		return 0, err
	}
	if until > uint64(maxTime.UnixMicro()) {
		return 0, errkind.New(errkind.Invalid, "cannot hold %s for that long: the end is after the year %d", instance, maxTime.Year())
	}
	h := state.Hold{UID: uid, Owner: accounts.Name(uid), Reason: reason, Admin: o.s.auth.Administrator(uid)}
	if until != 0 {
		h.Until = time.UnixMicro(int64(until))
	}
	if !h.Admin {
		end, limit := o.s.m.Holds().UserEnd(instance, h.Owner, h.Until)
		switch {
		case limit == nil:
			h.Until = end
			err = o.s.auth.Check(c, authz.Hold)
		case !errkind.Is(limit, errkind.NotPermitted):
			err = limit
		case o.s.auth.Check(c, authz.HoldOthers) != nil:
			err = limit
		default:
			h.Admin = true
		}
		if err != nil {
			return 0, err
		}
	}
	end, err := o.s.m.Holds().Put(instance, h)
	return micro(end), o.s.shown(err)
}

// Unhold implements bus.Manager.
func (o managerObject) Unhold(c bus.Caller, instance string) (uint64, string, error) {
	uid, err := c.UID()
	if err != nil {
		return 0, "", err
	}
	holds, err := o.s.m.Holds().List(instance)
	if err != nil {
		return 0, "", err
	}
	if len(holds) == 0 {
		return 0, "", nil
	}
	all := o.s.auth.Administrator(uid)
	own := false
	for _, h := range holds {
		own = own || h.UID == uid
	}
	if !all && !own {
		if o.s.auth.Check(c, authz.HoldOthers) != nil {
			return 0, "", notYours(instance, holds[0])
		}
		all = true
	}
	left, err := o.s.m.Holds().Release(instance, uid, all)
	err = o.s.shown(err)
	if err != nil || len(left) == 0 {
		return 0, "", err
	}
	return micro(left[0].Until), left[0].Owner, nil
}

// held is the error of a refresh that waits for the end of a hold: it names the longest one.
func (s *Service) held(instance string) error {
	holds, err := s.m.Holds().List(instance)
	var e *errkind.Error
	switch {
	case err != nil:
		return err
	case len(holds) == 0: // it has just ended
		return errkind.New(errkind.Held, "cannot refresh %s now: it was held until now", instance)
	case holds[0].Reason == "":
		e = errkind.New(errkind.Held, "cannot refresh %s now: it is held until %s by %s", instance, holds[0].Until.Local().Format(wallclock.Layout), holds[0].Owner)
	default:
		e = errkind.New(errkind.Held, "cannot refresh %s now: it is held until %s by %s: %s", instance, holds[0].Until.Local().Format(wallclock.Layout), holds[0].Owner, printable.Line(holds[0].Reason))
	}
	return e.WithHint("lull status %s shows all holds; lull unhold %s ends your own hold", instance, instance)
}

func notYours(instance string, h state.Hold) error {
	return errkind.New(errkind.NotPermitted, "cannot end the hold on %s: %s holds it until %s", instance, h.Owner, h.Until.Local().Format("2006-01-02 15:04")).
		WithHint("it ends by itself; before that only %s and administrators can end it", h.Owner)
}
