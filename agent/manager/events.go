package manager

import (
	"fmt"
	"strings"
	"time"

	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/services"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/agent/store/index"
)

// followRuns passes on starts and ends of runs.
func (m *Manager) followRuns() {
	for {
		select {
		case instance, ok := <-m.Tracker.Changes():
			if !ok {
				return
			}
			// A parked refresh may be about to inhibit launches. Components that read the
			// runs for others would only delay it: refreshChanged notifies them.
			if r, ok := m.engine.Of(instance); !ok || !r.Parked {
				m.runsChanged(instance)
			}
			m.engine.Wake(instance) // last: of the goroutines woken here, it should run next
		case m.alive <- struct{}{}:
		case <-m.ctx.Done():
			return
		}
	}
}

// runsChanged notifies the components that show runs.
func (m *Manager) runsChanged(instance string) {
	m.engine.ForgetTied()
	m.indices.Changed(index.OpenIndex)
	m.observer.RunsChanged(instance)
}

// publishInstalled passes on a change of one instance, or of all with "", and reports it.
func (m *Manager) publishInstalled(instance string) error {
	err := m.roots.Publish(instance)
	m.observer.PackageChanged(instance)
	return err
}

// tetherReleased reports that a program has closed a tether: it may have ended.
func (m *Manager) tetherReleased(instance string) {
	m.runsChanged(instance)
	m.engine.Wake(instance)
}

// startServices starts the services that should run: after a boot, or after a time without
// the agent on a machine without systemd. A service of an instance with a refresh under way
// is left to that refresh.
func (m *Manager) startServices() {
	instances, err := m.links.Instances()
	if err != nil {
		m.Log.Error("cannot list what is installed", "error", err)
		return
	}
	for _, name := range instances {
		if _, busy := m.engine.Of(name); busy || m.ctx.Err() != nil {
			continue
		}
		_, pkg, err := m.links.Read(name)
		if err != nil {
			m.Log.Error("cannot start services", "instance", name, "error", err)
			continue
		}
		l, err := m.store.Launch(pkg)
		if err != nil {
			m.Log.Error("cannot start services", "instance", name, "error", err)
			continue
		}
		for _, s := range l.Services {
			if s.Scope == manifest.ScopeUser && m.services.Scope() != manifest.ScopeUser {
				continue // helpers start it
			}
			if err := m.services.Start(m.ctx, services.Unit{Instance: name, Service: s}); err != nil {
				m.Log.Error("cannot start a service", messages.Key, messages.ServiceFailed, "instance", name, "service", s.Name, "error", err)
			}
		}
		if len(l.Services) > 0 {
			m.observer.PackageChanged(name)
		}
	}
}

// refreshChanged is the engine's observer.
func (m *Manager) refreshChanged(r plan.Refresh) {
	m.helpers.Update()
	if r.End != "" {
		// Before the end is reported: its observers may request more, and read the package.
		m.noteEnd(r)
		m.runsChanged(r.Instance)
		m.observer.PackageChanged(r.Instance)
		m.observer.RefreshChanged(r)
		m.checker.Ended(r.Instance)
		return
	}
	m.observer.RefreshChanged(r)
	m.runsChanged(r.Instance)
	m.observer.PackageChanged(r.Instance)
}

// The delay before a package that failed its health check is retried: it doubles each time.
const (
	firstBackoff = 8 * time.Hour
	maxBackoff   = 30 * 24 * time.Hour
)

// noteEnd records a revision that was undone, and lets the collector follow a refresh.
func (m *Manager) noteEnd(r plan.Refresh) {
	m.countEnd(r)
	m.noteFailure(r)
	if r.End == plan.Undone && r.Kind == plan.Update && !r.ForOthers() {
		err := m.state.UpdateInstance(r.Instance, func(i *state.Instance) error {
			delay := firstBackoff
			if i.Backoff != nil && i.Backoff.Package == r.Package {
				delay = min(2*i.Backoff.Delay, maxBackoff)
			}
			i.Backoff = &state.Backoff{Package: r.Package, Version: r.ToVersion, At: r.Ended, Until: r.Ended.Add(delay), Delay: delay}
			if r.Failure != nil {
				i.Backoff.Reason = r.Failure.Text
			}
			return nil
		})
		if err != nil {
			m.Log.Error("cannot remember that a revision failed", "instance", r.Instance, "error", err)
		}
	}
	if m.Policy().GC.AfterRefresh || m.space.BelowWatermark() {
		m.space.Want()
	}
}

// lockReplaced logs that a program that is no launcher had a launch lock.
func (m *Manager) lockReplaced(instance string, pids []int) {
	var who []string
	for _, p := range runs.Describe(pids) {
		who = append(who, fmt.Sprintf("%s (pid %d, uid %d)", p.Command, p.PID, p.UID))
	}
	m.Log.Warn("a launch lock is held by a program that is no launcher, or for too long, and does not count", messages.Key, messages.LockReplaced,
		"instance", instance, "processes", strings.Join(who, ", "))
}
