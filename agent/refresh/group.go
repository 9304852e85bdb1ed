package refresh

import (
	"context"
	"slices"
	"sync"

	"github.com/lull/lull/agent/faultpoint"
	"github.com/lull/lull/agent/problem"
	"github.com/lull/lull/agent/state"
)

// group is what the members of an atomic refresh share: all of them change, or
// none does. They wait for each other in three places:
//
//   - wait is passed only when every member is prepared and may go on;
//   - gather, behind the shut doors, is passed when all doors are shut; if one
//     member finds its instance busy, the others open theirs and wait with it;
//   - commit, when all are healthy. Its one write to the journal is the commit
//     point of the group: before it all links go back, after it none does.
//
// Members are tasks of their own; each calls in from its own goroutine.
type group struct {
	id    string
	db    *state.DB
	tasks func(ids []string) []*task // those of the members that have not ended

	mu      sync.Mutex // guards what follows
	record  groupRecord
	ready   map[string]bool // by refresh: nothing stands in its way
	at      map[string]Step // by refresh: Gather or Commit, where it waits
	entered bool            // all doors are shut
	stopped bool            // a member's task has ended before its time: the agent stops
	ended   map[string]bool
	changed chan struct{} // closed at each change, and replaced
}

// groupRecord is what survives of a group.
type groupRecord struct {
	ID        string            `json:"id"`
	Members   map[string]string `json:"members"` // refresh → instance
	Committed bool              `json:"committed,omitempty"`
	Failure   string            `json:"failure,omitempty"` // why none of them goes on: "notes could not …"
}

func newGroup(db *state.DB, rec groupRecord, tasks func([]string) []*task) *group {
	return &group{id: rec.ID, db: db, record: rec, tasks: tasks,
		ready: map[string]bool{}, at: map[string]Step{}, ended: map[string]bool{}, changed: make(chan struct{})}
}

// others are the instances beside one.
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

// pokeOthers has the parked members look again.
func (g *group) pokeOthers(id string) {
	var ids []string
	for m := range g.record.Members { // never changes
		if m != id {
			ids = append(ids, m)
		}
	}
	for _, t := range g.tasks(ids) {
		t.poke()
	}
}

// failureLocked is the error of a member whose group has failed.
func (g *group) failureLocked(t *task) error {
	if g.record.Failure == "" {
		return nil
	}
	return problem.New(problem.Interrupted, "cannot refresh %s: it goes together with %s, and %s", t.instance,
		join(g.record.others(t.id)), g.record.Failure)
}

func join(names []string) (s string) {
	for i, n := range names {
		switch {
		case i > 0 && i == len(names)-1:
			s += " and "
		case i > 0:
			s += ", "
		}
		s += n
	}
	return s
}

// gate is the end of a member's wait step: alone is what stands in its own way.
func (g *group) gate(t *task, alone error) error {
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
		return &busyError{} // whoever completes the group wakes the rest
	}
	return alone
}

func (g *group) allReadyLocked() bool {
	for m := range g.record.Members {
		if !g.ready[m] {
			return false
		}
	}
	return true
}

// committed says whether the commit point has been passed.
func (g *group) committed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.record.Committed
}

// stop says that the task of a member is over. If that has not reached its end the
// agent is stopping, and nobody may wait for it.
func (g *group) stop(t *task) {
	g.leave(t)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stopped = g.stopped || !g.ended[t.id]
	g.noteLocked()
}

// leave says that a member is not ready any more.
func (g *group) leave(t *task) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ready[t.id] = false
	delete(g.at, t.id)
	g.noteLocked()
}

