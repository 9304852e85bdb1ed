package requests

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/offers"
	"github.com/lull/lull/agent/refresh"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/repo"
)

// Check reads the repositories of the instances in parallel, and starts a refresh for each
// instance that has a newer version and is among only. With only nil it reads all
// repositories and refreshes the instances with automatic refreshes. The started refreshes
// are returned beside the error, which is only about the requested instances and their
// repositories.
func (q *Requests) Check(ctx context.Context, only []string, how offers.Mode) ([]plan.Refresh, error) {
	if err := q.MayChange("refresh " + cmp.Or(strings.Join(only, ", "), "what is installed")); err != nil {
		q.Repositories.NoteCheck(only == nil, err, err)
		return nil, err
	}
	if err := q.known(only); err != nil {
		return nil, err
	}
	names := only
	if only == nil {
		all, err := q.Links.Instances()
		if err != nil {
			return nil, err
		}
		names = slices.DeleteFunc(slices.Clone(all), func(n string) bool { return !q.Policy().For(n).AutoRefresh || q.goesBack(n) })
	}
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	from, other := q.sources(ctx, names)
	if only == nil {
		for _, r := range q.Repositories.Names() {
			from[r] = append(from[r], nil...) // read, even if no instance comes from it
		}
	}
	// An unreadable repository delays no other: refreshes start as soon as their repository
	// has answered.
	var mu sync.Mutex // guards started, unread and other
	var started []plan.Refresh
	var unread []error
	var wg sync.WaitGroup
	for repository, instances := range from {
		wg.Go(func() {
			client, err := q.readFor(ctx, repository, instances, how)
			var list []plan.Refresh
			var failed []error
			if err == nil {
				list, failed = q.startOffers(ctx, instances, client, how)
			}
			mu.Lock()
			defer mu.Unlock()
			started, other = append(started, list...), append(other, failed...)
			if err != nil {
				unread = append(unread, err)
			}
		})
	}
	wg.Wait()
	err := joinSorted(append(unread, other...))
	q.Repositories.NoteCheck(only == nil, err, joinSorted(other))
	if only == nil {
		q.ReadAll()
	}
	return started, err
}

