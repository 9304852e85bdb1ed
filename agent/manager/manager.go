// Package manager is what the agent can do, without the bus: install, refresh,
// look into repositories, hold, open, collect. It joins the store, the indices,
// the trackers, the repositories and the refresh engine, and tells an Observer
// what has changed.
//
// A Manager may be used from any goroutine. Methods that fetch, collect or
// verify block until they are done; those that start a refresh return at once.
// Its own goroutines (run changes, repository watch, collection after refreshes)
// end with Close, which waits for them.
package manager

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/conditions"
	"github.com/lull/lull/agent/current"
	"github.com/lull/lull/agent/durable"
	"github.com/lull/lull/agent/exports"
	"github.com/lull/lull/agent/index"
	"github.com/lull/lull/agent/inhibit"
	"github.com/lull/lull/agent/messages"
	"github.com/lull/lull/agent/meta"
	"github.com/lull/lull/agent/problem"
	"github.com/lull/lull/agent/refresh"
	"github.com/lull/lull/agent/resolve"
	"github.com/lull/lull/agent/runctl"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/services"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/system"
	"github.com/lull/lull/agent/units"
	"github.com/lull/lull/agent/wallclock"
	"github.com/lull/lull/policy"
)

// Config says where everything is.
type Config struct {
	Root     string // the store and all that lasts
	Conf     string // folder of policy.yaml, policy.d, repos.d
	User     bool   // rootless
	Launcher string // absolute path of lull-run
	RunDir   string
	Version  string // of lull
	BootID   string // file with a text that each boot has another of; "": the kernel's
	Bus      string // where launchers find the agent: "system", "session" or an address

	Runctl   *runctl.Dir
	Tracker  runs.Tracker
	Logind   *inhibit.Logind  // nil: no shutdown to hold off
	Sessions refresh.Sessions // nil: nobody logs in
	// Conditions begins to follow what policy can require, and has changed called with
	// each change; nil: nothing of it is known.
	Conditions func(changed func()) *conditions.Watcher
	Log        *slog.Logger
	Worked     func() // is told of work that follows a change only after a while; may be nil
	Boxed      bool   // see the function of that name
	// Reloading is called when policy is read again, and what it returns when that is over; may be nil.
	Reloading func() (over func())
}

// Observer hears of changes. Its methods must not block and may not call back.
type Observer interface {
	RefreshChanged(refresh.Refresh)
	PackageChanged(instance string) // also when it has gone; "" means any
	SpaceChanged()
	TransfersChanged() // while they go on; SpaceChanged tells of beginnings and ends
	RepositoriesChanged()
	PolicyChanged() // it was read again, or was refused
	SystemChanged()
	GoingDown(down bool) // the machine; also when that was given up
	ConditionsChanged()
}

// Manager is the agent's core.
type Manager struct {
	Config
	state    *state.DB
	store    *store.Store
	indices  *index.Indices
	links    current.Links
	exports  *exports.Exports
	services services.Manager
	resolver *resolve.Resolver
	engine   *refresh.Engine
	system   *system.System
	policy   atomic.Pointer[policy.Policy]
	observer Observer
	figures  *figures
	watcher  *conditions.Watcher // nil: nothing is known
	wanted   wanted

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	// telling is held from reading the state to telling the indices and launchers
	// what is in it: who is slower must not tell what was true before.
	telling sync.Mutex

	repos    repositories
	space    space
	asleep   atomic.Bool   // the root could not be written at the start: see wake
	rewatch  chan struct{} // capacity 1: the set of repositories or the schedule has changed
	outdated chan struct{} // closed: see Outdated
	alive    chan struct{} // whoever receives here knows that changes of runs are followed

	reloading  sync.Mutex // one at a time
	policyRead atomic.Pointer[reading]
}

// reading is how the policy was read last.
type reading struct {
	at  time.Time
	err error // the policy before stays
}

