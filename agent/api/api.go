// Package api is the agent on the bus: it turns method calls into calls of the
// manager, and what the manager observes into properties and signals.
//
// Words: an object is a path on the bus; a helper is a lull-userd that has
// registered. Service is the whole; its one goroutine (run) owns the objects
// below package/ and refresh/, the helpers and the last report to each; the
// manager's observations are queued for it by name, so that the observer never
// blocks and
// many changes of one thing become one signal.
//
// Methods run in goroutines of the bus package, any number at once; they hold no
// lock of this package while they call the manager.
package api

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/authz"
	"github.com/lull/lull/agent/doctor"
	"github.com/lull/lull/agent/lib/faultpoint"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/lib/share"
	"github.com/lull/lull/agent/manager"
	"github.com/lull/lull/agent/refresh"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/space"
	"github.com/lull/lull/agent/store/gc"
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
	warning  warning
	monitors monitors
	jobs     jobs
	uploads  uploads
	sessions *sessions
	busID    string // of the bus, "" if unknown

	// Expensive readings. The first three share a pace: no program needs them often.
	inspecting bus.Flight[string]
	doctoring  bus.Flight[[]doctor.Check]
	planning   bus.Flight[*gc.Plan]
	measuring  bus.Flight[space.Measure]
	expensive  turns

	wg   sync.WaitGroup // of monitors that end, of jobs and of uploads
	done chan struct{}
}

// news is what has changed since the service's goroutine looked last.
type news struct {
	refreshes map[string]plan.Refresh
	ended     []plan.Refresh  // in their order; none may be merged away
	packages  map[string]bool // by instance; "" means all
	runs      map[string]bool // the same, where processes may have started or ended
	space     bool
	transfers bool
	repos     bool
	policy    bool
	system    bool
	failures  bool              // see package failures
	machine   bool              // the conditions
	monitors  bool              // there is a new one
	helpers   []*helper         // that have registered
	down      *bool             // whether the machine shuts down; nil if unchanged
	alive     []chan<- struct{} // closed when the goroutine has gone round
}

func noNews() news {
	return news{refreshes: map[string]plan.Refresh{}, packages: map[string]bool{}, runs: map[string]bool{}}
}

// queue collects news until the service's goroutine gets round to it.
type queue struct {
	mu sync.Mutex // guards what follows
	news

	wake    chan struct{} // capacity 1
	changed func()        // is called after each change
}

func newQueue(changed func()) *queue {
	return &queue{news: noNews(), wake: make(chan struct{}, 1), changed: changed}
}