// meet waits at gather or commit for the other members. All of them come there,
// or say that they do not, in bounded time.
func (g *group) meet(ctx context.Context, t *task, where Step) error {
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

func (g *group) passLocked(t *task, where Step) (bool, error) {
	if where == Commit && g.record.Committed || where == Gather && g.entered {
		return true, nil
	}
	if err := g.failureLocked(t); err != nil {
		return false, err
	}
	if g.stopped {
		return false, errStopping
	}
	if where == Gather && !g.allReadyLocked() {
		delete(g.at, t.id)
		return false, &busyError{}
	}
	for m := range g.record.Members {
		if g.at[m] != where {
			return false, nil
		}
	}
	if where == Gather {
		g.entered = true
	} else {
		rec := g.record
		rec.Committed = true
		if err := g.db.PutGroup(g.id, rec); err != nil {
			return false, err
		}
		g.record = rec
		_ = faultpoint.Hit("refresh.commit.written") // a place to die, not to fail: it is done
	}
	g.noteLocked()
	return true, nil
}

// fail ends the group because of one member. After the commit it is too late.
func (g *group) fail(t *task) {
	why := t.instance + " was given up"
	if t.r.Failure != nil && !t.r.Cancel {
		why = t.instance + " could not be refreshed"
	}
	g.mu.Lock()
	if g.record.Committed || g.record.Failure != "" {
		g.mu.Unlock()
		return
	}
	g.record.Failure = why
	if err := g.db.PutGroup(g.id, g.record); err != nil {
		// The member's own journal says that it goes back, which says the same to the next agent.
		t.e.Log.Error("cannot note that a group of refreshes has failed", "refresh", t.id, "error", err)
	}
	g.noteLocked()
	g.mu.Unlock()
	g.pokeOthers(t.id)
}

// end counts a member out and says whether it was the last.
func (g *group) end(t *task) (last bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ended[t.id] = true
	return len(g.ended) == len(g.record.Members)
}

func doGather(ctx context.Context, t *task) error { return t.group.meet(ctx, t, Gather) }

func doCommit(ctx context.Context, t *task) error { return t.group.meet(ctx, t, Commit) }

// SubmitTogether starts refreshes of which all or none is to happen, or joins a
// group under way that does the same.
func (e *Engine) SubmitTogether(ctx context.Context, requests []Request) ([]Refresh, error) {
	if same := e.sameGroup(requests); same != nil {
		return same, nil
	}
	for _, q := range requests {
		e.mu.Lock()
		old := e.taskOf(q.Instance)
		e.mu.Unlock()
		if old != nil {
			if err := e.giveUp(ctx, old, q); err != nil {
				return nil, err
			}
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ctx.Err() != nil {
		return nil, problem.New(problem.Unavailable, "cannot refresh %s: the agent is stopping", requests[0].Instance)
	}
	rec := groupRecord{Members: map[string]string{}}
	var list []Refresh
	for _, q := range requests {
		if e.taskOf(q.Instance) != nil {
			return nil, problem.New(problem.Busy, "cannot refresh %s together with others: something else has just been started for it", q.Instance)
		}
		r, err := e.newRecordLocked(q)
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
	e.groups[rec.ID] = newGroup(e.State, rec, e.running)
	var tasks []*task
	for _, r := range list {
		r.Group, r.Together = rec.ID, rec.others(r.ID)
		tasks = append(tasks, e.newTaskLocked(r))
	}
	for i, t := range tasks { // each finds all others
		e.goLocked(t, Event{Type: Started})
		list[i] = t.snapshot()
	}
	return list, nil
}

// sameGroup returns the members of a group under way that does what is asked for.
func (e *Engine) sameGroup(requests []Request) (list []Refresh) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, q := range requests {
		t := e.taskOf(q.Instance)
		if t == nil || t.group == nil || len(t.group.record.Members) != len(requests) {
			return nil
		}
		r := t.snapshot()
		if s := r.State(); r.Package != q.Package || s == Undoing || len(list) > 0 && list[0].Group != r.Group {
			return nil
		}
		list = append(list, r)
	}
	return list
}

// running are the tasks of some refreshes.
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

// resumeGroups makes the groups that an earlier agent has left. A member whose
// group is not known any more goes on by itself. One that has already turned
// back, or has ended without the commit, takes the others with it.
func (e *Engine) resumeGroups(records []Refresh) error {
	groups, err := state.Groups[groupRecord](e.State, func(id string, err error) {
		e.Log.Error("dropping a group of refreshes whose journal cannot be read", "refresh", id, "error", err)
	})
	if err != nil {
		return err
	}
	for _, rec := range groups {
		members := slices.DeleteFunc(slices.Clone(records), func(r Refresh) bool { return r.Group != rec.ID })
		if len(members) == 0 {
			if err := e.State.RemoveGroup(rec.ID); err != nil {
				return err
			}
			continue
		}
		for _, r := range members {
			if r.Undo && !r.Again { // also after a commit of which the disk said that it failed
				rec.Failure, rec.Committed = r.Instance+" could not be refreshed", false
			}
		}
		if !rec.Committed && rec.Failure == "" && len(members) < len(rec.Members) {
			rec.Failure = "one of them had been given up"
		}
		g := newGroup(e.State, rec, e.running)
		for m := range rec.Members {
			if !slices.ContainsFunc(members, func(r Refresh) bool { return r.ID == m }) {
				g.ended[m] = true
			}
		}
		e.groups[rec.ID] = g
	}
	for i := range records {
		if r := &records[i]; r.Group != "" && e.groups[r.Group] == nil {
			e.Log.Error("a refresh goes on without its group, of which nothing is known", "refresh", r.ID, "instance", r.Instance)
			r.Group, r.Together = "", nil
		}
	}
	return nil
}

// committed says whether the group of a record has passed its commit point.
func (e *Engine) committed(r *Refresh) bool {
	g := e.groups[r.Group]
	return g != nil && g.committed()
}
