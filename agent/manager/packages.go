package manager

import (
	"context"

	"github.com/lull/lull/agent/index"
	"github.com/lull/lull/agent/messages"
	"github.com/lull/lull/agent/meta"
	"github.com/lull/lull/agent/refresh"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/services"
	"github.com/lull/lull/agent/state"
)

// Package is an installed instance as it is now.
type Package struct {
	state.Instance
	Current   state.Revision
	Launch    *meta.Launch
	Processes []runs.Process // of applications
	Services  map[string]string
	Holds     []state.Hold     // in force, the longest first
	Refresh   *refresh.Refresh // under way
}

// Packages lists the installed instances by name.
func (m *Manager) Packages() ([]string, error) { return m.links.Instances() }

// Package describes an instance; kind NotFound: nothing of it is current.
func (m *Manager) Package(name string) (*Package, error) {
	if err := meta.ValidInstance(name); err != nil {
		return nil, err
	}
	rev, pkg, err := m.links.Read(name)
	if err != nil {
		return nil, err
	}
	p := &Package{}
	if p.Instance, err = m.state.Instance(name); err != nil {
		return nil, err
	}
	if p.Launch, err = m.store.Launch(pkg); err != nil {
		return nil, err
	}
	var known bool
	if p.Current, known = p.Instance.Revision(rev); !known {
		p.Current = state.Revision{Number: rev, Package: pkg, Version: p.Launch.Version}
	}
	if p.Holds, err = m.engine.Holds(name); err != nil {
		return nil, err
	}
	if r, ok := m.engine.Of(name); ok {
		p.Refresh = &r
	}
	if p.Processes, err = m.Tracker.Busy(name); err != nil {
		m.Log.Warn("cannot tell what runs, so it counts as running", messages.Key, messages.RunsUnreadable, "instance", name, "error", err)
	}
	return p, nil
}

// ServiceStates asks how the services of an instance are. One of users' sessions
// is active if it runs in any.
func (m *Manager) ServiceStates(ctx context.Context, name string, l *meta.Launch) []string {
	var list []string
	for _, s := range l.Services {
		if s.Scope == meta.ScopeUser && m.services.Scope() != meta.ScopeUser {
			st := services.Inactive
			if procs, err := m.Tracker.ServiceProcs(name, s.Name); err != nil || len(procs) > 0 {
				st = services.Active
			}
			list = append(list, st)
			continue
		}
		st, err := m.services.State(ctx, services.Unit{Instance: name, Service: s})
		if err != nil {
			st = services.Failed
		}
		list = append(list, st)
	}
	return list
}

// Icon is the exported icon of an instance, or the name of one in the theme.
func (m *Manager) Icon(name string, l *meta.Launch) string { return m.exports.IconPath(name, l) }

// Install starts installing the package name as the instance name or name_key.
func (m *Manager) Install(ctx context.Context, name, key, repository, channel string) (refresh.Refresh, error) {
	instance := name
	if key != "" {
		instance += "_" + key
	}
	if err := meta.ValidName(name); err != nil {
		return refresh.Refresh{}, err
	}
	if err := meta.ValidInstance(instance); err != nil {
		return refresh.Refresh{}, err
	}
	if channel == "" {
		channel = "stable"
	}
	if err := m.mayChange("install " + instance); err != nil {
		return refresh.Refresh{}, err
	}
	repository, err := m.chooseRepository(ctx, name, repository, channel)
	if err != nil {
		return refresh.Refresh{}, err
	}
	return m.engine.Submit(ctx, refresh.Request{Kind: refresh.Install, Instance: instance, Repository: repository, Channel: channel})
}

// Remove starts removing an instance.
func (m *Manager) Remove(ctx context.Context, name string, purge bool) (refresh.Refresh, error) {
	if err := meta.ValidInstance(name); err != nil {
		return refresh.Refresh{}, err
	}
	if err := m.mayChange("remove " + name); err != nil {
		return refresh.Refresh{}, err
	}
	return m.engine.Submit(ctx, refresh.Request{Kind: refresh.Remove, Instance: name, Purge: purge})
}

// Revert starts going back to an earlier revision; 0 means the one before.
func (m *Manager) Revert(ctx context.Context, name string, rev uint32) (refresh.Refresh, error) {
	if err := meta.ValidInstance(name); err != nil {
		return refresh.Refresh{}, err
	}
	if err := m.mayChange("revert " + name); err != nil {
		return refresh.Refresh{}, err
	}
	return m.engine.Submit(ctx, refresh.Request{Kind: refresh.Revert, Instance: name, To: rev})
}

// publishInstalled tells the installed index which revisions there are. Who comes
// second has to read what the first has not seen, and to publish it after him.
func (m *Manager) publishInstalled() error {
	err := m.tellInstalled()
	m.observer.PackageChanged("")
	return err
}

func (m *Manager) tellInstalled() error {
	m.telling.Lock()
	defer m.telling.Unlock()
	instances, err := m.state.Instances()
	if err != nil {
		return err
	}
	var roots []index.Root
	for _, i := range instances {
		for _, v := range i.Revisions {
			roots = append(roots, index.Root{Package: v.Package, Holder: revisionName(i.Instance, v.Number)})
		}
	}
	m.indices.SetInstalled(roots)
	return m.tellLaunchersLocked()
}

// runRoots are the packages of live runs, for the open index. If it cannot be told
// what runs, everything may: a root without a package stands for that doubt.
func (m *Manager) runRoots() []index.Root {
	list, err := m.Tracker.Runs()
	var roots []index.Root
	if err != nil {
		m.Log.Error("cannot tell what runs, so nothing can be collected", messages.Key, messages.RunsUnreadable, "error", err)
		return []index.Root{{Holder: "perhaps a run, which cannot be told"}}
	}
	for _, r := range list {
		root := index.Root{Holder: "run of " + r.Instance}
		if r.Service != "" {
			root.Holder = "service " + r.Service + " of " + r.Instance
		}
		var ok bool
		if root.Package, ok = m.store.Find(r.PackagePrefix); !ok {
			// A unit of systemd does not carry the hash: it runs what was current when it started.
			if _, root.Package, err = m.links.Read(r.Instance); err != nil {
				continue // nor is the instance ours: another agent's
			}
		}
		if len(r.Processes) > 0 {
			root.PID = r.Processes[0].PID
		}
		roots = append(roots, root)
	}
	return roots
}