// New opens everything below the root. Nothing is started: see Start.
func New(c Config, observer Observer) (m *Manager, err error) {
	m = &Manager{Config: c, figures: newFigures(c.Version), rewatch: make(chan struct{}, 1), alive: make(chan struct{}), outdated: make(chan struct{})}
	m.observer = shown{observer, m}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.policyRead.Store(&reading{at: time.Now()})
	p, err := policy.Load(m.policyFile(), m.dropins())
	if err != nil {
		return nil, err
	}
	m.policy.Store(p)
	if m.store, err = store.Open(c.Root); err != nil {
		return nil, err
	}
	if m.links, err = current.Open(c.Root); err != nil {
		return nil, err
	}
	if m.state, err = m.openState(); err != nil {
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
	// With the freezer too, where systemd is: what the agent starts itself has the
	// sandbox of its unit, and is killed with it.
	if t := c.Tracker.Name(); t == "scope" || t == "freezer" && units.Booted() {
		m.services = services.NewSystemd(launcher, c.User)
	} else {
		m.services = services.NewDirect(launcher, c.User, c.Log)
	}
	m.indices = index.New()
	m.indices.KeepRecent(p.GC.KeepRecent)
	m.indices.AddProvider(m.runRoots)
	m.indices.OnChange(func(name string) {
		if name == index.WritingIndex {
			m.figures.stored.Add(1)
		}
		m.observer.SpaceChanged()
	})
	m.resolver = resolve.New(m.store, m.indices)
	m.resolver.Collect = m.collectForSpace
	m.resolver.Reserve = func() int64 { return m.Policy().GC.Reserve }
	m.resolver.Progressed = m.observer.TransfersChanged
	if err = m.setReserve(); err != nil {
		return nil, err
	}
	m.repos.clients, m.repos.read = map[string]*repository{}, map[string]time.Time{}
	m.space.wanted = make(chan struct{}, 1)
	if err = m.loadSystem(); err != nil {
		return nil, err
	}
	m.engine = refresh.NewEngine(refresh.World{
		Root: c.Root, State: m.state, Store: m.store, Indices: m.indices, Links: m.links, Exports: m.exports,
		Runctl: c.Runctl, Tracker: c.Tracker, Resolver: m.resolver, Services: m.services, Logind: c.Logind, Sessions: c.Sessions, Log: c.Log,
		Repository: m.client, Policy: m.policy.Load, Alarm: wallclock.New, Installed: m.publishInstalled, Changed: m.refreshChanged,
		Writable: m.writable, HeldOff: m.countSection, Conditions: m.conditionsFor,
	})
	if c.Conditions != nil {
		m.watcher = c.Conditions(m.conditionsChanged)
		defer func(w *conditions.Watcher) {
			if err != nil {
				w.Close()
			}
		}(m.watcher)
	}
	return m, errors.Join(m.seedMetrics(), m.tidyRepositories(), m.loadRepositories(), m.loadLastCheck(), m.settle(), m.publishInstalled(), m.engine.ShutDoors(), m.makeLocks())
}

// makeLocks makes the lock files that a boot has taken. A launcher that finds none
// asks for the agent on the bus and looks again, so they are there before the name.
func (m *Manager) makeLocks() error {
	names, err := m.links.Instances()
	for _, n := range names {
		err = errors.Join(err, m.Runctl.CreateInstance(n))
	}
	return err
}

func (m *Manager) policyFile() string { return filepath.Join(m.Conf, "policy.yaml") }
func (m *Manager) dropins() string    { return filepath.Join(m.Conf, "policy.d") }
func (m *Manager) reposDir() string   { return filepath.Join(m.Conf, "repos.d") }

// Start takes up what an earlier agent has left and begins to look around. The
// bus must be served by now: services are started through launchers that call back.
func (m *Manager) Start() error {
	m.hearOfShutdown()
	if m.state.ReadOnly() {
		m.asleep.Store(true)
	} else if err := m.resumeRefreshes(); err != nil {
		return err
	}
	m.adoptWanted()
	m.wg.Go(m.followMounts)
	m.wg.Go(m.followRuns)
	m.wg.Go(m.followLogind)
	m.wg.Go(m.followRepositories)
	m.wg.Go(m.followSpace)
	m.wg.Go(m.followMarkers)
	m.wg.Go(m.followMetrics)
	m.wg.Go(func() {
		m.fetchMissing()
		m.startServices()
	})
	return nil
}

// Close stops in an order in which nothing is cut: critical sections finish first.
func (m *Manager) Close() error {
	m.cancel()
	m.engine.Stop()
	m.closeWanted()
	m.system.Close()
	m.wg.Wait()
	if m.watcher != nil {
		m.watcher.Close()
	}
	return errors.Join(m.services.Close(), m.state.Close())
}

// Policy returns what holds now.
func (m *Manager) Policy() *policy.Policy { return m.policy.Load() }

// PolicyError says why the files of the policy were refused when they were read
// last, so that an older policy holds; nil: they were not.
func (m *Manager) PolicyError() error { return m.policyRead.Load().err }

// Reload reads policy and repositories again. A bad file changes nothing.
func (m *Manager) Reload() error {
	m.reloading.Lock()
	defer m.reloading.Unlock()
	if m.Reloading != nil {
		defer m.Reloading()()
	}
	now := &reading{at: time.Now()}
	if now.err = m.reload(); now.err != nil {
		m.Log.Error("the new policy is refused, the old one stays", messages.Key, messages.PolicyRefused, "error", now.err)
	} else {
		m.Log.Info("policy and repositories were read again", messages.Key, messages.PolicyLoaded)
	}
	m.policyRead.Store(now)
	m.observer.PolicyChanged()
	return now.err
}

func (m *Manager) reload() error {
	p, err := policy.Load(m.policyFile(), m.dropins())
	if err != nil {
		return err
	}
	sets, err := m.readSystem()
	if err != nil {
		return err
	}
	if err := m.loadRepositories(); err != nil {
		return err
	}
	m.policy.Store(p)
	m.indices.KeepRecent(p.GC.KeepRecent)
	m.engine.Wake("")
	m.nudge()
	m.dirtyMetrics()
	return errors.Join(m.system.SetFactory(sets.Base, sets.Cache), m.setReserve(), m.prune(), m.publishInstalled())
}

// setReserve makes the reserve as large as policy says, if it can be written.
func (m *Manager) setReserve() error {
	if err := m.store.SetReserve(m.Policy().GC.Reserve); !errors.Is(err, unix.EROFS) {
		return err
	}
	return nil
}

// prune applies keep-revisions to all that is installed.
func (m *Manager) prune() error {
	names, err := m.links.Instances()
	for _, n := range names {
		err = errors.Join(err, m.engine.Prune(n))
	}
	return err
}

// nudge has the repository loop look at its schedule and its watches again.
func (m *Manager) nudge() {
	select {
	case m.rewatch <- struct{}{}:
	default:
	}
}

// followRuns passes on that something has started or ended.
func (m *Manager) followRuns() {
	for {
		select {
		case instance, ok := <-m.Tracker.Changes():
			if !ok {
				return
			}
			// A parked refresh may be about to shut the door. Those who look at what
			// runs for others would only be in its way: refreshChanged sends them.
			if r, ok := m.engine.Of(instance); !ok || !r.Parked {
				m.runsChanged(instance)
			}
			m.engine.Wake(instance) // last: of all that is woken here, it is to run next
		case m.alive <- struct{}{}:
		case <-m.ctx.Done():
			return
		}
	}
}

// Alive returns when what decides about refreshes has answered: whoever holds its
// locks lets go of them, and changes of runs are followed. It looks at no disk.
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

// runsChanged sends whoever shows what runs to look.
func (m *Manager) runsChanged(instance string) {
	m.indices.Changed(index.OpenIndex)
	m.observer.PackageChanged(instance)
}

// startServices starts what should run: after a boot, or after the agent of a
// machine without systemd was away. A service of an instance with a refresh under
// way is left to that refresh.
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
			if s.Scope == meta.ScopeUser && m.services.Scope() != meta.ScopeUser {
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
func (m *Manager) refreshChanged(r refresh.Refresh) {
	m.wantHelpers()
	if r.End != "" {
		m.noteEnd(r) // first: who hears of the end may ask for more
	}
	m.observer.RefreshChanged(r)
	m.runsChanged(r.Instance)
}

// The delay before a package that failed its health check is tried again: it doubles each time.
const (
	firstBackoff = 8 * time.Hour
	maxBackoff   = 30 * 24 * time.Hour
)

// noteEnd remembers a revision that was undone, and lets the collector follow a refresh.
func (m *Manager) noteEnd(r refresh.Refresh) {
	m.countEnd(r)
	if r.End == refresh.Undone && r.Kind == refresh.Update && !r.ForOthers() {
		err := m.state.UpdateInstance(r.Instance, func(i *state.Instance) error {
			delay := firstBackoff
			if i.Backoff != nil && i.Backoff.Package == r.Package {
				delay = min(2*i.Backoff.Delay, maxBackoff)
			}
			i.Backoff = &state.Backoff{Package: r.Package, Until: time.Now().Add(delay), Delay: delay}
			return nil
		})
		if err != nil {
			m.Log.Error("cannot remember that a revision failed", "instance", r.Instance, "error", err)
		}
	}
	if m.Policy().GC.AfterRefresh || m.belowWatermark() {
		m.space.want()
	}
}

// Cancel gives up a refresh before its critical section.
func (m *Manager) Cancel(ctx context.Context, id string) error { return m.engine.Cancel(ctx, id) }

// Newcomer is what a session has to do whose helper has just registered.
func (m *Manager) Newcomer() ([]refresh.Work, error) { return m.engine.Newcomer() }

// Refreshes lists those under way and those that have just ended.
func (m *Manager) Refreshes() []refresh.Refresh { return m.engine.All() }

// Told notes that a user was told of a refresh.
func (m *Manager) Told(id string, uid uint32) { m.engine.Told(id, uid) }

// Join places a launcher's process into a run of the instance. It holds the
// launch lock itself while it does, so that the promise does not hang on the
// caller's doing so.
func (m *Manager) Join(ctx context.Context, instance, pkg, service string, pid, pidfd int) (string, error) {
	if service != "" && !m.services.Expects(pid, instance, service) {
		return "", problem.New(problem.NotPermitted, "cannot join service %s of %s: process %d was not started for it", service, instance, pid)
	}
	lock, err := m.Runctl.ReadLock(ctx, instance)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	word, err := m.Runctl.Inhibited(instance)
	if err != nil {
		return "", err
	}
	if word == runctl.RefreshInProgress || word != "" && service == "" {
		return "", problem.New(problem.Busy, "cannot start %s now: %s", instance, word)
	}
	rev, have, err := m.links.Read(instance)
	if err != nil {
		return "", err
	}
	if have.String() != pkg {
		return "", problem.New(problem.Busy, "cannot start package %.16s of %s: revision %d, which is current, is %s", pkg, instance, rev, have.Short())
	}
	return m.Tracker.Place(instance, have, service, pid, pidfd)
}
