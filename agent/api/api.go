// Package api is the agent on the bus: it turns method calls into calls of the
// manager, and what the manager observes into properties and signals.
//
// Words: an object is a path on the bus; a helper is a lull-userd that has
// registered. Service is the whole; its one goroutine (run) owns the objects
// below package/ and refresh/, the helpers and what each was told; the manager's
// observations are queued for it by name, so that the observer never blocks and
// many changes of one thing become one signal.
//
// Methods run in goroutines of the bus package, any number at once; they hold no
// lock of this package while they call the manager.
package api

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/lull/lull/agent/authz"
	"github.com/lull/lull/agent/manager"
	"github.com/lull/lull/agent/refresh"
	bus "github.com/lull/lull/dbus"
)

// Service is the agent on the bus.
type Service struct {
	m      *manager.Manager
	server *bus.Server
	auth   *authz.Authorizer
	names  *bus.Names
	log    *slog.Logger
	ctx    context.Context

	manager  *bus.ManagerExport
	space    *bus.SpaceExport
	retained *bus.RetainedExport
	system   *bus.SystemExport

	queue    *queue
	objects  *objects
	helpers  helpers
	sessions *sessions
	wg       sync.WaitGroup // of leases
	done     chan struct{}
}

// queue collects what has changed until the service's goroutine gets round to it.
type queue struct {
	mu        sync.Mutex // guards what follows
	refreshes map[string]refresh.Refresh
	ended     []refresh.Refresh // in their order; none may be merged away
	packages  map[string]bool
	space     bool
	transfers bool
	repos     bool
	system    bool
	machine   bool          // the conditions
	wake      chan struct{} // capacity 1
	changed   func()        // is called after each change
}

func newQueue(changed func()) *queue {
	return &queue{refreshes: map[string]refresh.Refresh{}, packages: map[string]bool{}, wake: make(chan struct{}, 1), changed: changed}
}

func (q *queue) put(change func()) {
	q.mu.Lock()
	change()
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
	q.changed()
}

// Observer is to be given to the manager, before there is a Service.
type Observer struct {
	q *queue
	x *sessions
}

// NewObserver makes one. It calls changed, which must not block, at each change.
func NewObserver(changed func()) Observer {
	return Observer{newQueue(changed), &sessions{users: map[uint32]*person{}}}
}

// Sessions are those of the users whose helpers register.
func (o Observer) Sessions() refresh.Sessions { return o.x }

// RefreshChanged implements manager.Observer.
func (o Observer) RefreshChanged(r refresh.Refresh) {
	o.q.put(func() {
		if r.End != "" {
			delete(o.q.refreshes, r.ID)
			o.q.ended = append(o.q.ended, r)
			return
		}
		o.q.refreshes[r.ID] = r
	})
}

// PackageChanged implements manager.Observer.
func (o Observer) PackageChanged(instance string) { o.q.put(func() { o.q.packages[instance] = true }) }

// SpaceChanged implements manager.Observer.
func (o Observer) SpaceChanged() { o.q.put(func() { o.q.space = true }) }

// TransfersChanged implements manager.Observer.
func (o Observer) TransfersChanged() { o.q.put(func() { o.q.transfers = true }) }

// RepositoriesChanged implements manager.Observer.
func (o Observer) RepositoriesChanged() { o.q.put(func() { o.q.repos = true }) }

// SystemChanged implements manager.Observer.
func (o Observer) SystemChanged() { o.q.put(func() { o.q.system = true }) }

// ConditionsChanged implements manager.Observer.
func (o Observer) ConditionsChanged() { o.q.put(func() { o.q.machine = true }) }

