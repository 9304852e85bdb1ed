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
	"github.com/lull/lull/agent/exports"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/lib/runctl"
	"github.com/lull/lull/agent/lib/wallclock"
	"github.com/lull/lull/agent/logind"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/services"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/index"
	"github.com/lull/lull/agent/store/resolve"
	"github.com/lull/lull/agent/vacancy"
	"github.com/lull/lull/policy"
)

// World holds the objects that refreshes act on. All of them may be used from several
// goroutines.
type World struct {
	Root     string // data directories are below it
	State    *state.DB
	Store    *store.Store
	Indices  *index.Indices
	Links    current.Links
	Exports  *exports.Exports
	Runctl   *runctl.Dir
	Tracker  runs.Tracker
	Vacancy  *vacancy.Leases // nil means that runs alone decide what is vacant
	Resolver *resolve.Resolver
	Services services.Manager
	Logind   *logind.Logind
	Sessions Sessions // nil if there are none
	// Conditions returns the part of the machine's state that required concerns; nil means
	// that nothing is known.
	Conditions func(required policy.Conditions) conditions.State
	Log        *slog.Logger

	Repository func(name string) (*repo.Client, error)
	Policy     func() *policy.Policy
	Alarm      func() wallclock.Alarm // for deadlines and the ends of holds
	// Installed is called when the installed revisions of an instance have changed ("" means of
	// any), before content
	// that only the change protects may be collected.
	Installed func(instance string) error
	// Writable returns why the root cannot be changed; nil means that it can. The component
	// that makes it writable calls Wake.
	Writable func() error
	// Changed is called for every change of a record, final ones included. It must not block.
	Changed func(plan.Refresh)
	// HeldOff, which may be nil, is called at the end of each critical section with how long
	// it has inhibited launches. It must not block.
	HeldOff func(plan.Kind, time.Duration)
}

// Engine owns the refreshes under way.
type Engine struct {
	World

	ctx    context.Context // of all tasks
	cancel context.CancelFunc
	wg     sync.WaitGroup

	sealables  sealables
	neighbours neighbours
	tied       tiedCache

	mu      sync.Mutex // guards the fields below; held for memory access only
	tasks   map[string]*task
	groups  map[string]*group        // of tasks
	claimed map[string]chan struct{} // by instance; closed when the claim ends: see claim
	last    []plan.Refresh           // final records, youngest last, for queries soon after the end

	downSince time.Time     // when a shutdown was announced; zero if none was
	leaving   bool          // the critical sections are left to the next boot: see LeaveToBoot
	left      chan struct{} // closed when that begins; nil while no step waits for it
}

// keepLast is how many ended refreshes stay visible.
const keepLast = 16

// showEnded is the age up to which an ended refresh is visible after a restart.
const showEnded = time.Hour

// History returns the refreshes that have ended since a time, the oldest first: at most
// state.KeepEnded.
func (e *Engine) History(since time.Time) ([]plan.Refresh, error) {
	list, err := state.Ended[plan.Refresh](e.State, func(id string, err error) {
		e.Log.Warn("cannot read the record of a refresh that has ended", "refresh", id, "error", err)
	})
	return slices.DeleteFunc(list, func(r plan.Refresh) bool { return r.Ended.Before(since) }), err
}

// NewEngine returns an engine without tasks; Resume adds those that an earlier agent has
// left.
func NewEngine(w World) *Engine {
	ctx, cancel := context.WithCancel(context.Background())
	return &Engine{World: w, ctx: ctx, cancel: cancel, tasks: map[string]*task{}, groups: map[string]*group{}, claimed: map[string]chan struct{}{}}
}

// Resume takes up the journal. It returns when every interrupted refresh is under way. Reconcile
// must be called before.
func (e *Engine) Resume() error {
	records, err := e.journal()
	if err != nil {
		return err
	}
	groups, err := e.oldGroups(records)
	if err != nil {
		return err
	}
	events := make([]plan.Event, len(records))
	for i, r := range records {
		g := groups[r.Group]
		events[i] = plan.Event{Type: plan.Restarted, Linked: e.linked(&r), Whole: g != nil && g.committed()}
		e.Log.Info("taking up a refresh again", messages.Key, messages.RefreshResumed, "refresh", r.ID, "instance", r.Instance, "step", r.Step)
	}
	ended, err := e.History(time.Now().Add(-showEnded))
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last = ended[max(len(ended)-keepLast, 0):]
	maps.Copy(e.groups, groups)
	for i, r := range records {
		e.goLocked(e.newTaskLocked(r), events[i])
	}
	return nil
}

