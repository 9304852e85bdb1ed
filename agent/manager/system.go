package manager

import (
	"context"
	"time"

	"github.com/lull/lull/agent/store/resolve"
	"github.com/lull/lull/agent/sysupdate"
	"github.com/lull/lull/agent/updater"
)

// loadSystem puts the durable sets into the indices before it returns.
func (m *Manager) loadSystem() error {
	system, err := sysupdate.Load(sysupdate.World{
		Root: m.Root, BootID: m.BootID, State: m.state, Store: m.store, Indices: m.indices, Resolver: m.resolver, RunHook: m.services.Run,
		Repository: func(name string) (resolve.Source, error) { return updater.Source(m.repos, name) }, Log: m.Log, Changed: m.observer.SystemChanged,
		Collect:   func(ctx context.Context) error { _, err := m.space.Collect(ctx, 0); return err },
		HookLimit: func(pkg string) time.Duration { return m.Policy().For(pkg).HookTimeLimit },
	})
	if err != nil {
		return err
	}
	m.system = system
	sets, _ := m.settings.System()
	return m.system.SetFactory(sets.Base, sets.Cache)
}

// reconcileSystem puts a set into effect that was staged in an earlier boot. A failure does not
// keep the agent from serving: lull system status shows the reason.
func (m *Manager) reconcileSystem() {
	if err := m.system.Reconcile(); err != nil {
		m.Log.Error("cannot settle which system is in effect", "error", err)
	}
}

// System returns which sets there are, and the progress of an update.
func (m *Manager) System() sysupdate.Status { return m.system.Status() }

// stagesSystem reports whether an update of the system is being staged, or waits to go on.
func (m *Manager) stagesSystem() bool {
	s := m.system.Status().State
	return s == sysupdate.Staging || s == sysupdate.Interrupted
}

// CollectionRefused returns why nothing may be collected at all, or nil.
func (m *Manager) CollectionRefused() error { return m.system.MayCollect() }
