package manager

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/lull/lull/agent/conditions"
	"github.com/lull/lull/agent/current"
	"github.com/lull/lull/agent/doctor"
	"github.com/lull/lull/agent/exports"
	"github.com/lull/lull/agent/failures"
	"github.com/lull/lull/agent/files"
	"github.com/lull/lull/agent/helpersfile"
	"github.com/lull/lull/agent/holds"
	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/runctl"
	"github.com/lull/lull/agent/lib/units"
	"github.com/lull/lull/agent/lib/wallclock"
	"github.com/lull/lull/agent/local"
	"github.com/lull/lull/agent/mounts"
	"github.com/lull/lull/agent/offers"
	"github.com/lull/lull/agent/opener"
	"github.com/lull/lull/agent/refresh"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/repair"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/reports"
	"github.com/lull/lull/agent/repositories"
	"github.com/lull/lull/agent/requests"
	"github.com/lull/lull/agent/roots"
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
	"github.com/lull/lull/agent/updater"
	"github.com/lull/lull/agent/vacancy"
	"github.com/lull/lull/policy"
)

// New opens everything below the root. It starts nothing: see Start.
func New(c Config, observer Observer) (m *Manager, err error) {
	m = &Manager{Config: c, metrics: newMetrics(c.Version), alive: make(chan struct{}), root: mounts.New(c.Root, c.Boxed, c.Log)}
	m.observer = shown{observer, m}
	m.local = &local.Store{Root: c.Root, Converter: filepath.Join(filepath.Dir(c.Launcher), "lull-convert"), MayWrite: m.mayReceive}
	m.slots = local.NewSlots(m.local, c.User)
	network := repo.Network{
		Limit: repo.NewLimit(func(now time.Time, requested bool) int64 { return m.Policy().Network.Limit(now, requested) }),
		Proxy: func() policy.Proxy { return m.Policy().Network.Proxy },
	}
	m.sources = &local.Sources{
		Apt:  &local.Replicas{Local: m.local, Below: "apt", Convert: m.slots.Convert, Log: c.Log, Network: network},
		Dirs: &local.Watched{Replicas: local.Replicas{Local: m.local, Below: "watched", Convert: m.slots.Convert, Log: c.Log}},
	}
	m.repos = repositories.New(repositories.Config{Root: c.Root, Dir: settings.Dir(c.Conf).Repositories(), Log: c.Log, Changed: m.observer.RepositoriesChanged,
		Replica: func(of repo.Config) (dir string, root []byte, err error) { return m.sources.Make(m.ctx, of) },
		Follow:  m.sources.Follow, Unfollow: m.sources.Remove, TryApt: m.sources.Apt.Try, TryDir: local.TryDir,
		MayChange: m.root.MayChange, Edited: m.repositoriesEdited, Ended: m.repositoryRead, Network: network})
	c.Runctl.CountOnly(runctl.Launchers{Path: c.Launcher, Replaced: m.lockReplaced})
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.settings = settings.Open(c.Conf, c.Root, c.Log)
	m.failures = failures.Open(c.Root, c.Log, m.failuresChanged)
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
	m.systemSet = repair.NewSystemSet(m.indices, m.stagesSystem)
	m.engine = refresh.NewEngine(refresh.World{
		Root: c.Root, State: m.state, Store: m.store, Indices: m.indices, Links: m.links, Exports: m.exports,
		Runctl: c.Runctl, Tracker: c.Tracker, Vacancy: vacancy.NewLeases(), Resolver: m.resolver, Services: m.services, Logind: c.Logind, Sessions: c.Sessions, Log: c.Log,
		Repository: m.repos.Client, Policy: m.Policy, Alarm: wallclock.New, Installed: m.publishInstalled, Changed: m.refreshChanged,
		Writable: m.root.Writable, HeldOff: m.countSection, Conditions: m.conditionsFor,
	})
	m.roots.Engine = m.engine
	m.helpers = &helpersfile.File{RunDir: c.RunDir, UnderWay: m.helpersNeeded, Log: c.Log}
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
		MayChange: m.root.MayChange, Changed: m.observer.PackageChanged, ReadAll: m.systemSet.Want, Newest: m.isNewest,
		Later: func(instance string, underWay func(string) bool) { m.checker.Later(instance, underWay) }}
	m.checker = schedule.New(schedule.Config{Repositories: m.repos, Log: c.Log,
		Every:     func() time.Duration { return m.Policy().Schedule.Check },
		Installed: func(instance string) bool { _, _, err := m.links.Read(instance); return err == nil },
		Check: func(ctx context.Context, instances []string) error {
			_, err := m.requests.Check(ctx, instances, offers.Mode{Asked: instances != nil})
			return err
		}})
	m.holds = &holds.Holds{State: m.state, Engine: m.engine, Policy: m.Policy, Log: c.Log, MayChange: m.root.MayChange, Changed: m.observer.PackageChanged,
		Installed: m.reports.Installed}
	m.opener = &opener.Opener{Store: m.store, Links: m.links, Indices: m.indices, Resolver: m.resolver, Offers: m.offers, Repositories: m.repos, Space: m.space, Log: c.Log,
		MayChange: m.root.MayChange}
	m.repairer = &repair.Repairer{Store: m.store, Links: m.links, Engine: m.engine, Resolver: m.resolver, Repositories: m.repos, Space: m.space, Log: c.Log,
		MayChange: m.root.MayChange, Changed: m.observer.PackageChanged}
	m.systemSet.Repairer = m.repairer
	m.updater = &updater.Updater{System: m.system, Offers: m.offers, Repositories: m.repos, Space: m.space, State: m.state, Policy: m.Policy, MayChange: m.root.MayChange}
	m.files = m.newFiles()
	m.doctor = m.newDoctor()
	_ = m.repos.Load() // the repositories left out are logged and in ConfigError
	m.keepFailures()
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
		System:     m.System, SystemPackages: m.systemSet.Missing, Conditions: m.Conditions, Writable: m.root.Writable,
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
		MayChange: m.root.MayChange, Prepare: m.store.Prepare, Replica: m.sources.Store, Followed: m.sources.Offered, AddRepository: m.repos.Add,
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
