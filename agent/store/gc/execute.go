package gc

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/faultpoint"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/index"
)

// batch is how many blobs are taken away under one hold of the store's lock:
// some tens of microseconds.
const batch = 4

// fullBelow is the free space in bytes below which the reserve is given up.
const fullBelow = 4 << 20

// Options of a collection.
type Options struct {
	// Free stops the collection when this many bytes have been removed; 0
	// means all. Blobs that cost least to re-fetch go first.
	Free int64
}

// Result is what a collection has taken away.
type Result struct {
	Blobs, Packages int
	Bytes           int64
	Strays          int          // processes that use what no index protects, as Collect saw them
	StrayUses       []index.Root // the packages that they keep
	Unread          []Unread     // processes whose files Collect could not read
}

var errStale = errors.New("the roots have changed")

// Execute takes away what the plan lists, but for what the indices have come
// to protect since. With unchanged indices it takes away exactly the plan.
// Interrupted, it returns what it has done with an error of kind Interrupted.
func Execute(ctx context.Context, s *store.Store, ix *index.Indices, plan *Plan, opts Options) (Result, error) {
	if len(plan.Doubts) > 0 {
		return Result{}, doubtful(plan.Doubts)
	}
	x := &execution{ctx: ctx, s: s, plan: plan, opts: opts, guard: newGuard(s, ix, plan)}
	return x.run()
}

// Collect makes a plan from all roots and executes it.
func Collect(ctx context.Context, s *store.Store, ix *index.Indices, opts Options) (Result, error) {
	plan, err := MakePlan(ctx, s, ix.Snapshot())
	if err != nil {
		return Result{}, err
	}
	result, err := Execute(ctx, s, ix, plan, opts)
	result.Strays, result.StrayUses, result.Unread = plan.processes(), plan.Strays, plan.Unread
	return result, err
}

// guard decides which victims of the plan must stay.
type guard struct {
	s          *store.Store
	ix         *index.Indices
	graph      *graph
	generation uint64
	known      map[digest.Digest]bool // marked, and their wants are spared
	spared     map[store.Key]struct{} // needed by what was marked after the plan
	waiting    map[digest.Digest]bool // trees that the plan takes and we have not come to
	planned    map[digest.Digest]bool // trees of the plan
}

func newGuard(s *store.Store, ix *index.Indices, plan *Plan) *guard {
	g := &guard{
		s: s, ix: ix, known: map[digest.Digest]bool{}, spared: map[store.Key]struct{}{},
		waiting: map[digest.Digest]bool{}, planned: maps.Clone(plan.graph.trees),
	}
	g.graph = &graph{s: s, trees: plan.graph.trees, nodes: map[digest.Digest]*node{}}
	for pkg, ok := range plan.known {
		if ok {
			g.known[pkg] = true
			g.graph.nodes[pkg] = plan.graph.nodes[pkg]
		}
	}
	for _, pkg := range plan.Trees {
		g.waiting[pkg] = true
	}
	return g
}

// come notes that the turn of a tree has come; if it is there after that, it
// is a new one, or one that has become protected.
func (g *guard) come(pkg digest.Digest) {
	delete(g.waiting, pkg)
	delete(g.planned, pkg)
}

// look re-marks from the present roots.
func (g *guard) look(ctx context.Context) error {
	roots, generation := g.ix.SnapshotAt()
	fresh, err := g.freshTrees()
	if err != nil {
		return err
	}
	roots = append(roots, fresh...)
	// Missing or unreadable packages may have arrived meanwhile.
	for pkg, n := range g.graph.nodes {
		if n.absent || n.doubt != nil {
			delete(g.graph.nodes, pkg)
		}
	}
	if err := g.graph.load(ctx, packages(roots)); err != nil {
		return err
	}
	marked, doubts := g.graph.mark(roots)
	if len(doubts) > 0 {
		return doubtful(doubts)
	}
	for pkg := range marked {
		n := g.graph.nodes[pkg]
		if g.known[pkg] || n.absent || n.doubt != nil {
			continue
		}
		for _, w := range n.wants {
			g.spared[w.Key] = struct{}{}
		}
		n.wants = nil
		g.known[pkg] = true
	}
	g.generation = generation
	return nil
}

// freshTrees are those that have been built since the plan, or rebuilt since
// this collection removed them. They may be unneeded, but a tree that exists
// has its blobs: they go with the next plan.
func (g *guard) freshTrees() ([]index.Root, error) {
	list, err := g.s.Trees()
	if err != nil {
		return nil, err
	}
	var roots []index.Root
	for _, pkg := range list {
		if !g.planned[pkg] && !g.waiting[pkg] {
			// As if it were still being written, which raises no doubts.
			roots = append(roots, index.Root{Index: index.WritingIndex, Package: pkg})
		}
	}
	return roots, nil
}

// may is asked under the store's lock.
func (g *guard) may(k store.Key) (bool, error) {
	protected, stale := g.ix.Check(g.generation, k)
	if stale {
		return false, errStale
	}
	_, spared := g.spared[k]
	return !protected && !spared, nil
}

// mayTree is asked under the store's lock.
func (g *guard) mayTree(pkg digest.Digest) (bool, error) {
	ok, err := g.may(store.MetaKey(pkg))
	return ok && !g.known[pkg], err
}

