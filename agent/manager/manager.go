// Package manager implements the operations of the agent, without the bus: install, refresh,
// check repositories, hold, open, collect. It connects the store, the indices, the trackers,
// the repositories and the refresh engine, and notifies an Observer of changes.
//
// A Manager may be used from any goroutine. Methods that fetch, collect or
// verify block until they are done; those that start a refresh return at once.
// Its own goroutines (run changes, repository watch, collection after refreshes)
// end with Close, which waits for them.
package manager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lull/lull/agent/conditions"
	"github.com/lull/lull/agent/current"
	"github.com/lull/lull/agent/doctor"
	"github.com/lull/lull/agent/exports"
	"github.com/lull/lull/agent/files"
	"github.com/lull/lull/agent/helpersfile"
	"github.com/lull/lull/agent/holds"
	"github.com/lull/lull/agent/join"
	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/lib/runctl"
	"github.com/lull/lull/agent/lib/units"
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
	"github.com/lull/lull/agent/store/gc"
	"github.com/lull/lull/agent/store/index"
	"github.com/lull/lull/agent/store/leases"
	"github.com/lull/lull/agent/store/resolve"
	"github.com/lull/lull/agent/sysupdate"
	"github.com/lull/lull/agent/updater"
	"github.com/lull/lull/agent/vacancy"
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
	Boxed      bool   // see the function of that name
	// Reloading is called when policy is re-read, and its result when that is over; may be
	// nil.
	Reloading func() (over func())
}

// Observer is notified of changes. Its methods must not block and must not call back.
type Observer interface {
	RefreshChanged(plan.Refresh)
	PackageChanged(instance string) // also when it has gone; "" means any
	SpaceChanged()
	TransfersChanged() // while they go on; SpaceChanged reports beginnings and ends
	RepositoriesChanged()
	PolicyChanged() // it was re-read, or was refused
	SystemChanged()
	GoingDown(down bool) // the machine; also when the shutdown was cancelled
	ConditionsChanged()
}

// Manager is the agent's core.
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
	opener      *opener.Opener
	roots       *roots.Roots
	reports     *reports.Reports
	holds       *holds.Holds

	systemSet systemSet

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	repos    *repositories.Set
	offers   *offers.Offers
	local    *local.Store
	slots    *local.Slots
	files    *files.Files
	replicas *local.Replicas // of sources of apt
	watched  *local.Watched
	space    *space.Keeper
	checker  *schedule.Checker
	root     *mounts.Mount
	asleep   atomic.Bool   // the root could not be written at the start: see wake
	alive    chan struct{} // a receive proves that changes of runs are followed

	reloading sync.Mutex // one at a time
}

