// Package manager connects the parts of the agent, which are packages of their own: New makes
// them in order, Start and Close begin and end their work, and events of one are passed on to
// those that wait for them: the end of a run, of a refresh or of a collection, a new policy, a
// changed condition, a root that can be written again. Requests go to the parts (Requests,
// Reports, Holds, …), without the bus; an Observer is notified of changes.
//
// A Manager may be used from any goroutine. Its own goroutines (changes of runs, of mounts and
// of markers, the schedule, the collection) end with Close, which waits for them. It has one
// lock, for one Reload at a time; each part has its own for its state.
package manager

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/lull/lull/agent/conditions"
	"github.com/lull/lull/agent/current"
	"github.com/lull/lull/agent/doctor"
	"github.com/lull/lull/agent/exports"
	"github.com/lull/lull/agent/failures"
	"github.com/lull/lull/agent/files"
	"github.com/lull/lull/agent/helpersfile"
	"github.com/lull/lull/agent/holds"
	"github.com/lull/lull/agent/join"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/lib/runctl"
	"github.com/lull/lull/agent/lib/wallclock"
	"github.com/lull/lull/agent/local"
	"github.com/lull/lull/agent/logind"
	"github.com/lull/lull/agent/metricsfile"
	"github.com/lull/lull/agent/mounts"
	"github.com/lull/lull/agent/offers"
	"github.com/lull/lull/agent/opener"
	"github.com/lull/lull/agent/refresh"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/repair"
	"github.com/lull/lull/agent/reports"
	"github.com/lull/lull/agent/repositories"
	"github.com/lull/lull/agent/requests"
	"github.com/lull/lull/agent/roots"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/schedule"
	"github.com/lull/lull/agent/services"
	"github.com/lull/lull/agent/settings"
	"github.com/lull/lull/agent/space"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/cost"
	"github.com/lull/lull/agent/store/index"
	"github.com/lull/lull/agent/store/leases"
	"github.com/lull/lull/agent/store/resolve"
	"github.com/lull/lull/agent/sysupdate"
	"github.com/lull/lull/agent/updater"
)

// Config has the locations and dependencies of a Manager.
type Config struct {
	Root     string // the store and all persistent state
	Conf     string // directory of policy.yaml, policy.d, repos.d
	User     bool   // rootless
	Launcher string // absolute path of lull-run
	RunDir   string
	Version  string // of lull
	BootID   string // file with a text that differs at each boot; empty means the kernel's
	Bus      string // where launchers find the agent: "system", "session" or an address

	Runctl   *runctl.Dir
	Tracker  runs.Tracker
	Logind   *logind.Logind   // nil if shutdown cannot be inhibited
	Sessions refresh.Sessions // nil if no user logs in
	// Conditions begins to follow the conditions that policy can require, and calls changed
	// at each change; nil means that nothing is known of them.
	Conditions func(changed func()) *conditions.Watcher
	Log        *slog.Logger
	Worked     func() // called for work that follows a change only after a while; may be nil
	Boxed      bool   // the result of mounts.Boxed
	// Reloading is called when policy is re-read, and its result when that is over; may be
	// nil.
	Reloading func() (over func())
}

// Observer is notified of changes. Its methods must not block and must not call back.
type Observer interface {
	RefreshChanged(plan.Refresh)
	PackageChanged(instance string) // also when it has gone; "" means any
	RunsChanged(instance string)    // processes of it may have started or ended; likewise
	SpaceChanged()
	TransfersChanged() // while they go on; SpaceChanged reports beginnings and ends
	RepositoriesChanged()
	PolicyChanged() // it was re-read, or was refused
	SystemChanged()
	FailuresChanged()    // see package failures
	GoingDown(down bool) // the machine; also when the shutdown was cancelled
	ConditionsChanged()
}

// Manager has the parts of the agent.
type Manager struct {
	Config
	state    *state.DB
	store    *store.Store
	indices  *index.Indices
	leases   *leases.Dir
	links    current.Links
	exports  *exports.Exports
	services services.Manager
	resolver *resolve.Resolver
	engine   *refresh.Engine
	system   *sysupdate.System
	settings *settings.Settings
	observer Observer
	metrics  *metricsfile.File
	costs    *cost.Costs
	watcher  *conditions.Watcher // nil if nothing is known
	// unwatchZone ends the watch of the time zone; nil before Start.
	unwatchZone func()
	doctor      *doctor.Doctor
	requests    *requests.Requests
	updater     *updater.Updater
	helpers     *helpersfile.File
	repairer    *repair.Repairer
	failures    *failures.List
	opener      *opener.Opener
	roots       *roots.Roots
	reports     *reports.Reports
	holds       *holds.Holds

	systemSet *repair.SystemSet

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	repos   *repositories.Set
	offers  *offers.Offers
	local   *local.Store
	slots   *local.Slots
	files   *files.Files
	sources *local.Sources
	space   *space.Keeper
	checker *schedule.Checker
	root    *mounts.Mount
	asleep  atomic.Bool   // the root could not be written at the start: see wake
	alive   chan struct{} // a receive proves that changes of runs are followed

	reloading sync.Mutex // one at a time
}

// Local returns the store for the files that clients send.
func (m *Manager) Local() *local.Store { return m.local }

// Files returns what installs them.
func (m *Manager) Files() *files.Files { return m.files }

// Space returns what collects and measures.
func (m *Manager) Space() *space.Keeper { return m.space }

// Roots returns what passes on what the indices protect.
func (m *Manager) Roots() *roots.Roots { return m.roots }

// Repositories returns the set of repositories.
func (m *Manager) Repositories() *repositories.Set { return m.repos }