// mayPartial needs no lock: at worst something is re-fetched.
func (g *guard) mayPartial(pkg digest.Digest) bool {
	return g.s.HasPackage(pkg) || !g.known[pkg] && !g.ix.Protects(store.MetaKey(pkg))
}

type execution struct {
	ctx   context.Context
	s     *store.Store
	plan  *Plan
	opts  Options
	guard *guard
	taken int64 // bytes

	waste  chan waste
	mu     sync.Mutex // guards what follows
	result Result
	failed error
}

// waste is content of the trash that can be deleted: loose blobs, or a tree
// with its blobs.
type waste struct {
	tree    *store.TakenTree
	victims map[store.Key]int64 // sizes
}

func (x *execution) run() (Result, error) {
	if space, err := x.s.Space(); err == nil && (space.Free < fullBelow || space.Files >= 0 && space.Files < 64) {
		if _, err := x.s.ReleaseReserve(); err != nil {
			return Result{}, err
		}
	}
	// A channel with room: taking away does not wait for deleting.
	x.waste = make(chan waste, 256)
	var deleting sync.WaitGroup
	for range 2 {
		deleting.Go(x.delete)
	}
	err := x.takeAll()
	close(x.waste)
	deleting.Wait()
	err = errors.Join(err, x.failed, x.s.RestoreReserve())
	var known *errkind.Error
	switch {
	case err == nil:
		return x.result, nil
	case x.ctx.Err() != nil:
		return x.result, errkind.New(errkind.Interrupted, "cannot finish the collection: %w", x.ctx.Err())
	case errors.As(err, &known):
		return x.result, err
	}
	return x.result, errkind.New(errkind.KindOf(err), "cannot finish the collection: %w", err)
}

func (x *execution) takeAll() error {
	if err := x.guard.look(x.ctx); err != nil {
		return err
	}
	for _, p := range x.plan.Partials {
		if x.enough() {
			return nil
		}
		if !x.guard.mayPartial(p.Package) {
			continue
		}
		if err := x.s.DropIngest(p.Package); err != nil {
			return err
		}
		x.taken += p.Bytes
		x.mu.Lock()
		x.result.Bytes += p.Bytes
		x.mu.Unlock()
	}
	for _, st := range x.plan.steps {
		if x.enough() {
			return nil
		}
		if err := x.step(st); err != nil {
			return err
		}
	}
	return nil
}

func (x *execution) enough() bool { return x.opts.Free > 0 && x.taken >= x.opts.Free }

func (x *execution) step(st step) error {
	w := waste{victims: map[store.Key]int64{}}
	if !st.tree.IsZero() {
		err := x.fresh(func() (err error) {
			w.tree, err = x.s.TakeTree(st.tree, func() (bool, error) { return x.guard.mayTree(st.tree) })
			return err
		})
		if err != nil {
			return err
		}
		x.guard.come(st.tree)
	}
	if w.tree != nil {
		// Behind its blobs: as long as the tree is there, they are.
		defer func() { x.waste <- w }()
	}
	if err := faultpoint.Hit("gc.tree"); err != nil {
		return err
	}
	for lot := range slices.Chunk(x.plan.Blobs[st.from:st.to], batch) {
		// Blobs of a package go together: half a package is of no use.
		if st.tree.IsZero() && x.enough() {
			return nil
		}
		if err := x.lot(lot, w); err != nil {
			return err
		}
		if err := faultpoint.Hit("gc.batch"); err != nil {
			return err
		}
	}
	return nil
}

// lot removes a batch. Blobs that stay in the tree are added to w.
func (x *execution) lot(lot []Victim, w waste) error {
	keys := make([]store.Key, len(lot))
	size := make(map[store.Key]int64, len(lot))
	for i, v := range lot {
		keys[i] = v.Key
		size[v.Key] = v.Size
	}
	return x.fresh(func() error {
		taken, inTree, err := x.s.Trash(keys, w.tree, x.guard.may)
		loose := waste{victims: map[store.Key]int64{}}
		for _, k := range taken {
			loose.victims[k] = size[k]
			x.taken += size[k]
		}
		for _, k := range inTree {
			w.victims[k] = size[k]
			x.taken += size[k]
		}
		if len(taken) > 0 {
			x.waste <- loose
		}
		return err
	})
}

// fresh repeats an action that errStale interrupts, as often as roots change.
func (x *execution) fresh(do func() error) error {
	for {
		if err := x.ctx.Err(); err != nil {
			return err
		}
		err := do()
		if !errors.Is(err, errStale) {
			return err
		}
		if err := x.guard.look(x.ctx); err != nil {
			return err
		}
	}
}

// delete empties the trash until there is no more waste.
func (x *execution) delete() {
	for w := range x.waste {
		var deleted []store.Key
		var err error
		if w.tree != nil {
			deleted, err = x.s.DiscardTree(w.tree)
		} else {
			deleted, err = x.s.Purge(slices.Collect(maps.Keys(w.victims)))
		}
		x.mu.Lock()
		x.failed = errors.Join(x.failed, err)
		if w.tree != nil {
			x.result.Packages++
		}
		x.result.Blobs += len(deleted)
		for _, k := range deleted {
			x.result.Bytes += w.victims[k]
		}
		x.mu.Unlock()
	}
}
