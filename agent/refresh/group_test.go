package refresh

import (
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/state"
)

// TestGroupCommits makes the members of a group commit, or one of them fail, while other
// goroutines query the group: all get the same result. The race detector notices a read of
// the record during a change.
func TestGroupCommits(t *testing.T) {
	for _, fails := range []bool{false, true} {
		db, err := state.Open(filepath.Join(t.TempDir(), "state.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		e := NewEngine(World{State: db})
		g := newGroup(db, groupRecord{ID: "1", Members: map[string]string{"1": "a", "2": "b", "3": "c"}}, e.running)
		for id, instance := range g.members {
			e.tasks[id] = &task{e: e, id: id, instance: instance, group: g, r: plan.Refresh{ID: id, Failure: &plan.Failure{Text: "cannot"}},
				wake: make(chan struct{}, 1), published: plan.Refresh{ID: id, Instance: instance, Group: "1", Kind: plan.Update}}
		}
		if fails {
			if err := db.Close(); err != nil { // so that the commit cannot be written
				t.Fatal(err)
			}
		}
		var wg sync.WaitGroup
		var passed atomic.Int32
		for _, k := range e.tasks {
			wg.Go(func() {
				if g.rendezvous(t.Context(), k, plan.Commit) == nil {
					passed.Add(1)
				}
			})
			wg.Go(func() { e.sameGroup([]Request{{Instance: "a"}, {Instance: "b"}, {Instance: "c"}}) })
			wg.Go(func() { g.pokeOthers(k.id) })
		}
		wg.Wait()
		if want := map[bool]int32{false: 3, true: 0}[fails]; passed.Load() != want || g.committed() == fails {
			t.Errorf("with a journal that fails %v: got %d members passed and committed %v, want %d and %v", fails, passed.Load(), g.committed(), want, !fails)
		}
	}
}