// repositoriesEdited makes the schedule and the bus follow a change of the set.
func (m *Manager) repositoriesEdited() {
	m.checker.Changed()
	m.systemSet.Want()
	m.keepFailures()
	m.observer.RepositoriesChanged()
	m.observer.PolicyChanged()
}

// Offers returns what chooses between the offers of the repositories.
func (m *Manager) Offers() *offers.Offers { return m.offers }

// Opener returns what protects packages that clients name.
func (m *Manager) Opener() *opener.Opener { return m.opener }

// Repairer returns what verifies and repairs the store.
func (m *Manager) Repairer() *repair.Repairer { return m.repairer }

// Updater returns what takes requests about the packages of the system.
func (m *Manager) Updater() *updater.Updater { return m.updater }

// Joiner returns what places launchers into runs.
func (m *Manager) Joiner() *join.Joiner {
	return &join.Joiner{Runctl: m.Runctl, Tracker: m.Tracker, Links: m.links, Services: m.services}
}

// Engine returns what carries out refreshes.
func (m *Manager) Engine() *refresh.Engine { return m.engine }

// Requests returns what starts refreshes.
func (m *Manager) Requests() *requests.Requests { return m.requests }

// Reports returns what reports the state of the agent.
func (m *Manager) Reports() *reports.Reports { return m.reports }

// Holds returns the holds on instances.
func (m *Manager) Holds() *holds.Holds { return m.holds }

// Doctor returns what checks the preconditions of refreshes.
func (m *Manager) Doctor() *doctor.Doctor { return m.doctor }

// makeLocks makes the lock files that a boot has removed. A launcher that finds none requests
// the agent on the bus and rechecks, so they must exist before the bus name.
func (m *Manager) makeLocks() error {
	names, err := m.links.Instances()
	for _, n := range names {
		err = errors.Join(err, m.engine.Tie(n), m.Runctl.CreateInstance(n))
	}
	return err
}

// Start resumes the work of an earlier agent and begins to follow changes. The bus must be
// served by now: services are started through launchers that call back.
func (m *Manager) Start() error {
	m.hearOfShutdown()
	if m.state.ReadOnly() {
		m.asleep.Store(true)
	} else if err := m.resumeRefreshes(); err != nil {
		return err
	}
	m.helpers.Adopt()
	m.wg.Go(func() { m.root.Follow(m.ctx, m.wake) })
	m.wg.Go(m.followRuns)
	m.wg.Go(m.followLogind)
	m.wg.Go(func() { m.checker.Follow(m.ctx) })
	m.wg.Go(func() { m.space.Follow(m.ctx) })
	m.wg.Go(func() {
		(&repair.Markers{Runctl: m.Runctl, Engine: m.engine, Log: m.Log, Released: m.tetherReleased}).Follow(m.ctx)
	})
	m.wg.Go(m.followMetrics)
	m.systemSet.Want()
	m.wg.Go(func() { m.systemSet.Follow(m.ctx) })
	var err error
	if m.unwatchZone, err = conditions.WatchZone(wallclock.ZoneFile, m.conditionsChanged); err != nil {
		m.Log.Info("a change of the time zone is noticed late", "error", err)
	}
	m.wg.Go(func() {
		if err := m.slots.End(m.ctx); err != nil {
			m.Log.Warn("cannot end what was left of a conversion", "error", err)
		}
		m.files.Tidy(m.ctx)
	})
	m.wg.Go(func() {
		m.repairer.FetchMissing(m.ctx)
		m.startServices()
	})
	return nil
}

// Close stops in an order that interrupts nothing: critical sections finish first.
func (m *Manager) Close() error {
	m.cancel()
	m.engine.Stop()
	m.helpers.Close()
	m.system.Close()
	m.wg.Wait()
	if m.unwatchZone != nil {
		m.unwatchZone()
	}
	m.offers.Wait()
	if m.watcher != nil {
		m.watcher.Close()
	}
	return errors.Join(m.services.Close(), m.leases.Close(), m.state.Close())
}

// wake resumes the work that an unwritable root has stopped.
func (m *Manager) wake() {
	if m.asleep.CompareAndSwap(true, false) {
		if err := m.resume(); err != nil {
			m.asleep.Store(true)
			m.Log.Error("cannot take up what was interrupted", "error", err)
			return
		}
		m.wg.Go(m.startServices)
	}
	m.engine.Wake("")
	m.checker.Changed()
}

// reconcile restores lost state, before any request is served.
func (m *Manager) reconcile() error {
	if m.state.ReadOnly() {
		m.Log.Error("the root cannot be written: nothing can be installed or refreshed until it can", messages.Key, messages.ReadOnly, "root", m.Root)
		return nil
	}
	m.reconcileSystem()
	return errors.Join(m.engine.Reconcile(), m.holds.Drop())
}

// resume restores lost state and resumes the interrupted refreshes.
func (m *Manager) resume() error {
	if err := m.reconcile(); err != nil {
		return err
	}
	return m.resumeRefreshes()
}

// Outdated returns a channel that is closed when only an agent that starts now can write the
// root.
func (m *Manager) Outdated() <-chan struct{} { return m.root.Outdated() }

// Leases returns the leases of clients.
func (m *Manager) Leases() *leases.Dir { return m.leases }

// prune applies keep-revisions to all installed instances.
func (m *Manager) prune() error {
	names, err := m.links.Instances()
	for _, n := range names {
		err = errors.Join(err, m.engine.Prune(n))
	}
	return err
}

// Alive returns when the components that decide about refreshes have answered: their locks
// are free, and changes of runs are followed. It reads no disk.
func (m *Manager) Alive(ctx context.Context) error {
	m.engine.All()
	m.indices.Snapshot()
	select {
	case <-m.alive:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
