package refresh

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/faultpoint"
	"github.com/lull/lull/agent/lib/printable"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/state"
)

// group is the shared state of the members of an atomic refresh: either all of them change,
// or none does. They wait for each other in three places:
//
//   - wait is passed only when every member is prepared and may go on;
//   - gather is passed when all members have inhibited launches; if one member finds its
//     instance busy, the others allow launches and wait with it;
//   - commit is passed when all are healthy. Its one write to the journal is the commit
//     point of the group: a failure before it reverts all links, a failure after it none.
//
// Members are tasks of their own; each calls from its own goroutine.
type group struct {
	id      string
	db      *state.DB
	members map[string]string          // refresh → instance; never changes
	tasks   func(ids []string) []*task // those of the members that have not ended

	mu      sync.Mutex // guards the fields below; held for memory access only
	record  groupRecord
	writing bool                 // the record is being written; it does not change meanwhile
	ready   map[string]bool      // by refresh: nothing blocks it
	at      map[string]plan.Step // by refresh: Gather or Commit, where it waits
	entered bool                 // launches of all members are inhibited
	stopped bool                 // a member's task has ended prematurely: the agent stops
	ended   map[string]bool
	changed chan struct{} // closed at each change, and replaced
}

// groupRecord is the part of a group that is in the journal.
type groupRecord struct {
	ID        string            `json:"id"`
	Members   map[string]string `json:"members"` // refresh → instance
	Committed bool              `json:"committed,omitempty"`
	Failure   string            `json:"failure,omitempty"` // why none of them goes on: "notes could not …"
}

func newGroup(db *state.DB, rec groupRecord, tasks func([]string) []*task) *group {
	return &group{id: rec.ID, db: db, members: maps.Clone(rec.Members), record: rec, tasks: tasks,
		ready: map[string]bool{}, at: map[string]plan.Step{}, ended: map[string]bool{}, changed: make(chan struct{})}
}

// others returns the instances of the other members.
func (rec *groupRecord) others(id string) (list []string) {
	for m, instance := range rec.Members {
		if m != id {
			list = append(list, instance)
		}
	}
	slices.Sort(list)
	return list
}

func (g *group) noteLocked() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// pokeOthers makes the other parked members recheck.
func (g *group) pokeOthers(id string) {
	var ids []string
	for m := range g.members {
		if m != id {
			ids = append(ids, m)
		}
	}
	for _, t := range g.tasks(ids) {
		t.nudge()
	}
}

// failureLocked returns the error of a member whose group has failed.
func (g *group) failureLocked(t *task) error {
	if g.record.Failure == "" {
		return nil
	}
	return errkind.New(errkind.Interrupted, "cannot refresh %s: it goes together with %s, and %s", t.instance,
		printable.List(g.record.others(t.id), "and"), g.record.Failure)
}

// reportReady ends a member's wait step; alone is why this member itself cannot go on.
func (g *group) reportReady(t *task, alone error) error {
	g.mu.Lock()
	if err := g.failureLocked(t); err != nil {
		g.mu.Unlock()
		return err
	}
	was := g.allReadyLocked()
	g.ready[t.id] = alone == nil
	all := g.allReadyLocked()
	g.noteLocked()
	g.mu.Unlock()
	if all && !was {
		g.pokeOthers(t.id)
	}
	if alone == nil && !all {
		return &busyError{} // the member that completes the group wakes the rest
	}
	return alone
}

func (g *group) allReadyLocked() bool {
	for m := range g.members {
		if !g.ready[m] {
			return false
		}
	}
	return true
}

// committed reports whether the commit point has been passed.
func (g *group) committed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.record.Committed
}

// stop records that the task of a member has ended. If it has not reached its final state,
// the agent is stopping, and no member may wait for it.
func (g *group) stop(t *task) {
	g.withdraw(t)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stopped = g.stopped || !g.ended[t.id]
	g.noteLocked()
}

// withdraw records that a member is not ready any more.
func (g *group) withdraw(t *task) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ready[t.id] = false
	delete(g.at, t.id)
	g.noteLocked()
}