// Serve exports everything and takes the name. The service ends with ctx; Wait
// waits for that.
func Serve(ctx context.Context, server *bus.Server, m *manager.Manager, o Observer, auth *authz.Authorizer, version string, log *slog.Logger) (*Service, error) {
	s := &Service{m: m, server: server, auth: auth, names: bus.NewNames(server.Conn()), log: log, ctx: ctx, queue: o.q, sessions: o.x, done: make(chan struct{})}
	o.x.mu.Lock()
	o.x.s = s
	o.x.mu.Unlock()
	s.helpers.list = map[string]*helper{}
	server.OnPanic(func(method string, value any, stack []byte) {
		log.Error("internal error", "method", method, "panic", value, "stack", string(stack))
	})
	s.manager = bus.ExportManager(managerObject{s}, bus.ManagerProperties{
		Version: version, Root: m.Root, RunDir: m.RunDir, Tracker: m.Tracker.Name(), TrackerEvents: m.Tracker.Events(),
	})
	s.space = bus.ExportSpace(spaceObject{s}, bus.SpaceProperties{})
	s.space.Live(s.liveSpace)
	s.retained = bus.ExportRetained(retainedObject{s}, bus.RetainedProperties{})
	s.system = bus.ExportSystem(systemObject{s}, bus.SystemProperties{})
	s.updateSpace()
	s.updateSystem()
	s.updateRepositories()
	s.updateConditions()
	server.Manage(bus.AgentPath)
	if err := server.Export(bus.AgentPath, s.manager, s.space, s.retained, s.system, bus.ExportHelper()); err != nil {
		return nil, err
	}
	w := newObjects(s)
	w.packages("")
	if err := server.RequestName(bus.AgentName); err != nil {
		return nil, err
	}
	go s.run(w)
	return s, nil
}

// ShowRefreshes has the objects of all refreshes under way on the bus when it returns.
func (s *Service) ShowRefreshes() {
	for _, r := range s.m.Refreshes() {
		s.objects.ensure(r)
	}
}

// Wait returns when the service has ended.
func (s *Service) Wait() {
	<-s.done
	s.wg.Wait()
}

// manyRoots is how many there are to be before showing them is put off for a
// while after it was done.
const manyRoots = 500

// run is the service's goroutine.
func (s *Service) run(w *objects) {
	defer close(s.done)
	defer s.names.Close()
	var space bool            // the indices are to be shown
	var rest <-chan time.Time // when they may be shown again; nil: now
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.queue.wake:
		case <-rest:
			rest = nil
		}
		q := s.queue
		q.mu.Lock()
		refreshes, ended, packages, transfers, repos, system, machine := q.refreshes, q.ended, q.packages, q.transfers, q.repos, q.system, q.machine
		space = space || q.space
		q.refreshes, q.ended, q.packages, q.space, q.transfers, q.repos, q.system, q.machine = map[string]refresh.Refresh{}, nil, map[string]bool{}, false, false, false, false, false
		q.mu.Unlock()
		for _, r := range refreshes {
			w.refresh(r)
			s.helpers.tell(s, r)
		}
		for _, r := range ended {
			w.refresh(r)
			s.helpers.tell(s, r)
			w.finished(r)
		}
		if packages[""] {
			packages = map[string]bool{"": true}
		}
		for name := range packages {
			w.packages(name)
		}
		if len(packages) > 0 {
			s.updateTracker()
		}
		switch {
		case space && rest == nil:
			began := time.Now()
			roots := s.updateSpace()
			space = false
			// With thousands of leases that takes a while, and each is a change.
			if roots > manyRoots {
				rest = time.After(20 * time.Since(began))
			}
		case transfers:
			s.updateTransfers()
		}
		if repos {
			s.updateRepositories()
		}
		if system {
			s.updateSystem()
		}
		if machine {
			s.updateConditions()
		}
	}
}

// updateTracker follows what the tracker can hear of, which changes with the runs.
func (s *Service) updateTracker() {
	s.manager.Update(func(p *bus.ManagerProperties) { p.TrackerEvents = s.m.Tracker.Events() })
}

func (s *Service) updateRepositories() {
	st := s.m.Repositories()
	s.manager.Update(func(p *bus.ManagerProperties) {
		p.Repositories = nil
		for _, a := range st.Addresses {
			p.Repositories = append(p.Repositories, bus.RepositoryAddress{Name: a[0], URL: a[1]})
		}
		p.LastCheck, p.LastCheckError = micro(st.LastCheck), st.LastError
	})
}