// take empties the queue.
func (q *queue) take() news {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := q.news
	q.news = noNews()
	return n
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

// Observer must be given to the manager, before there is a Service.
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
func (o Observer) RefreshChanged(r plan.Refresh) {
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

// RunsChanged implements manager.Observer.
func (o Observer) RunsChanged(instance string) { o.q.put(func() { o.q.runs[instance] = true }) }

// SpaceChanged implements manager.Observer.
func (o Observer) SpaceChanged() { o.q.put(func() { o.q.space = true }) }

// TransfersChanged implements manager.Observer.
func (o Observer) TransfersChanged() { o.q.put(func() { o.q.transfers = true }) }

// RepositoriesChanged implements manager.Observer.
func (o Observer) RepositoriesChanged() { o.q.put(func() { o.q.repos = true }) }

// PolicyChanged implements manager.Observer.
func (o Observer) PolicyChanged() { o.q.put(func() { o.q.policy = true }) }

// SystemChanged implements manager.Observer.
func (o Observer) SystemChanged() { o.q.put(func() { o.q.system = true }) }

// FailuresChanged implements manager.Observer.
func (o Observer) FailuresChanged() { o.q.put(func() { o.q.failures = true }) }

// GoingDown implements manager.Observer.
func (o Observer) GoingDown(down bool) { o.q.put(func() { o.q.down = &down }) }

// ConditionsChanged implements manager.Observer.
func (o Observer) ConditionsChanged() { o.q.put(func() { o.q.machine = true }) }

// Serve exports everything and takes the name. The service ends with ctx; Wait
// waits for that.
func Serve(ctx context.Context, server *bus.Server, m *manager.Manager, o Observer, auth *authz.Authorizer, version string, log *slog.Logger) (*Service, error) {
	s := &Service{m: m, server: server, auth: auth, names: bus.NewNames(server.Conn()), log: log, ctx: ctx, queue: o.q, sessions: o.x, expensive: make(turns, 2), done: make(chan struct{})}
	pace := bus.NewPace()
	s.inspecting, s.doctoring, s.planning = bus.NewFlight[string](pace), bus.NewFlight[[]doctor.Check](pace), bus.NewFlight[*gc.Plan](pace)
	o.x.mu.Lock()
	o.x.s = s
	o.x.mu.Unlock()
	s.askBusID(ctx)
	s.helpers.list = map[string]*helper{}
	s.uploads.list = map[string]*upload{}
	s.monitors.list = map[dbus.ObjectPath]*monitor{}
	s.jobs.list, s.jobs.running = map[string]*busJob{}, map[uint32]int{}
	server.OnPanic(func(method string, value any, stack []byte) {
		log.Error("internal error", messages.Key, messages.Bug, "method", method, "panic", value, "stack", string(stack))
	})
	s.manager = bus.ExportManager(managerObject{s}, bus.ManagerProperties{
		Version: version, Root: m.Root, RunDir: m.RunDir, Tracker: m.Tracker.Name(), TrackerEvents: m.Tracker.Events(),
	})
	s.space = bus.ExportSpace(spaceObject{s}, bus.SpaceProperties{})
	s.space.Live(func(_ *bus.Reading, p *bus.SpaceProperties) { s.liveSpace(p) })
	s.retained = bus.ExportRetained(retainedObject{s}, bus.RetainedProperties{})
	s.system = bus.ExportSystem(systemObject{s}, bus.SystemProperties{})
	s.updateSpace()
	s.updateSystem()
	s.updatePolicy()
	s.updateRepositories()
	s.updateConditions()
	server.Manage(bus.AgentPath)
	if err := server.Export(bus.AgentPath, s.manager, s.space, s.retained, s.system, bus.ExportHelper()); err != nil {
		return nil, err
	}
	w := newObjects(s)
	w.packages(map[string]bool{"": true})
	s.restoreMonitors()
	if err := server.RequestName(bus.AgentName); err != nil {
		return nil, err
	}
	go s.run(w)
	return s, nil
}

// ShowRefreshes has the objects of all refreshes under way on the bus when it returns.
func (s *Service) ShowRefreshes() {
	for _, r := range s.m.Engine().All() {
		s.objects.ensure(r)
	}
}

// Wait returns when the service has ended.
func (s *Service) Wait() {
	<-s.done
	s.wg.Wait()
	s.jobs.close()
}

// manyRoots is the number of roots from which on showing them is delayed for a
// while after the last time.
const manyRoots = 500

// run is the service's goroutine.
func (s *Service) run(w *objects) {
	defer close(s.done)
	defer s.names.Close()
	var space bool            // the indices must be shown
	var rest <-chan time.Time // when they may be shown next; nil means now
	// Any user can start applications in a loop, and each change of what runs reads it all.
	runs, spent := map[string]bool{}, share.Time{} // what must be shown, and the time for it
	var pause <-chan time.Time                     // when it may be shown next; nil means now
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.queue.wake:
		case <-rest:
			rest = nil
		case <-pause:
			pause = nil
		}
		began := time.Now()
		n := s.queue.take()
		space = space || n.space
		for _, x := range n.helpers {
			x.greet(s)
		}
		for _, r := range n.refreshes {
			w.refresh(r)
			s.helpers.tell(s, r)
		}
		maps.Copy(runs, n.runs)
		running := len(runs) > 0 && (pause == nil || len(n.ended)+len(n.alive) > 0)
		if running {
			maps.Copy(n.packages, runs)
			clear(runs)
		}
		// Before the ends: a client that has seen one finds the package as it is then.
		w.packages(n.packages)
		for _, r := range n.ended {
			w.refresh(r)
			s.helpers.tell(s, r)
			w.finished(r)
		}
		s.warn(n.down)
		if n.monitors || len(n.refreshes)+len(n.ended) > 0 {
			s.monitors.tell(s)
		}
		if len(n.packages) > 0 {
			s.updateTracker()
		}
		switch {
		case space && rest == nil && (pause == nil || len(n.alive) > 0):
			began := time.Now()
			roots := s.updateSpace()
			space, running = false, true
			// With thousands of leases that takes a while, and each is a change.
			if roots > manyRoots {
				rest = time.After(20 * time.Since(began))
			}
		case n.transfers:
			s.updateTransfers()
		}
		if n.repos {
			s.updatePolicy() // it also shows which repositories are left out
			s.updateRepositories()
		}
		if n.policy {
			if err := faultpoint.Hit("api.policy"); err != nil {
				s.log.Error("the policy is shown late", "error", err)
			}
			s.updatePolicy()
		}
		if n.system {
			s.updateSystem()
		}
		if n.machine {
			s.updateConditions()
		}
		if n.failures || n.policy || n.machine || len(n.helpers) > 0 {
			s.helpers.sendFailures(s)
		}
		if n.policy || n.machine || len(n.helpers)+len(n.refreshes)+len(n.ended) > 0 {
			s.helpers.sendDownloads(s)
		}
		if running {
			if left := spent.Spend(time.Since(began)); left > 0 {
				pause = time.After(left)
			}
		}
		for _, c := range n.alive {
			close(c)
		}
	}
}