// linked reports whether the commit point of r has been passed.
func (e *Engine) linked(r *plan.Refresh) bool {
	rev, _, err := e.Links.Read(r.Instance)
	if r.Kind == plan.Remove {
		return errkind.Is(err, errkind.NotFound)
	}
	return err == nil && r.To != 0 && rev == r.To
}

// Request asks for a refresh.
type Request struct {
	Kind       plan.Kind
	Instance   string
	Repository string
	Channel    string
	Package    digest.Digest // Update, and Install if it is known already
	Version    string
	Urgency    string
	Published  time.Time
	To         uint32 // Revert: the revision; 0 means the previous one
	Purge      bool   // Remove: system data too
	Notes      string // Update, Install: the publisher's release notes; if empty, the package's
	Now        bool   // Update: requested explicitly, so that it waits for no condition
	Early      bool   // Update, Install: regardless of rollouts

	asker      *plan.Asker // nil means the agent itself
	fetchSince time.Time   // since when an earlier revision has waited to be fetched
}

// Submit starts a refresh, or joins one under way that does the same. A waiting refresh to an
// older package is given up for the new one, after the request was found to be feasible.
func (e *Engine) Submit(ctx context.Context, q Request) (plan.Refresh, error) {
	q.asker = asker(ctx)
	for {
		old, release, err := e.claim(ctx, q.Instance)
		if err != nil {
			return plan.Refresh{}, fmt.Errorf("cannot %s %s: %w", q.Kind, q.Instance, err)
		}
		if old == nil {
			defer release()
			r, err := e.newRecord(q)
			if err != nil {
				return plan.Refresh{}, err
			}
			return e.begin(r)
		}
		r := old.snapshot()
		if q.joins(&r) {
			if q.Now {
				return e.look(ctx, old), nil
			}
			return r, nil
		}
		if err := e.mayReplace(&r, q); err != nil {
			return r, err
		}
		// Otherwise, with a new revision every few days, none would ever be fetched.
		if r.Kind == plan.Update && r.Step == plan.Fetch {
			q.fetchSince = r.FetchSince
		}
		if err := e.giveUp(ctx, old, q); err != nil {
			return r, err
		}
	}
}

// claim prevents refreshes of some instances from being started, so that the caller can read
// and write their state without the engine's lock. It waits for the end of other claims,
// which are short. If a refresh is under way, it is returned instead of a claim.
func (e *Engine) claim(ctx context.Context, names ...string) (old *task, release func(), err error) {
	for {
		e.mu.Lock()
		if e.ctx.Err() != nil {
			e.mu.Unlock()
			return nil, nil, errkind.New(errkind.Unavailable, "the agent is stopping")
		}
		var other chan struct{}
		for _, name := range names {
			if old = e.taskOf(name); old != nil {
				e.mu.Unlock()
				return old, nil, nil
			}
			if other == nil {
				other = e.claimed[name]
			}
		}
		if other == nil {
			defer e.mu.Unlock()
			done := make(chan struct{})
			for _, name := range names {
				e.claimed[name] = done
			}
			e.wg.Add(1)
			return nil, func() { e.release(done, names) }, nil
		}
		e.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
	}
}

func (e *Engine) release(done chan struct{}, names []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, name := range names {
		delete(e.claimed, name)
	}
	close(done)
	e.wg.Done()
}

// begin starts the tasks of new records whose instances the caller has claimed.
func (e *Engine) begin(r plan.Refresh) (plan.Refresh, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ctx.Err() != nil {
		return plan.Refresh{}, errkind.New(errkind.Unavailable, "cannot %s %s: the agent is stopping", r.Kind, r.Instance)
	}
	t := e.newTaskLocked(r)
	e.goLocked(t, plan.Event{Type: plan.Started})
	return t.snapshot(), nil
}

