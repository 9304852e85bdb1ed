package manager

import (
	"context"
	"time"

	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/metrics"
	"github.com/lull/lull/agent/metricsfile"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/services"
)

// newMetrics returns the metrics file, with the kinds and ends of refreshes.
func newMetrics(version string) *metricsfile.File {
	var kinds, results []string
	for _, k := range []plan.Kind{plan.Install, plan.Update, plan.Revert, plan.Remove} {
		kinds = append(kinds, string(k))
	}
	for _, r := range []plan.State{plan.Done, plan.Undone, plan.FailedEnd, plan.Cancelled} {
		results = append(results, string(r))
	}
	return metricsfile.New(version, kinds, results)
}

// shown passes changes on to the observer, and touches the metrics. Progress of transfers
// does not touch them.
type shown struct {
	Observer
	m *Manager
}

func (s shown) RefreshChanged(r plan.Refresh) { s.Observer.RefreshChanged(r); s.m.touchMetrics() }
func (s shown) PackageChanged(instance string) {
	s.Observer.PackageChanged(instance)
	s.m.touchMetrics()
}
func (s shown) RunsChanged(instance string) {
	s.Observer.RunsChanged(instance)
	s.m.touchMetrics()
}
func (s shown) SpaceChanged()        { s.Observer.SpaceChanged(); s.m.touchMetrics() }
func (s shown) RepositoriesChanged() { s.Observer.RepositoriesChanged(); s.m.touchMetrics() }

// touchMetrics schedules a write of the metrics, if policy enables them.
func (m *Manager) touchMetrics() {
	if m.metricsPath() != "" {
		m.metrics.Touch()
	}
}

func (m *Manager) metricsPath() string { return m.Policy().Metrics.Textfile }

// countEnd counts a refresh that has ended.
func (m *Manager) countEnd(r plan.Refresh) {
	replaced := r.End == plan.Done && (r.Kind == plan.Install || r.Kind == plan.Update)
	m.metrics.RefreshEnded(string(r.Kind), string(r.End), r.Ended, replaced)
}

// countSection counts a critical section that has ended.
func (m *Manager) countSection(k plan.Kind, d time.Duration) {
	m.metrics.SectionEnded(string(k), d)
}

// countDelta counts a delta pack, which err made useless.
func (m *Manager) countDelta(err error) {
	m.metrics.DeltaUsed(err != nil)
	if err != nil {
		m.Log.Debug("cannot use a delta; whole blobs are fetched", "error", err)
	}
}

// followMetrics maintains the file until Close.
func (m *Manager) followMetrics() {
	m.metrics.Follow(m.ctx, metricsfile.Sources{
		Path: m.metricsPath, Store: m.store, Indices: m.indices, State: m.state,
		Repositories: func() map[string]time.Time { return m.repos.State().Read },
		Current:      func(instance string) uint32 { rev, _, _ := m.links.Read(instance); return rev },
		Refreshes:    m.refreshMetrics, Runs: m.runMetrics, Services: m.serviceMetrics, Worked: m.Worked, Log: m.Log,
	})
}

// refreshMetrics returns the refreshes that are stuck, and those that wait.
func (m *Manager) refreshMetrics() (stuck []metrics.Trouble, pending []metrics.Pending) {
	for _, r := range m.engine.All() {
		if r.State() == plan.Stuck {
			stuck = append(stuck, metrics.Trouble{Instance: r.Instance, Version: r.ToVersion})
		}
		if r.State() == plan.Waiting {
			pending = append(pending, metrics.Pending{Instance: r.Instance, Version: r.ToVersion, Urgency: r.Urgency, WaitsFor: waitsFor(r), Since: r.Since})
		}
	}
	return stuck, pending
}

// serviceTimeout bounds the queries to systemd for one write.
const serviceTimeout = 5 * time.Second

// serviceMetrics counts the failed services of each instance whose services this agent runs.
// An instance whose services cannot be read is left out.
func (m *Manager) serviceMetrics() (list []metrics.Services) {
	ctx, cancel := context.WithTimeout(m.ctx, serviceTimeout)
	defer cancel()
	names, err := m.links.Instances()
	if err != nil {
		return nil
	}
	for _, name := range names {
		p, err := m.serviceMetric(ctx, name)
		if err == nil && p.Services > 0 {
			list = append(list, p)
		}
	}
	return list
}

func (m *Manager) serviceMetric(ctx context.Context, name string) (p metrics.Services, err error) {
	_, pkg, err := m.links.Read(name)
	if err != nil {
		return p, err
	}
	l, err := m.store.Launch(pkg)
	if err != nil {
		return p, err
	}
	p = metrics.Services{Version: metrics.Version{Instance: name, Version: l.Version}}
	for _, s := range l.Services {
		if s.Scope == manifest.ScopeUser && m.services.Scope() != manifest.ScopeUser {
			continue
		}
		st, err := m.services.State(ctx, services.Unit{Instance: name, Service: s})
		if err != nil {
			return p, err
		}
		p.Services++
		if st == services.Failed {
			p.Failed++
		}
	}
	return p, nil
}

func waitsFor(r plan.Refresh) string {
	switch {
	case r.Held:
		return metrics.ForHold
	case len(r.WaitingFor) > 0:
		return metrics.ForApplications
	}
	return metrics.ForOther
}

// runMetrics counts runs; nil means that they are unreadable.
func (m *Manager) runMetrics() *metrics.Runs {
	list, err := m.Tracker.Runs()
	if err != nil {
		return nil
	}
	count := &metrics.Runs{}
	for _, r := range list {
		if r.Service != "" {
			count.Services++
		} else {
			count.Applications++
		}
	}
	return count
}