// New opens everything below the root. It starts nothing: see Start.
func New(c Config, observer Observer) (m *Manager, err error) {
	m = &Manager{Config: c, metrics: newMetrics(c.Version), alive: make(chan struct{}), root: mounts.New(c.Root, c.Boxed, c.Log),
		systemSet: systemSet{wanted: make(chan struct{}, 1)}}
	m.observer = shown{observer, m}
	m.local = &local.Store{Root: c.Root, Converter: filepath.Join(filepath.Dir(c.Launcher), "lull-convert"), MayWrite: m.mayReceive}
	m.slots = local.NewSlots(m.local, c.User)
	m.replicas = &local.Replicas{Local: m.local, Below: "apt", Convert: m.slots.Convert, Log: c.Log}
	m.watched = &local.Watched{Replicas: local.Replicas{Local: m.local, Below: "watched", Convert: m.slots.Convert, Log: c.Log}}
	m.repos = repositories.New(repositories.Config{Root: c.Root, Dir: settings.Dir(c.Conf).Repositories(), Log: c.Log, Changed: m.observer.RepositoriesChanged,
		Replica: m.makeReplica, Follow: m.follow, Unfollow: m.unfollow, TryApt: m.replicas.Try, TryDir: local.TryDir,
		MayChange: m.root.MayChange, Edited: m.repositoriesEdited})
	c.Runctl.CountOnly(runctl.Launchers{Path: c.Launcher, Replaced: m.lockReplaced})
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.settings = settings.Open(c.Conf, c.Root, c.Log)
	if m.store, err = store.Open(c.Root); err != nil {
		return nil, err
	}
	if m.links, err = current.Open(c.Root); err != nil {
		return nil, err
	}
	if m.state, err = repair.OpenState(c.Root, m.links, m.store, c.Log); err != nil {
		return nil, err
	}
	defer func(db *state.DB) { // m is nil when it has failed
		if err != nil {
			err = errors.Join(err, db.Close())
		}
	}(m.state)
	if m.exports, err = exports.Open(c.Root, c.RunDir, c.Launcher); err != nil {
		return nil, err
	}
	if err = durable.MkdirAll(filepath.Join(c.Root, "data"), 0o755); err != nil {
		return nil, err
	}
	launcher := services.Launcher{Path: c.Launcher, Args: []string{"--root", c.Root, "--run-dir", c.RunDir}, Tracks: c.Tracker}
	// Also with the freezer, on a machine with systemd: processes that the agent starts
	// itself have the sandbox of its unit, and are killed with it.
	if t := c.Tracker.Name(); t == "scope" || t == "freezer" && units.Booted() {
		m.services = services.NewSystemd(launcher, c.User)
	} else {
		m.services = services.NewDirect(launcher, c.User, m.runsChanged, c.Log)
	}
	m.indices = index.New()
	m.indices.KeepRecent(m.Policy().GC.KeepRecent)
	m.roots = &roots.Roots{State: m.state, Store: m.store, Links: m.links, Indices: m.indices, Log: c.Log, Published: m.tellLaunchers}
	m.indices.AddProvider(m.roots.OfRuns)
	m.indices.AddProvider(m.doubtfulSystem)
	m.indices.OnChange(func(name string) {
		if name == index.WritingIndex {
			m.metrics.StoreChanged()
		}
		m.observer.SpaceChanged()
	})
	if m.leases, err = leases.Open(c.RunDir, m.indices, c.Log); err != nil {
		return nil, err
	}
	defer func(d *leases.Dir) {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}(m.leases)
	m.resolver = resolve.New(m.store, m.indices)
	m.costs = cost.New(m.store)
	m.resolver.Collect = m.collectForSpace
	m.resolver.Progressed = m.observer.TransfersChanged
	m.resolver.DeltaUsed = m.countDelta
	m.space = space.New(space.Config{Store: m.store, Indices: m.indices, Policy: m.Policy, User: c.User, Log: c.Log,
		MayCollect: m.mayCollect, Collected: m.collected})
	if err = m.space.SetReserve(); err != nil {
		return nil, err
	}
	if err = m.loadSystem(); err != nil {
		return nil, err
	}
	m.engine = refresh.NewEngine(refresh.World{
		Root: c.Root, State: m.state, Store: m.store, Indices: m.indices, Links: m.links, Exports: m.exports,
		Runctl: c.Runctl, Tracker: c.Tracker, Vacancy: vacancy.NewLeases(), Resolver: m.resolver, Services: m.services, Logind: c.Logind, Sessions: c.Sessions, Log: c.Log,
		Repository: m.repos.Client, Policy: m.Policy, Alarm: wallclock.New, Installed: m.publishInstalled, Changed: m.refreshChanged,
		Writable: m.root.Writable, HeldOff: m.countSection, Conditions: m.conditionsFor,
	})
	m.roots.Engine = m.engine
	m.helpers = &helpersfile.File{RunDir: c.RunDir, UnderWay: m.engine.UnderWay, Log: c.Log}
	if c.Conditions != nil {
		m.watcher = c.Conditions(m.conditionsChanged)
		defer func(w *conditions.Watcher) {
			if err != nil {
				w.Close()
			}
		}(m.watcher)
	}
	m.reports = &reports.Reports{Root: c.Root, State: m.state, Store: m.store, Links: m.links, Exports: m.exports, Services: m.services, Engine: m.engine,
		Tracker: c.Tracker, Policy: m.Policy, Log: c.Log, Indices: m.indices, Resolver: m.resolver, Repositories: m.repos, Space: m.space,
		Logind: c.Logind, System: m.System, Conditions: m.Conditions}
	m.offers = offers.New(m.ctx, offers.Config{Version: c.Version, Root: c.Root, Repositories: m.repos, State: m.state, Links: m.links, Costs: m.costs, Log: c.Log,
		Installed: func(instance string) (state.Instance, string, error) {
			p, err := m.reports.Package(instance)
			if err != nil {
				return state.Instance{}, "", err
			}
			return p.Instance, p.Current.Version, nil
		},
		UnderWay: func(instance string) *plan.Refresh { return requests.UnderWay(m.engine, instance) }})
	m.requests = &requests.Requests{State: m.state, Links: m.links, Engine: m.engine, Offers: m.offers, Repositories: m.repos, Reports: m.reports, Policy: m.Policy, Log: c.Log,
		MayChange: m.root.MayChange, Changed: m.observer.PackageChanged,
		Later: func(instance string, underWay func(string) bool) { m.checker.Later(instance, underWay) }}
	m.checker = schedule.New(schedule.Config{Repositories: m.repos, Log: c.Log,
		Every:     func() time.Duration { return m.Policy().Schedule.Check },
		Installed: func(instance string) bool { _, _, err := m.links.Read(instance); return err == nil },
		Check: func(ctx context.Context, instances []string) error {
			_, err := m.requests.Check(ctx, instances, offers.Mode{Asked: instances != nil})
			return err
		}})
	m.holds = &holds.Holds{State: m.state, Engine: m.engine, Policy: m.Policy, Log: c.Log, MayChange: m.root.MayChange, Changed: m.observer.PackageChanged,
		Installed: func(instance string) error { _, err := m.reports.Package(instance); return err }}
	m.opener = &opener.Opener{Store: m.store, Links: m.links, Indices: m.indices, Resolver: m.resolver, Offers: m.offers, Repositories: m.repos, Space: m.space, Log: c.Log,
		MayChange: m.root.MayChange}
	m.repairer = &repair.Repairer{Store: m.store, Links: m.links, Engine: m.engine, Resolver: m.resolver, Repositories: m.repos, Space: m.space, Log: c.Log,
		MayChange: m.root.MayChange, Changed: m.observer.PackageChanged}
	m.updater = &updater.Updater{System: m.system, Offers: m.offers, Repositories: m.repos, Space: m.space, State: m.state, Policy: m.Policy, MayChange: m.root.MayChange}
	m.files = m.newFiles()
	m.doctor = m.newDoctor()
	_ = m.repos.Load() // the repositories left out are logged and in ConfigError
	return m, errors.Join(m.metrics.Seed(m.state), m.repos.Tidy(), m.local.Tidy(), m.repos.LoadLastCheck(), m.reconcile(), m.identify(), m.publishInstalled(""), m.engine.ShutDoors(), m.makeLocks())
}

