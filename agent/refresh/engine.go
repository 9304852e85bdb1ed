package refresh

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/lull/lull/agent/conditions"
	"github.com/lull/lull/agent/current"
	"github.com/lull/lull/agent/digest"
	"github.com/lull/lull/agent/exports"
	"github.com/lull/lull/agent/index"
	"github.com/lull/lull/agent/inhibit"
	"github.com/lull/lull/agent/messages"
	"github.com/lull/lull/agent/problem"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/resolve"
	"github.com/lull/lull/agent/runctl"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/services"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/wallclock"
	"github.com/lull/lull/policy"
)

// World is what refreshes act on. All of it may be used from several goroutines.
type World struct {
	Root     string // data folders lie below it
	State    *state.DB
	Store    *store.Store
	Indices  *index.Indices
	Links    current.Links
	Exports  *exports.Exports
	Runctl   *runctl.Dir
	Tracker  runs.Tracker
	Resolver *resolve.Resolver
	Services services.Manager
	Logind   *inhibit.Logind
	Sessions Sessions // nil: none
	// Conditions is what is known of the machine, as far as what is required needs it; nil: nothing.
	Conditions func(required policy.Conditions) conditions.State
	Log        *slog.Logger

	Repository func(name string) (*repo.Client, error)
	Policy     func() *policy.Policy
	Alarm      func() wallclock.Alarm // for deadlines and the ends of holds
	// Installed is called when the set of installed revisions has changed, before anything that
	// only the change protects may be collected.
	Installed func() error
	// Writable says why the root cannot be changed; nil: it can. Whoever makes it so calls Wake.
	Writable func() error
	// Changed sees every change of a record, final ones included. It must not block.
	Changed func(Refresh)
	// HeldOff, which may be nil, hears how long a critical section has held launches off,
	// each time that one ends. It must not block.
	HeldOff func(Kind, time.Duration)
}

// Engine owns the refreshes under way.
type Engine struct {
	World

	ctx    context.Context // of all tasks
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex // guards what follows
	tasks  map[string]*task
	groups map[string]*group // of tasks
	last   []Refresh         // final records, youngest last, for those who ask a moment later

	downSince time.Time // when a shutdown was announced; zero: none was
}

// keepLast is how many ended refreshes stay visible.
const keepLast = 16

// NewEngine starts with what an earlier agent has left: Resume.
func NewEngine(w World) *Engine {
	ctx, cancel := context.WithCancel(context.Background())
	return &Engine{World: w, ctx: ctx, cancel: cancel, tasks: map[string]*task{}, groups: map[string]*group{}}
}

// Resume takes up the journal. It returns when every refresh that was interrupted
// is on its way again. Settle has been called before.
func (e *Engine) Resume() error {
	records, err := e.journal()
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.resumeGroups(records); err != nil {
		return err
	}
	for _, r := range records {
		e.Log.Info("taking up a refresh again", messages.Key, messages.RefreshResumed, "refresh", r.ID, "instance", r.Instance, "step", r.Step)
		e.goLocked(e.newTaskLocked(r), Event{Type: Restarted, Linked: e.linked(&r), Whole: e.committed(&r)})
	}
	return nil
}

// linked says whether the commit point of r has been passed.
func (e *Engine) linked(r *Refresh) bool {
	rev, _, err := e.Links.Read(r.Instance)
	if r.Kind == Remove {
		return problem.Is(err, problem.NotFound)
	}
	return err == nil && r.To != 0 && rev == r.To
}

// Request asks for a refresh.
type Request struct {
	Kind       Kind
	Instance   string
	Repository string
	Channel    string
	Package    digest.Digest // Update, and Install where it is known already
	Version    string
	Urgency    string
	Published  time.Time
	To         uint32 // Revert: the revision; 0: the one before
	Purge      bool   // Remove: system data too
	Now        bool   // Update: somebody asks for it, so that it waits for no condition

	fetchSince time.Time // since when an earlier revision has waited to be fetched
}

