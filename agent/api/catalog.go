package api

import (
	"maps"
	"slices"
	"time"

	"github.com/lull/lull/agent/authz"
	"github.com/lull/lull/agent/lib/accounts"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/offers"
	"github.com/lull/lull/agent/reports"
	bus "github.com/lull/lull/dbus"
)

func listFailures(list []offers.Failed) []bus.ListFailure {
	out := []bus.ListFailure{}
	for _, f := range list {
		out = append(out, bus.ListFailure{Name: f.Name, Error: errkind.Prefix + string(errkind.KindOf(f.Err)), Text: f.Err.Error()})
	}
	return out
}

func (o managerObject) ListAvailable(c bus.Caller, opt bus.ListAvailableOptions) ([]bus.AvailablePackage, []bus.ListFailure, error) {
	if opt.Read {
		if err := o.s.auth.Check(c, authz.Refresh); err != nil {
			return nil, nil, err
		}
	} else { // a slow repository keeps none of the other expensive readings waiting
		defer o.s.expensive.take()()
	}
	list, failed, err := o.s.m.Offers().Available(o.s.ctx, opt.Repository, opt.Read)
	out := []bus.AvailablePackage{}
	for _, a := range list {
		out = append(out, bus.AvailablePackage{Repository: a.Repository, Name: a.Name, Channel: a.Channel, Version: a.Version,
			Hash: a.Package.String(), Urgency: string(a.Urgency), Published: micro(a.Published), Size: uint64(a.Size), Notes: a.Notes, Summary: a.Summary,
			Offered: a.Offered, Installed: a.Installed})
	}
	return out, listFailures(failed), err
}

func (o managerObject) ListUpdates(c bus.Caller, instances []string, opt bus.ListUpdatesOptions) ([]bus.AvailableUpdate, []bus.ListFailure, error) {
	if opt.Read {
		if err := o.s.auth.Check(c, authz.Refresh); err != nil {
			return nil, nil, err
		}
	} else {
		defer o.s.expensive.take()()
	}
	if len(instances) == 0 {
		instances = nil
	}
	list, failed, err := o.s.m.Offers().Updates(o.s.ctx, instances, opt.Read)
	out := []bus.AvailableUpdate{}
	for _, u := range list {
		v := bus.AvailableUpdate{Instance: u.Instance, Repository: u.Repository, Channel: u.Channel, FromVersion: u.FromVersion,
			Version: u.Version, Hash: u.Package.String(), Urgency: string(u.Urgency), Published: micro(u.Published), Notes: u.Notes,
			Size: uint64(u.Size), Withheld: u.Withheld}
		if u.Cost != nil {
			v.Fetch, v.Write = uint64(u.Cost.Fetch), uint64(u.Cost.Write)
		}
		if u.Refresh != nil {
			v.Refresh = o.s.objects.ensure(*u.Refresh)
		}
		out = append(out, v)
	}
	return out, listFailures(failed), err
}

func (o managerObject) History(_ bus.Caller, opt bus.HistoryOptions) ([]bus.EndedRefresh, error) {
	list, err := o.s.m.Reports().History(opt.Instance, time.UnixMicro(int64(min(opt.Since, 1<<62))))
	out := []bus.EndedRefresh{}
	undo := o.s.m.Reports().Undo(list)
	for i, r := range list {
		v := bus.EndedRefresh{ID: r.ID, Kind: string(r.Kind), Instance: r.Instance, Result: string(r.End), FromVersion: r.FromVersion,
			ToVersion: r.ToVersion, FromRevision: r.From, ToRevision: r.To, Ended: micro(r.Ended),
			Began: micro(r.Began), Repository: r.Repository, Channel: r.Channel, Blocked: uint64(max(r.BlockedTime.Microseconds(), 0)),
			Purge: r.Purge, Undo: undo[i]}
		if r.Asker != nil {
			v.Asked, v.UID, v.User = true, r.Asker.UID, r.Asker.Name
		}
		if r.Failure != nil {
			v.ErrorName, v.Error = errkind.Prefix+string(r.Failure.Kind), r.Failure.Text
		}
		out = append(out, v)
	}
	return out, err
}

func (o managerObject) Switch(c bus.Caller, instance string, opt bus.SwitchOptions) error {
	if err := o.s.auth.Check(c, authz.Install); err != nil {
		return err
	}
	return o.s.shown(o.s.m.Requests().Switch(o.s.ctx, instance, opt.Repository, opt.Channel))
}

// RestartNow passes the wish on to the helpers of the caller's user: each restarts what
// its own session runs.
func (o managerObject) RestartNow(c bus.Caller, instance string) error {
	uid, err := c.UID()
	if err != nil {
		return err
	}
	waits := func(p reports.Pending) bool {
		return p.Instance == instance && slices.ContainsFunc(p.WaitingFor, func(q procs) bool { return q.UID == uid })
	}
	if !slices.ContainsFunc(o.s.m.Reports().Pending(uid, false), waits) {
		return errkind.New(errkind.NotFound, "cannot restart %.80q: no refresh waits for an application of that name and user %s", instance, accounts.Name(uid))
	}
	h := &o.s.helpers
	h.mu.Lock()
	list := slices.DeleteFunc(slices.Collect(maps.Values(h.list)), func(x *helper) bool { return x.uid != uid })
	h.mu.Unlock()
	if len(list) == 0 {
		return errkind.New(errkind.Unavailable, "cannot restart %s: user %s has no session with lull-userd", instance, accounts.Name(uid))
	}
	for _, x := range list {
		x.send(o.s, bus.HelperRestart{Instance: instance})
	}
	return nil
}