// newDoctor returns a doctor for what the manager has.
func (m *Manager) newDoctor() *doctor.Doctor {
	return &doctor.Doctor{
		Root: m.Root, RunDir: m.RunDir, Launcher: m.Launcher, User: m.User,
		Files:   doctor.Files{Dir: m.Conf, Policy: m.settings.PolicyFile(), Dropins: m.settings.Dropins(), Repositories: m.settings.Repositories()},
		Tracker: m.Tracker, Logind: m.Logind, Runctl: m.Runctl, Links: m.links, Store: m.store, State: m.state,
		Engine: m.engine, Services: m.services, Repositories: m.repos,
		Policy: m.Policy, PolicyRead: m.settings.Refused,
		SystemList: func() error { _, err := m.settings.ParseSystem(); return err },
		System:     m.System, SystemPackages: m.SystemPackages, Conditions: m.Conditions, Writable: m.root.Writable,
		Running: m.reports.Running, ServiceStates: m.reports.ServiceStates,
		Collected: func() gc.Result {
			result, _ := m.space.Last()
			return result
		},
		Metrics: func() doctor.Metrics {
			return doctor.Metrics{Path: m.metricsPath(), Failure: m.metrics.Failure()}
		},
	}
}

// newFiles returns what installs files, by the manager's own requests.
func (m *Manager) newFiles() *files.Files {
	return files.New(m.ctx, files.Config{
		Local: m.local, Slots: m.slots, State: m.state, Links: m.links, Engine: m.engine, Repositories: m.repos, Log: m.Log,
		MayChange: m.root.MayChange, Replica: m.replicaOf, Followed: m.followed, AddRepository: m.repos.Add,
		InstallPackage: func(ctx context.Context, name, key, repository, channel string) (plan.Refresh, error) {
			return m.requests.Install(ctx, name, key, repository, channel, true)
		},
		Refresh: func(ctx context.Context, instance string) ([]plan.Refresh, error) {
			return m.requests.Check(ctx, []string{instance}, offers.Mode{Asked: true, Now: true})
		},
		ResolvePackage: func(ctx context.Context, name, repository, channel, holder string, pid int) (*os.File, *index.Lease, error) {
			r, err := m.opener.Resolve(ctx, name, repository, channel, holder, pid, nil)
			return r.Dir, r.Lease, err
		},
	})
}