// rendezvous waits at gather or commit for the other members. Each of them arrives there, or
// reports that it will not, in bounded time.
func (g *group) rendezvous(ctx context.Context, t *task, where plan.Step) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.at[t.id] = where
	g.noteLocked()
	for {
		if passed, err := g.passLocked(t, where); passed || err != nil {
			return err
		}
		changed := g.changed
		g.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		g.mu.Lock()
		if err := context.Cause(ctx); err != nil {
			return err
		}
	}
}

func (g *group) passLocked(t *task, where plan.Step) (bool, error) {
	if where == plan.Commit && g.record.Committed || where == plan.Gather && g.entered {
		return true, nil
	}
	if err := g.failureLocked(t); err != nil {
		return false, err
	}
	if g.stopped {
		return false, errStopping
	}
	if where == plan.Gather && !g.allReadyLocked() {
		delete(g.at, t.id)
		return false, &busyError{}
	}
	for m := range g.members {
		if g.at[m] != where {
			return false, nil
		}
	}
	if where == plan.Gather {
		g.entered = true
	} else {
		if g.writing {
			return false, nil // another member commits for all
		}
		if err := g.writeLocked(func(rec *groupRecord) { rec.Committed = true }); err != nil {
			g.record.Failure = t.instance + " could not be refreshed" // no other member retries
			return false, err
		}
	}
	g.noteLocked()
	return true, nil
}

// writeLocked changes the record, in the journal first. It releases the lock while it writes;
// the caller has checked that no other write is under way.
func (g *group) writeLocked(change func(*groupRecord)) error {
	rec := g.record
	change(&rec)
	g.writing = true
	g.mu.Unlock()
	err := g.db.PutGroup(g.id, rec)
	if err == nil && rec.Committed {
		_ = faultpoint.Hit("refresh.commit.written") // a place to crash, not to fail: it is done
	}
	g.mu.Lock()
	g.writing = false
	if err == nil {
		g.record = rec
	}
	g.noteLocked()
	return err
}

// fail ends the group because of one member. After the commit it is too late.
func (g *group) fail(t *task) {
	why := t.instance + " was given up"
	if t.r.Failure != nil && !t.r.Cancel {
		why = t.instance + " could not be refreshed"
	}
	g.mu.Lock()
	for g.writing {
		changed := g.changed
		g.mu.Unlock()
		<-changed
		g.mu.Lock()
	}
	if g.record.Committed || g.record.Failure != "" {
		g.mu.Unlock()
		return
	}
	err := g.writeLocked(func(rec *groupRecord) { rec.Failure = why })
	g.record.Failure = why
	g.noteLocked()
	g.mu.Unlock()
	if err != nil {
		// The member's own record shows that it is undone, and the next agent concludes the
		// same from it.
		t.e.Log.Error("cannot note that a group of refreshes has failed", "refresh", t.id, "error", err)
	}
	g.pokeOthers(t.id)
}

// end marks a member as ended and reports whether it was the last.
func (g *group) end(t *task) (last bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ended[t.id] = true
	return len(g.ended) == len(g.members)
}

func doGather(ctx context.Context, t *task) error { return t.group.rendezvous(ctx, t, plan.Gather) }

func doCommit(ctx context.Context, t *task) error { return t.group.rendezvous(ctx, t, plan.Commit) }

// SubmitTogether starts an atomic group of refreshes: all of them take effect, or none. It
// joins a group under way that does the same. Other refreshes of the instances are given up
// only when all requests are feasible.
func (e *Engine) SubmitTogether(ctx context.Context, requests []Request) ([]plan.Refresh, error) {
	names := make([]string, len(requests))
	for i, q := range requests {
		requests[i].asker = asker(ctx)
		names[i] = q.Instance
	}
	for {
		if same := e.sameGroup(requests); same != nil {
			return same, nil
		}
		old, release, err := e.claim(ctx, names...)
		if err != nil {
			return nil, fmt.Errorf("cannot refresh %s: %w", printable.List(names, "and"), err)
		}
		if old == nil {
			defer release()
			return e.beginTogether(requests)
		}
		if err := e.mayReplaceAll(requests); err != nil {
			return nil, err
		}
		i := slices.Index(names, old.instance)
		if err := e.giveUp(ctx, old, requests[i]); err != nil {
			return nil, err
		}
	}
}