// Alive returns when the agent has shown that it is not stuck: the service's
// goroutine has gone round, and the manager has answered.
func (s *Service) Alive(ctx context.Context) error {
	if err := s.goRound(ctx); err != nil {
		return err
	}
	return s.m.Alive(ctx)
}

// shown returns err once the properties show what has changed until now: a caller that
// reads them after its reply reads what it has changed. An agent that ends shows nothing.
func (s *Service) shown(err error) error {
	if err == nil {
		_ = s.goRound(s.ctx) // fails when the agent ends, only
	}
	return err
}

// goRound waits until the service's goroutine has seen all news until now.
func (s *Service) goRound(ctx context.Context) error {
	round := make(chan struct{})
	s.queue.mu.Lock()
	s.queue.alive = append(s.queue.alive, round)
	s.queue.mu.Unlock()
	select { // not by put: being alive is no work after which to rest
	case s.queue.wake <- struct{}{}:
	default:
	}
	select {
	case <-round:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// updatePolicy shows whether the files of the policy are those that hold.
func (s *Service) updatePolicy() {
	text := ""
	if err := s.m.ConfigError(); err != nil {
		text = err.Error()
	}
	s.manager.Update(func(p *bus.ManagerProperties) { p.PolicyError = text })
}

// updateTracker follows which events the tracker gets, which changes with the runs.
func (s *Service) updateTracker() {
	s.manager.Update(func(p *bus.ManagerProperties) { p.TrackerEvents = s.m.Tracker.Events() })
}

func (s *Service) updateRepositories() {
	st := s.m.Repositories().State()
	s.manager.Update(func(p *bus.ManagerProperties) {
		p.Repositories = nil
		for _, a := range st.Addresses {
			p.Repositories = append(p.Repositories, bus.RepositoryAddress{Name: a[0], URL: a[1]})
		}
		p.RepositoryStates, p.Mirrors = nil, nil
		for _, h := range st.All {
			p.RepositoryStates = append(p.RepositoryStates, bus.RepositoryStateOf{Name: h.Name, URL: h.Address,
				Checking: micro(h.Checking), Read: micro(h.Read), Failed: micro(h.Failed), Error: h.Error, LeftOut: h.LeftOut})
			for _, m := range h.Mirrors {
				p.Mirrors = append(p.Mirrors, bus.RepositoryMirror{Repository: h.Name, URL: m.URL, Failed: micro(m.Failed), Behind: m.Behind, Error: m.Error})
			}
		}
		p.LastCheck, p.LastCheckError = micro(st.LastCheck), st.LastError
	})
}