// Submit starts a refresh, or joins one under way that does the same. A refresh
// to an older package that still waits is given up for the new one.
func (e *Engine) Submit(ctx context.Context, q Request) (Refresh, error) {
	for {
		e.mu.Lock()
		if e.ctx.Err() != nil {
			e.mu.Unlock()
			return Refresh{}, problem.New(problem.Unavailable, "cannot %s %s: the agent is stopping", q.Kind, q.Instance)
		}
		old := e.taskOf(q.Instance)
		if old == nil {
			break
		}
		r := old.snapshot()
		e.mu.Unlock()
		if r.Kind == q.Kind && (q.Package.IsZero() || r.Package == q.Package || r.Package.IsZero()) {
			if q.Now && !r.Now {
				e.Now(r.ID)
			}
			return r, nil
		}
		// With a new revision every few days none would ever be fetched.
		if r.Kind == Update && r.Step == Fetch {
			q.fetchSince = r.FetchSince
		}
		if err := e.giveUp(ctx, old, q); err != nil {
			return r, err
		}
	}
	defer e.mu.Unlock()
	r, err := e.newRecordLocked(q)
	if err != nil {
		return Refresh{}, err
	}
	t := e.newTaskLocked(r)
	e.goLocked(t, Event{Type: Started})
	return t.snapshot(), nil
}

// giveUp ends what is under way for something else, if that is still possible.
func (e *Engine) giveUp(ctx context.Context, old *task, q Request) error {
	r := old.snapshot()
	switch s := r.State(); {
	case s == Undoing && r.Group != "" && !critical(r.FailedAt):
		return old.wait(ctx) // given up because another member was
	case s == Finishing:
		return old.wait(ctx)
	case s != Preparing && s != Waiting:
		return problem.New(problem.Busy, "cannot %s %s: a %s of it is in its critical section", q.Kind, q.Instance, r.Kind)
	}
	return e.cancelAndWait(ctx, old)
}

// newRecordLocked is the record of a request that can be.
func (e *Engine) newRecordLocked(q Request) (Refresh, error) {
	id, err := e.State.NextRefresh()
	if err != nil {
		return Refresh{}, err
	}
	r := Refresh{ID: id, Kind: q.Kind, Instance: q.Instance, Repository: q.Repository, Channel: q.Channel,
		Package: q.Package, ToVersion: q.Version, Urgency: q.Urgency, Published: q.Published, To: q.To, Purge: q.Purge, Now: q.Now, FetchSince: q.fetchSince}
	return r, e.describe(&r)
}

// describe fills in what the request leaves open and refuses what cannot be.
func (e *Engine) describe(r *Refresh) error {
	r.Step = plans[r.Kind][0]
	rev, pkg, err := e.Links.Read(r.Instance)
	if err != nil {
		// Somebody may have laid hands on the links.
		if mended, merr := e.settle(r.Instance); mended && merr == nil {
			if err := e.Installed(); err != nil {
				return err
			}
			rev, pkg, err = e.Links.Read(r.Instance)
		}
	}
	switch {
	case r.Kind == Install && err == nil:
		return problem.New(problem.Exists, "cannot install %s: it is installed already", r.Instance).
			WithHint("lull refresh %s looks for a newer version", r.Instance)
	case !problem.Is(err, problem.NotFound) && err != nil:
		return &problem.Error{Kind: problem.KindOf(err), Text: fmt.Sprintf("cannot %s %s: %v", r.Kind, r.Instance, err), Hint: problem.HintOf(err), Err: err}
	case r.Kind == Install:
		old, err := e.State.Instance(r.Instance)
		if err == nil {
			r.DataFrom = old.Left
		} else if problem.Is(err, problem.NotFound) {
			err = nil
		}
		return err
	case err != nil:
		return problem.New(problem.NotFound, "cannot %s %s: it is not installed", r.Kind, r.Instance)
	case r.Kind == Update && pkg == r.Package:
		// Whoever asked had looked before another refresh to the same ended.
		return problem.New(problem.Exists, "cannot refresh %s: version %s is in use already", r.Instance, r.ToVersion)
	}
	inst, err := e.State.Instance(r.Instance)
	if err != nil {
		return err
	}
	from, _ := inst.Revision(rev)
	r.From, r.DataFrom, r.FromVersion = rev, rev, from.Version
	r.Repository, r.Channel = inst.Repository, inst.Channel
	if r.Kind != Revert {
		return nil
	}
	to, err := revertTarget(inst, rev, r.To)
	if err != nil {
		return err
	}
	r.To, r.ToVersion, r.Package = to.Number, to.Version, to.Package
	return nil
}

// revertTarget chooses the revision to go back to.
func revertTarget(inst state.Instance, cur, want uint32) (state.Revision, error) {
	for _, v := range slices.Backward(inst.Revisions) {
		if v.Number == want || want == 0 && v.Number < cur && !v.Made.IsZero() && !v.Reverted {
			if v.Number == cur {
				return v, problem.New(problem.Invalid, "cannot revert %s to revision %d: it is in use", inst.Instance, want)
			}
			return v, nil
		}
	}
	if want == 0 {
		return state.Revision{}, problem.New(problem.NotFound, "cannot revert %s: no earlier revision is kept", inst.Instance).
			WithHint("keep-revisions in the policy says how many are kept")
	}
	return state.Revision{}, problem.New(problem.NotFound, "cannot revert %s: revision %d is not kept", inst.Instance, want)
}