// joins reports whether a refresh under way does what a request asks for.
func (q *Request) joins(r *plan.Refresh) bool {
	switch {
	case r.Kind != q.Kind:
		return false
	case q.Kind == plan.Remove:
		return r.Purge || !q.Purge
	case q.Kind == plan.Revert:
		return q.To == 0 || r.To == q.To
	}
	return q.Package.IsZero() || r.Package == q.Package || r.Package.IsZero()
}

// mayReplace returns why a request cannot be carried out in place of r. The refresh r is
// under way and has not been given up yet.
func (e *Engine) mayReplace(r *plan.Refresh, q Request) error {
	if q.Kind == plan.Remove && r.Kind == plan.Install {
		return errkind.New(errkind.Busy, "cannot remove %s: it is being installed", q.Instance).
			WithHint("remove it when the installation has ended")
	}
	if q.Kind == plan.Update && r.GoesBack() && r.State() != plan.Finishing {
		// Whoever may refresh may not decide about these, and nor may a scheduled check.
		err := errkind.New(errkind.Busy, "cannot refresh %s: its revert was requested, and has not ended", q.Instance)
		if r.Kind == plan.Remove {
			err = errkind.New(errkind.Busy, "cannot refresh %s: its removal was requested, and has not ended", q.Instance)
		}
		return err.WithHint("lull refresh --cancel %s gives that up", q.Instance)
	}
	n := q.record()
	err := e.describe(&n)
	if errkind.Is(err, errkind.Exists) && q.Kind == plan.Install && r.Kind == plan.Remove {
		return nil // it stays installed because its removal is given up
	}
	return err
}

// giveUp ends a refresh that is under way for another purpose, if that is still possible.
func (e *Engine) giveUp(ctx context.Context, old *task, q Request) error {
	r := old.snapshot()
	if err := mayGiveUp(&r, q); err != nil {
		return err
	}
	if r.State() == plan.Finishing {
		return old.wait(ctx)
	}
	return e.cancelAndWait(ctx, old)
}

// mayGiveUp returns why a refresh under way cannot be given up for a request.
func mayGiveUp(r *plan.Refresh, q Request) error {
	switch s := r.State(); {
	case s == plan.Stuck:
		return errkind.New(errkind.Busy, "cannot %s %s: an earlier %s of it could not be undone: %s", q.Kind, q.Instance, r.Kind, r.Stuck.Text).
			WithHint("lull refresh --retry %s undoes it when the cause has gone", q.Instance)
	case s == plan.Undoing && r.Tries == 0, s == plan.Finishing, s == plan.Preparing, s == plan.Waiting:
		// One that is undone is given up already, because of another request or the failure
		// of another member of its group, or it is undoing its critical section. It may be
		// about to return to waiting; the cancellation ends that.
		return nil
	}
	return errkind.New(errkind.Busy, "cannot %s %s: a %s of it is in its critical section", q.Kind, q.Instance, r.Kind)
}

// record returns the refresh record that a request determines.
func (q Request) record() plan.Refresh {
	return plan.Refresh{Kind: q.Kind, Instance: q.Instance, Repository: q.Repository, Channel: q.Channel, Package: q.Package, ToVersion: q.Version,
		Urgency: q.Urgency, Published: q.Published, To: q.To, Purge: q.Purge, Notes: q.Notes, Now: q.Now, Early: q.Early, FetchSince: q.fetchSince, Asker: q.asker}
}

// newRecord returns the record of a feasible request. The caller has claimed the instance.
func (e *Engine) newRecord(q Request) (plan.Refresh, error) {
	r := q.record()
	r.Began = wallclock.Now()
	if err := e.describe(&r); err != nil {
		return r, err
	}
	id, err := e.State.NextRefresh()
	r.ID = id
	return r, err
}

