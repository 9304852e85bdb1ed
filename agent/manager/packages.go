package manager

import (
	"context"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/refresh"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/state"
)

// Install starts the installation of the package name as the instance name or name_key. With
// now it ignores that a rollout has not reached this machine.
func (m *Manager) Install(ctx context.Context, name, key, repository, channel string, now bool) (plan.Refresh, error) {
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
	if old, err := m.state.Instance(instance); err == nil && len(old.Revisions) > 0 {
		if _, _, err := m.links.Read(instance); err == nil {
			// The engine decides about it; no repository need be reachable for that.
			if err := sameSource(old, repository, channel); err != nil {
				return plan.Refresh{}, err
			}
			return m.submit(ctx, refresh.Request{Kind: plan.Install, Instance: instance})
		}
	}
	if channel == "" {
		channel = "stable"
	}
	if err := m.root.MayChange("install " + instance); err != nil {
		return plan.Refresh{}, err
	}
	repository, err := m.offers.Choose(ctx, name, repository, channel)
	if err != nil {
		return plan.Refresh{}, err
	}
	p, err := m.offers.Offered(ctx, name, repository, channel, now)
	if err != nil {
		return plan.Refresh{}, err
	}
	return m.submit(ctx, refresh.Request{Kind: plan.Install, Instance: instance, Repository: repository, Channel: channel,
		Package: p.Package, Version: p.Version, Urgency: string(p.Urgency), Published: p.Published, Notes: p.Notes, Early: now})
}

// submit starts a refresh. Links that cannot be read may have been changed by hand, and are
// repaired first; the engine reports whether that has helped.
func (m *Manager) submit(ctx context.Context, q refresh.Request) (plan.Refresh, error) {
	if _, _, err := m.links.Read(q.Instance); err != nil {
		if _, err := m.engine.Repair(q.Instance); err != nil && !errkind.Is(err, errkind.Busy) {
			m.Log.Warn("cannot repair an instance", messages.Key, messages.NotMended, "instance", q.Instance, "error", err)
		}
	}
	return m.engine.Submit(ctx, q)
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
func (m *Manager) Remove(ctx context.Context, name string, purge bool) (plan.Refresh, error) {
	if err := manifest.ValidInstance(name); err != nil {
		return plan.Refresh{}, err
	}
	if err := m.root.MayChange("remove " + name); err != nil {
		return plan.Refresh{}, err
	}
	return m.submit(ctx, refresh.Request{Kind: plan.Remove, Instance: name, Purge: purge})
}

// Revert starts the return to an earlier revision; 0 means the previous one.
func (m *Manager) Revert(ctx context.Context, name string, rev uint32) (plan.Refresh, error) {
	if err := manifest.ValidInstance(name); err != nil {
		return plan.Refresh{}, err
	}
	if err := m.root.MayChange("revert " + name); err != nil {
		return plan.Refresh{}, err
	}
	return m.submit(ctx, refresh.Request{Kind: plan.Revert, Instance: name, To: rev})
}