// freeAfterwards is how much a received file leaves free on the disk, in bytes.
const freeAfterwards = 64 << 20

// mayReceive returns an error of kind NoSpace if the disk cannot take that many bytes.
func (m *Manager) mayReceive(bytes int64) error {
	s, err := m.store.Space()
	if err == nil && s.Free < bytes+freeAfterwards {
		err = errkind.New(errkind.NoSpace, "the disk is full")
	}
	return err
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

// lockReplaced logs that a program that is no launcher had a launch lock.
func (m *Manager) lockReplaced(instance string, pids []int) {
	var who []string
	for _, p := range runs.Describe(pids) {
		who = append(who, fmt.Sprintf("%s (pid %d, uid %d)", p.Command, p.PID, p.UID))
	}
	m.Log.Warn("a launch lock is held by a program that is no launcher, or for too long, and does not count", messages.Key, messages.LockReplaced,
		"instance", instance, "processes", strings.Join(who, ", "))
}

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
	m.systemSet.want()
	m.wg.Go(m.followSystemSet)
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

// collectForSpace collects for a resolve that has hit a full disk.
func (m *Manager) collectForSpace(ctx context.Context) error {
	if err := m.system.MayCollect(); err != nil {
		return errkind.New(errkind.Busy, "cannot make room on the disk: %w", err).WithHint("%s", errkind.HintOf(err))
	}
	m.indices.Evict()
	_, err := m.space.Collect(ctx, 0)
	return err
}

// collected reports a collection, and applies its rules to what was made of files.
func (m *Manager) collected(ctx context.Context, result gc.Result, began time.Time, err error) {
	m.metrics.Collected(result, began, err)
	m.observer.SpaceChanged()
	m.files.Tidy(ctx)
}

// mayCollect returns why nothing may be collected; nil means that it may.
func (m *Manager) mayCollect() error {
	if err := m.root.MayChange("collect"); err != nil {
		return err
	}
	return m.system.MayCollect()
}

// prune applies keep-revisions to all installed instances.
func (m *Manager) prune() error {
	names, err := m.links.Instances()
	for _, n := range names {
		err = errors.Join(err, m.engine.Prune(n))
	}
	return err
}

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

// runsChanged notifies the components that show runs.
func (m *Manager) runsChanged(instance string) {
	m.engine.ForgetTied()
	m.indices.Changed(index.OpenIndex)
	m.observer.PackageChanged(instance)
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
		m.observer.RefreshChanged(r)
		m.checker.Ended(r.Instance)
		return
	}
	m.observer.RefreshChanged(r)
	m.runsChanged(r.Instance)
}

// The delay before a package that failed its health check is retried: it doubles each time.
const (
	firstBackoff = 8 * time.Hour
	maxBackoff   = 30 * 24 * time.Hour
)

// noteEnd records a revision that was undone, and lets the collector follow a refresh.
func (m *Manager) noteEnd(r plan.Refresh) {
	m.countEnd(r)
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