// describe fills in the fields that the request leaves open, and refuses an impossible
// request. It only reads.
func (e *Engine) describe(r *plan.Refresh) error {
	r.Step = r.Kind.Plan()[0]
	rev, pkg, err := e.Links.Read(r.Instance)
	switch {
	case r.Kind == plan.Install && err == nil:
		return errkind.New(errkind.Exists, "cannot install %s: it is installed already", r.Instance).
			WithHint("lull refresh %s checks for a newer version", r.Instance)
	case !errkind.Is(err, errkind.NotFound) && err != nil:
		failed := errkind.New(errkind.KindOf(err), "cannot %s %s: %w", r.Kind, r.Instance, err)
		failed.Hint = errkind.HintOf(err)
		return failed
	case r.Kind == plan.Install:
		old, err := e.State.Instance(r.Instance)
		if err == nil {
			r.DataFrom = old.Left
		} else if errkind.Is(err, errkind.NotFound) {
			err = nil
		}
		if r.DataFrom == 0 {
			// The data is of an earlier installation without a record: state.db and the links
			// were lost, or only the data was kept.
			r.DataFrom = e.highestData(r.Instance)
		}
		return err
	case err != nil:
		return errkind.New(errkind.NotFound, "cannot %s %s: it is not installed", r.Kind, r.Instance)
	case r.Kind == plan.Update && pkg == r.Package:
		// The caller checked before another refresh to the same package ended.
		return errkind.New(errkind.Exists, "cannot refresh %s: version %s is in use already", r.Instance, r.ToVersion)
	}
	inst, err := e.State.Instance(r.Instance)
	if err != nil {
		return err
	}
	from, _ := inst.Revision(rev)
	r.From, r.DataFrom, r.FromVersion = rev, rev, from.Version
	if l, err := e.Store.Launch(pkg); err == nil { // else it is not resident, and none of it runs from the store
		r.Wishes = l.Refresh
	}
	r.Repository, r.Channel = inst.Repository, inst.Channel
	if r.Kind != plan.Revert {
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
				return v, errkind.New(errkind.Exists, "cannot revert %s to revision %d: it is in use", inst.Instance, want)
			}
			return v, nil
		}
	}
	if want == 0 {
		return state.Revision{}, errkind.New(errkind.NotFound, "cannot revert %s: no earlier revision is kept", inst.Instance).
			WithHint("keep-revisions in the policy says how many are kept")
	}
	return state.Revision{}, errkind.New(errkind.NotFound, "cannot revert %s: revision %d is not kept", inst.Instance, want)
}

// newTaskLocked makes the task of a record; goLocked starts it.
func (e *Engine) newTaskLocked(r plan.Refresh) *task {
	t := &task{e: e, id: r.ID, instance: r.Instance, group: e.groups[r.Group], r: r, persisted: r, published: r,
		letters: make(chan letter, 4), wake: make(chan struct{}, 1), done: make(chan struct{})}
	e.tasks[r.ID] = t
	return t
}

func (e *Engine) goLocked(t *task, ev plan.Event) {
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

// retire moves an ended task to the history.
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

// Wake makes the parked refreshes of an instance recheck; "" means all instances.
func (e *Engine) Wake(instance string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, t := range e.tasks {
		if instance == "" || t.instance == instance {
			t.nudge()
		}
	}
}

// All returns the refreshes under way and the last ended ones, oldest first.
func (e *Engine) All() []plan.Refresh {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := slices.Clone(e.last)
	for _, t := range e.tasks {
		list = append(list, t.snapshot())
	}
	slices.SortFunc(list, func(a, b plan.Refresh) int { return number(a.ID) - number(b.ID) })
	return list
}

func number(id string) int { n, _ := strconv.Atoi(id); return n }

// UnderWay reports whether any refresh has not ended.
func (e *Engine) UnderWay() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.tasks) > 0
}

// Of returns the refresh under way for an instance.
func (e *Engine) Of(instance string) (plan.Refresh, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if t := e.taskOf(instance); t != nil {
		return t.snapshot(), true
	}
	return plan.Refresh{}, false
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

// Stop ends the refreshes that can be resumed later, lets critical sections finish, and
// waits.
func (e *Engine) Stop() {
	e.mu.Lock()
	e.cancel()
	e.mu.Unlock()
	e.wg.Wait()
}
