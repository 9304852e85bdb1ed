package manager

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/refresh"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/agent/store/index"
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

// publishInstalled passes the installed revisions to their index, and reports a change of one
// instance, or of all with "", whose record is re-read. Of two callers, the second must read what the first has not
// seen, and publish it after the first.
func (m *Manager) publishInstalled(instance string) error {
	err := m.tellInstalled(instance)
	m.observer.PackageChanged(instance)
	return err
}

func (m *Manager) tellInstalled(instance string) error {
	m.telling.Lock()
	defer m.telling.Unlock()
	if err := m.readInstalledLocked(instance); err != nil {
		return err
	}
	m.indices.SetInstalled(slices.Concat(slices.Collect(maps.Values(m.told))...))
	return m.tellLaunchersLocked()
}

// readInstalledLocked reads which packages an instance keeps, or all instances with "".
func (m *Manager) readInstalledLocked(instance string) error {
	var instances []state.Instance
	if instance == "" || m.told == nil {
		all, err := m.state.Instances()
		if err != nil {
			return err
		}
		instances, m.told = all, map[string][]index.Root{}
	} else {
		one, err := m.state.Instance(instance)
		if err != nil && !errkind.Is(err, errkind.NotFound) {
			return err
		}
		delete(m.told, instance)
		if err == nil {
			instances = append(instances, one)
		}
	}
	for _, i := range instances {
		var roots []index.Root
		for _, v := range i.Revisions {
			roots = append(roots, index.Root{Package: v.Package, Holder: revisionName(i.Instance, v.Number)})
		}
		m.told[i.Instance] = roots
	}
	return nil
}

// runRoots returns the packages of live runs, for the open index. If the runs are unknown,
// any package may run: a root without a package represents that doubt.
func (m *Manager) runRoots() []index.Root { return m.rootsIn(m.engine.Snapshot()) }

// rootsIn is runRoots of a snapshot.
func (m *Manager) rootsIn(s *refresh.Snapshot, err error) (roots []index.Root) {
	if err != nil {
		m.Log.Error("cannot determine what runs, so nothing can be collected", messages.Key, messages.RunsUnreadable, "error", err)
		return []index.Root{{Holder: "perhaps a run, which cannot be determined"}}
	}
	list, tied := s.Runs()
	for _, r := range list {
		root := index.Root{Holder: "run of " + r.Instance}
		if r.Service != "" {
			root.Holder = "service " + r.Service + " of " + r.Instance
		}
		if r.Session { // the names come from that user, and protect the package for that user alone
			root.Holder += fmt.Sprintf(" by user %d", r.UID)
		}
		var ok bool
		if root.Package, ok = m.store.Find(r.PackagePrefix); !ok {
			// A systemd unit does not carry the hash: it runs the package that was current
			// when it started.
			if _, root.Package, err = m.links.Read(r.Instance); err != nil {
				continue // the instance is not ours either: another agent's
			}
		}
		if len(r.Processes) > 0 {
			root.PID = r.Processes[0].PID
		}
		roots = append(roots, root)
	}
	// Processes that have a tether, wherever they were moved.
	for instance, procs := range tied {
		for _, p := range procs {
			if inRun(list, instance, p) {
				continue // the root of the run protects the same package
			}
			if pkg, ok := m.store.Find(p.PackagePrefix); ok {
				roots = append(roots, index.Root{Package: pkg, Holder: "application " + instance, PID: p.PID})
			}
		}
	}
	return roots
}

// inRun reports whether a process is in one of the runs of the package of its tether.
func inRun(list []runs.Run, instance string, p refresh.Tied) bool {
	return slices.ContainsFunc(list, func(r runs.Run) bool {
		return r.Instance == instance && r.PackagePrefix == p.PackagePrefix &&
			slices.ContainsFunc(r.Processes, func(q runs.Process) bool { return q.PID == p.PID })
	})
}

// revisionName returns the name of a holder in the installed index.
func revisionName(instance string, n uint32) string {
	return instance + " revision " + strconv.FormatUint(uint64(n), 10)
}