// mayReplaceAll returns why a group cannot be started in place of what is under way for its
// members, before any of that is given up.
func (e *Engine) mayReplaceAll(requests []Request) error {
	for _, q := range requests {
		e.mu.Lock()
		t := e.taskOf(q.Instance)
		e.mu.Unlock()
		if t == nil {
			r := q.record()
			if err := e.describe(&r); err != nil {
				return err
			}
			continue
		}
		r := t.snapshot()
		if err := e.mayReplace(&r, q); err != nil {
			return err
		}
		if err := mayGiveUp(&r, q); err != nil {
			return err
		}
	}
	return nil
}

// beginTogether starts a group. The caller has claimed its instances.
func (e *Engine) beginTogether(requests []Request) ([]plan.Refresh, error) {
	rec := groupRecord{Members: map[string]string{}}
	var list []plan.Refresh
	for _, q := range requests {
		r, err := e.newRecord(q)
		if err != nil {
			return nil, err
		}
		rec.Members[r.ID] = r.Instance
		list = append(list, r)
	}
	rec.ID = list[0].ID
	if err := e.State.PutGroup(rec.ID, rec); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ctx.Err() != nil {
		return nil, errkind.New(errkind.Unavailable, "cannot refresh %s: the agent is stopping", requests[0].Instance)
	}
	e.groups[rec.ID] = newGroup(e.State, rec, e.running)
	var tasks []*task
	for _, r := range list {
		r.Group, r.Together = rec.ID, rec.others(r.ID)
		tasks = append(tasks, e.newTaskLocked(r))
	}
	for i, t := range tasks { // each finds all others
		e.goLocked(t, plan.Event{Type: plan.Started})
		list[i] = t.snapshot()
	}
	return list, nil
}

// sameGroup returns the members of a group under way that does what is requested.
func (e *Engine) sameGroup(requests []Request) (list []plan.Refresh) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, q := range requests {
		t := e.taskOf(q.Instance)
		if t == nil || t.group == nil || len(t.group.members) != len(requests) {
			return nil
		}
		r := t.snapshot()
		if s := r.State(); r.Package != q.Package || s == plan.Undoing || len(list) > 0 && list[0].Group != r.Group {
			return nil
		}
		list = append(list, r)
	}
	return list
}

// running returns the tasks of some refreshes.
func (e *Engine) running(ids []string) (list []*task) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, id := range ids {
		if t := e.tasks[id]; t != nil {
			list = append(list, t)
		}
	}
	return list
}

// oldGroups restores the groups that an earlier agent has left. A member of an unknown group
// goes on by itself. A member that has already turned back, or has ended without the commit,
// makes the others turn back too.
func (e *Engine) oldGroups(records []plan.Refresh) (map[string]*group, error) {
	list, err := state.Groups[groupRecord](e.State, func(id string, err error) {
		e.Log.Error("dropping a group of refreshes whose journal cannot be read", "refresh", id, "error", err)
	})
	if err != nil {
		return nil, err
	}
	groups := map[string]*group{}
	for _, rec := range list {
		members := slices.DeleteFunc(slices.Clone(records), func(r plan.Refresh) bool { return r.Group != rec.ID })
		if len(members) == 0 {
			if err := e.State.RemoveGroup(rec.ID); err != nil {
				return nil, err
			}
			continue
		}
		for _, r := range members {
			if r.Undo && !r.Again { // also after a commit that the disk reported as failed
				rec.Failure, rec.Committed = r.Instance+" could not be refreshed", false
			}
		}
		if !rec.Committed && rec.Failure == "" && len(members) < len(rec.Members) {
			rec.Failure = "one of them had been given up"
		}
		g := newGroup(e.State, rec, e.running)
		for m := range rec.Members {
			if !slices.ContainsFunc(members, func(r plan.Refresh) bool { return r.ID == m }) {
				g.ended[m] = true
			}
		}
		groups[rec.ID] = g
	}
	for i := range records {
		if r := &records[i]; r.Group != "" && groups[r.Group] == nil {
			e.Log.Error("a refresh goes on without its group, of which nothing is known", "refresh", r.ID, "instance", r.Instance)
			r.Group, r.Together = "", nil
		}
	}
	return groups, nil
}
