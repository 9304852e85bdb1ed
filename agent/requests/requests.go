// Package requests starts the refreshes that users and the schedule request: it checks a
// request, finds what the repositories offer for it, and submits it to the engine
// (package refresh), which carries it out.
//
// Requests has no state of its own, and its methods may be called from any goroutine. Those
// that read repositories block on the network; none waits for the end of a refresh.
package requests

import (
	"context"
	"log/slog"

	"github.com/lull/lull/agent/current"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/offers"
	"github.com/lull/lull/agent/refresh"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/reports"
	"github.com/lull/lull/agent/repositories"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/policy"
)

// Requests starts the refreshes that users and the schedule request.
type Requests struct {
	State        *state.DB
	Links        current.Links
	Engine       *refresh.Engine
	Offers       *offers.Offers
	Repositories *repositories.Set
	Reports      *reports.Reports
	Policy       func() *policy.Policy
	Log          *slog.Logger
	// MayChange returns why the root cannot be changed, as the error of doing what.
	MayChange func(what string) error
	// Later schedules another check of an instance for when underWay reports false.
	Later   func(instance string, underWay func(instance string) bool)
	Changed func(instance string) // it follows another channel or repository
	ReadAll func()                // called after a check of all repositories
	Newest  func(instance string) // called when a check finds that it has the newest version
}

// Install starts the installation of the package name as the instance name or name_key. With
// now it ignores that a rollout has not reached this machine.
func (q *Requests) Install(ctx context.Context, name, key, repository, channel string, now bool) (plan.Refresh, error) {
	instance := name
	if key != "" {
		instance += "_" + key
	}
	if err := manifest.ValidName(name); err != nil {
		return plan.Refresh{}, err
	}
	if err := manifest.ValidInstance(instance); err != nil {
		return plan.Refresh{}, err
	}
	if old, err := q.State.Instance(instance); err == nil && len(old.Revisions) > 0 {
		if _, _, err := q.Links.Read(instance); err == nil {
			// The engine decides about it; no repository need be reachable for that.
			if err := sameSource(old, repository, channel); err != nil {
				return plan.Refresh{}, err
			}
			return q.submit(ctx, refresh.Request{Kind: plan.Install, Instance: instance})
		}
	}
	if channel == "" {
		channel = "stable"
	}
	if err := q.MayChange("install " + instance); err != nil {
		return plan.Refresh{}, err
	}
	repository, err := q.Offers.Choose(ctx, name, repository, channel)
	if err != nil {
		return plan.Refresh{}, err
	}
	p, err := q.Offers.Offered(ctx, name, repository, channel, now)
	if err != nil {
		return plan.Refresh{}, err
	}
	return q.submit(ctx, refresh.Request{Kind: plan.Install, Instance: instance, Repository: repository, Channel: channel,
		Package: p.Package, Version: p.Version, Urgency: string(p.Urgency), Published: p.Published, Notes: p.Notes, Early: now})
}

// submit starts a refresh. Links that cannot be read may have been changed by hand, and are
// repaired first; the engine reports whether that has helped.
func (q *Requests) submit(ctx context.Context, r refresh.Request) (plan.Refresh, error) {
	if _, _, err := q.Links.Read(r.Instance); err != nil {
		if _, err := q.Engine.Repair(r.Instance); err != nil && !errkind.Is(err, errkind.Busy) {
			q.Log.Warn("cannot repair an instance", messages.Key, messages.NotMended, "instance", r.Instance, "error", err)
		}
	}
	return q.Engine.Submit(ctx, r)
}

// sameSource returns an error if an installed instance follows another source than the
// requested one; "" matches any.
func sameSource(i state.Instance, repository, channel string) error {
	switch {
	case repository != "" && repository != i.Repository:
		return errkind.New(errkind.Invalid, "cannot install %s from repository %s: it is installed already, from repository %s", i.Instance, repository, i.Repository)
	case channel != "" && channel != i.Channel:
		return errkind.New(errkind.Invalid, "cannot install %s from channel %s: it is installed already, from channel %s", i.Instance, channel, i.Channel)
	}
	return nil
}

// Remove starts the removal of an instance.
func (q *Requests) Remove(ctx context.Context, name string, purge bool) (plan.Refresh, error) {
	if err := manifest.ValidInstance(name); err != nil {
		return plan.Refresh{}, err
	}
	if err := q.MayChange("remove " + name); err != nil {
		return plan.Refresh{}, err
	}
	return q.submit(ctx, refresh.Request{Kind: plan.Remove, Instance: name, Purge: purge})
}

// Revert starts the return to an earlier revision; 0 means the previous one.
func (q *Requests) Revert(ctx context.Context, name string, rev uint32) (plan.Refresh, error) {
	if err := manifest.ValidInstance(name); err != nil {
		return plan.Refresh{}, err
	}
	if err := q.MayChange("revert " + name); err != nil {
		return plan.Refresh{}, err
	}
	return q.submit(ctx, refresh.Request{Kind: plan.Revert, Instance: name, To: rev})
}