// newTaskLocked makes the task of a record; goLocked starts it.
func (e *Engine) newTaskLocked(r Refresh) *task {
	t := &task{e: e, id: r.ID, instance: r.Instance, group: e.groups[r.Group], r: r, persisted: r, published: r,
		mail: make(chan Event, 4), wake: make(chan struct{}, 1), done: make(chan struct{})}
	e.tasks[r.ID] = t
	return t
}

func (e *Engine) goLocked(t *task, ev Event) {
	if ev.Type == Started {
		t.persisted = Refresh{}
		e.Log.Info(fmt.Sprintf("%s of %s: begun", t.r.Kind, t.r.Instance), messages.Key, messages.RefreshBegun, "refresh", t.r.ID,
			"instance", t.r.Instance, "kind", t.r.Kind, "version", t.r.ToVersion)
	}
	e.wg.Go(func() { t.run(e.ctx, ev) })
}

func (e *Engine) taskOf(instance string) *task {
	for _, t := range e.tasks {
		if t.instance == instance {
			return t
		}
	}
	return nil
}

// retire moves an ended task into history.
func (e *Engine) retire(t *task) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.tasks, t.r.ID)
	if !slices.ContainsFunc(slices.Collect(maps.Values(e.tasks)), func(o *task) bool { return o.group == t.group }) {
		delete(e.groups, t.r.Group)
	}
	e.last = append(e.last, t.r)
	if len(e.last) > keepLast {
		e.last = slices.Delete(e.last, 0, len(e.last)-keepLast)
	}
}

// Wake makes the parked refreshes of an instance look again; "" means all.
func (e *Engine) Wake(instance string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, t := range e.tasks {
		if instance == "" || t.instance == instance {
			t.poke()
		}
	}
}

// All returns the refreshes under way and the last ended ones, oldest first.
func (e *Engine) All() []Refresh {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := slices.Clone(e.last)
	for _, t := range e.tasks {
		list = append(list, t.snapshot())
	}
	slices.SortFunc(list, func(a, b Refresh) int { return number(a.ID) - number(b.ID) })
	return list
}

func number(id string) int { n, _ := strconv.Atoi(id); return n }

// UnderWay says whether there is any refresh that has not ended.
func (e *Engine) UnderWay() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.tasks) > 0
}

// Of returns the refresh under way for an instance.
func (e *Engine) Of(instance string) (Refresh, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if t := e.taskOf(instance); t != nil {
		return t.snapshot(), true
	}
	return Refresh{}, false
}

// Cancel gives up a refresh that has not entered its critical section and waits until it is undone.
func (e *Engine) Cancel(ctx context.Context, id string) error {
	e.mu.Lock()
	t := e.tasks[id]
	e.mu.Unlock()
	if t == nil {
		return problem.New(problem.NotFound, "cannot cancel refresh %s: it is not under way", id)
	}
	if r := t.snapshot(); critical(r.Step) || r.Undo {
		return problem.New(problem.Busy, "cannot cancel the %s of %s: it is in its critical section", r.Kind, r.Instance)
	}
	return e.cancelAndWait(ctx, t)
}

func (e *Engine) cancelAndWait(ctx context.Context, t *task) error {
	select {
	case t.mail <- Event{Type: CancelAsked}:
	case <-t.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return t.wait(ctx)
}

// wait returns when the task has ended.
func (t *task) wait(ctx context.Context) error {
	select {
	case <-t.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("cannot wait for the end of refresh %s: %w", t.id, context.Cause(ctx))
	}
}

// Now has a refresh go on that waits for a condition, or will come to one: somebody has
// asked for it.
func (e *Engine) Now(id string) { e.mail(id, Event{Type: NowAsked}) }

// mail gives an event to a refresh, unless that has ended.
func (e *Engine) mail(id string, ev Event) {
	e.mu.Lock()
	t := e.tasks[id]
	e.mu.Unlock()
	if t == nil {
		return
	}
	select {
	case t.mail <- ev:
	case <-t.done:
	}
}

// Told notes that a user was shown a notice about a refresh, so that the same user hears of its end.
func (e *Engine) Told(id string, uid uint32) { e.mail(id, Event{Type: NoticeShown, UID: uid}) }

// Stop ends what can be taken up again later, lets critical sections finish, and waits.
func (e *Engine) Stop() {
	e.mu.Lock()
	e.cancel()
	e.mu.Unlock()
	e.wg.Wait()
}