// joinSorted joins errors in an order that does not depend on timing.
func joinSorted(errs []error) error {
	slices.SortFunc(errs, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

// sources groups instances by their repository.
func (q *Requests) sources(ctx context.Context, names []string) (from map[string][]string, errs []error) {
	from = map[string][]string{}
	for _, n := range names {
		inst, err := q.State.Instance(n)
		if err == nil {
			err = q.Offers.RepositoryOf(ctx, &inst)
		}
		if err != nil {
			q.Log.Debug("cannot look for a newer version", "instance", n, "error", err) // part of the result
			errs = append(errs, err)
			continue
		}
		from[inst.Repository] = append(from[inst.Repository], n)
	}
	return from, errs
}

// readFor reads the repository of some instances. If it cannot be reached, and a person
// requested it, they are rechecked when the network comes up.
func (q *Requests) readFor(ctx context.Context, repository string, instances []string, how offers.Mode) (*repo.Client, error) {
	client, err := q.Repositories.Read(ctx, repository, !how.Asked)
	switch {
	case err == nil:
		q.Repositories.Unwant(instances)
	case how.Asked && errkind.Is(err, errkind.Unavailable):
		q.Repositories.Want(instances)
	}
	return client, err
}

// startOffers starts the refreshes that one repository offers for the instances.
func (q *Requests) startOffers(ctx context.Context, instances []string, client *repo.Client, how offers.Mode) (started []plan.Refresh, errs []error) {
	q.prepare(ctx, instances, client)
	for _, n := range instances {
		r, err := q.checkOne(ctx, n, client, how)
		if err != nil {
			errs = append(errs, err)
			q.Log.Warn("cannot look for a newer version", "instance", n, "error", err)
		}
		if r != nil {
			started = append(started, *r)
		}
	}
	return started, errs
}

// prepare fetches, in parallel, the data that the choice for the instances needs.
func (q *Requests) prepare(ctx context.Context, instances []string, client *repo.Client) {
	var list []repo.Listing
	for _, n := range instances {
		if inst, err := q.State.Instance(n); err == nil {
			base, _ := manifest.SplitInstance(n)
			list = append(list, repo.Listing{Name: base, Channel: inst.Channel})
		}
	}
	if len(list) > 1 {
		client.Prepare(ctx, list)
	}
}

// RefreshTogether reads the repositories of the instances and starts an atomic group of
// refreshes of those that have a newer version.
func (q *Requests) RefreshTogether(ctx context.Context, names []string, how offers.Mode) ([]plan.Refresh, error) {
	if err := q.known(names); err != nil {
		return nil, err
	}
	from, errs := q.sources(ctx, slices.Compact(slices.Sorted(slices.Values(names))))
	var mu sync.Mutex // guards offers and errs
	offers := map[string]*refresh.Request{}
	var wg sync.WaitGroup
	for repository, instances := range from {
		wg.Go(func() {
			client, err := q.readFor(ctx, repository, instances, how)
			if err != nil {
				instances = nil
			}
			found, failed := map[string]*refresh.Request{}, []error{err}
			for _, n := range instances {
				c, err := q.Offers.For(ctx, n, client, how)
				found[n], failed = c.Request, append(failed, err)
			}
			mu.Lock()
			defer mu.Unlock()
			maps.Copy(offers, found)
			errs = append(errs, slices.DeleteFunc(failed, func(err error) bool { return err == nil })...)
		})
	}
	wg.Wait()
	if err := joinSorted(errs); err != nil {
		return nil, err
	}
	var requests []refresh.Request
	for i, n := range names {
		if r := offers[n]; r != nil && !slices.Contains(names[:i], n) {
			requests = append(requests, *r)
		}
	}
	if len(requests) == 0 {
		return nil, nil
	}
	return q.Engine.SubmitTogether(ctx, requests)
}

// known returns an error unless all of the instances are installed. A broken link is
// repaired.
func (q *Requests) known(names []string) error {
	for _, n := range names {
		if err := q.Reports.Installed(n); err == nil {
			continue
		} else if mended, _ := q.Engine.Repair(n); !mended {
			return err
		}
		if err := q.Reports.Installed(n); err != nil {
			return err
		}
	}
	return nil
}

// checkOne starts a refresh if there is an offer, and returns the refresh under way. A newer
// version of one member does not break up a waiting atomic group. A refresh to a halted
// version is given up.
func (q *Requests) checkOne(ctx context.Context, name string, client *repo.Client, how offers.Mode) (*plan.Refresh, error) {
	c, err := q.Offers.For(ctx, name, client, how)
	if err != nil {
		return q.underWay(name), err
	}
	if !how.Now {
		q.giveUpHalted(ctx, name, c.Offers)
	}
	if c.Pointer == nil {
		q.Newest(name)
	}
	if old := q.underWay(name); c.Request == nil || !how.Asked && old != nil && old.Group != "" {
		return old, nil
	}
	if !how.Asked && q.goesBack(name) {
		return nil, nil
	}
	r, err := q.Engine.Submit(ctx, *c.Request)
	switch {
	case errkind.Is(err, errkind.Exists):
		return q.underWay(name), nil
	case errkind.Is(err, errkind.Busy) && !how.Asked:
		q.Later(name, q.isUnderWay)
	}
	if err != nil {
		return nil, err
	}
	return &r, nil
}

// giveUpHalted cancels a refresh to a version that its publisher has halted since, unless the
// refresh was requested regardless of rollouts. One in its critical section goes on.
func (q *Requests) giveUpHalted(ctx context.Context, name string, offers repo.Offers) {
	old := q.underWay(name)
	if old == nil || old.Early {
		return
	}
	i := slices.IndexFunc(offers, func(o repo.Offer) bool { return o.Package == old.Package && o.Halted != nil })
	if i < 0 {
		return
	}
	log := q.Log.With("instance", name, "version", old.ToVersion, "reason", offers[i].Halted.Reason)
	if err := q.Engine.Cancel(ctx, old.ID); err != nil {
		log.Warn("the publisher has halted a version, and its refresh goes on", "error", err)
		return
	}
	log.Info("the publisher has halted a version: its refresh is given up")
}

// goesBack reports whether an instance is being removed or reverted, which only a request
// for this instance may end. It is checked again afterwards.
func (q *Requests) goesBack(name string) bool {
	r, ok := q.Engine.Of(name)
	if !ok || !r.GoesBack() {
		return false
	}
	q.Later(name, q.isUnderWay)
	return true
}

func (q *Requests) underWay(name string) *plan.Refresh { return UnderWay(q.Engine, name) }

// UnderWay returns the update of an instance that is under way, or nil.
func UnderWay(engine *refresh.Engine, name string) *plan.Refresh {
	if r, ok := engine.Of(name); ok && r.Kind == plan.Update {
		return &r
	}
	return nil
}

func (q *Requests) isUnderWay(name string) bool {
	r, ok := q.Engine.Of(name)
	return ok && r.End == ""
}
