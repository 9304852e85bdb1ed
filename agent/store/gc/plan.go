package gc

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/index"
)

// Victim is a blob to take away.
type Victim struct {
	Key  store.Key
	Size int64
}

// Partial is the remains of an inactive ingest, of a package that no index
// protects or that is resident.
type Partial struct {
	Package digest.Digest
	Bytes   int64
}

// Usage is what a resident package takes. Bytes are exclusive when no resident
// package needs them but this one and its own subpackages.
type Usage struct {
	Package           digest.Digest
	Name, Version     string
	Exclusive, Shared int64
	KeptBy            string // index, or "" if it is removed
}

// Plan is what a collection takes away.
type Plan struct {
	Blobs    []Victim        // in the order of their removal
	Trees    []digest.Digest // likewise
	Partials []Partial
	Bytes    int64 // of Blobs and Partials
	Packages []Usage
	Doubts   []string     // why nothing goes, though there may be victims
	Strays   []index.Root // processes that use what no index protects; it stays
	Unread   []Unread     // processes that cannot be read; see Strays

	steps []step
	graph *graph
	known map[digest.Digest]bool // marked, and their needs are spared
}

// step is a tree that goes, if it is not zero, and then the victims
// Blobs[from:to].
type step struct {
	tree     digest.Digest
	from, to int
}

// MakePlan marks from roots, and from processes that use what they do not
// reach, and lists what is left.
func MakePlan(ctx context.Context, s *store.Store, roots []index.Root) (*Plan, error) {
	p, err := makePlan(ctx, s, roots)
	if err != nil {
		return nil, errkind.New(errkind.KindOf(err), "cannot plan a collection: %w", err)
	}
	return p, nil
}

func makePlan(ctx context.Context, s *store.Store, roots []index.Root) (*Plan, error) {
	g, err := newGraph(s)
	if err != nil {
		return nil, err
	}
	pkgs := packages(roots)
	for pkg := range g.trees {
		pkgs = append(pkgs, pkg)
	}
	if err := g.load(ctx, pkgs); err != nil {
		return nil, err
	}
	marked, doubts := g.mark(roots)
	strays, unread, err := g.strays(ctx, marked)
	if err != nil {
		return nil, err
	}
	if len(strays) > 0 {
		roots = slices.Concat(roots, strays)
		marked, doubts = g.mark(roots)
	}
	c := newCensus(g, marked, roots)
	if err := c.count(ctx); err != nil {
		return nil, err
	}
	p := &Plan{Packages: c.usages(), Doubts: doubts, Strays: strays, Unread: unread, graph: g, known: map[digest.Digest]bool{}}
	for pkg := range marked {
		p.known[pkg] = g.nodes[pkg].doubt == nil && !g.nodes[pkg].absent
	}
	if len(doubts) == 0 {
		p.victims(c)
		if err := p.partials(s, marked); err != nil {
			return nil, err
		}
	}
	for _, n := range g.nodes {
		n.wants = nil // a plan may be kept for a while
	}
	return p, nil
}

// processes counts the strays; one may use several packages.
func (p *Plan) processes() int {
	pids := map[int]bool{}
	for _, r := range p.Strays {
		pids[r.PID] = true
	}
	return len(pids)
}

// strays finds processes that use victims.
func (g *graph) strays(ctx context.Context, marked map[digest.Digest]string) ([]index.Root, []Unread, error) {
	var dead []digest.Digest
	for pkg := range g.trees {
		if marked[pkg] == "" {
			dead = append(dead, pkg)
		}
	}
	if len(dead) == 0 {
		return nil, nil, nil
	}
	return Strays(ctx, g.s, dead)
}

// victims takes the census over, in order.
func (p *Plan) victims(c *census) {
	slices.SortFunc(c.victims, func(a, b victim) int {
		if a.turn != b.turn {
			return cmp.Compare(a.turn, b.turn)
		}
		return a.Key.Digest.Compare(b.Key.Digest)
	})
	p.Blobs = make([]Victim, len(c.victims))
	i := 0
	for turn := int32(0); turn <= int32(len(c.dead)); turn++ {
		st := step{from: i}
		if turn > 0 {
			if n := c.nodes[c.dead[turn-1]]; n.tree {
				st.tree = n.pkg
				p.Trees = append(p.Trees, n.pkg)
			}
		}
		for ; i < len(c.victims) && c.victims[i].turn == turn; i++ {
			p.Blobs[i] = c.victims[i].Victim
			p.Bytes += p.Blobs[i].Size
		}
		st.to = i
		if st.to > st.from || !st.tree.IsZero() {
			p.steps = append(p.steps, st)
		}
	}
}

func (p *Plan) partials(s *store.Store, marked map[digest.Digest]string) error {
	left, err := s.Ingests()
	if err != nil {
		return err
	}
	for pkg, bytes := range left {
		if marked[pkg] == "" || s.HasPackage(pkg) {
			p.Partials = append(p.Partials, Partial{pkg, bytes})
			p.Bytes += bytes
		}
	}
	slices.SortFunc(p.Partials, func(a, b Partial) int { return a.Package.Compare(b.Package) })
	return nil
}

// ref records that a package needs a blob. Those of one blob are chained.
type ref struct {
	store.Want
	node int32
	next int32 // index into the same bucket, -1 if none
}

type victim struct {
	Victim
	turn int32 // 0 if it belongs to nothing, i if it goes with dead[i-1]
}

// census counts who needs what, one bucket of digests (by first byte) at a
// time, so that a store of a million blobs needs one small map.
type census struct {
	s      *store.Store
	nodes  []*node
	marked []bool
	keptBy []string  // index
	turn   []int32   // of dead nodes
	dead   []int32   // nodes without mark, in the order of their removal
	reach  [][]int32 // closure of each node, sorted
	supers [][]int32 // nodes whose closure has it, sorted; itself among them

	buckets [store.FanOut][]ref

	mu        sync.Mutex // guards what follows
	victims   []victim
	exclusive []int64
	shared    []int64
}

// share attributes the bytes of one set of owners.
type share struct {
	node      int32
	exclusive bool
}

func newCensus(g *graph, marked map[digest.Digest]string, roots []index.Root) *census {
	c := &census{s: g.s}
	for _, n := range g.nodes {
		c.nodes = append(c.nodes, n)
	}
	slices.SortFunc(c.nodes, func(a, b *node) int { return a.pkg.Compare(b.pkg) })
	number := make(map[digest.Digest]int32, len(c.nodes))
	for i, n := range c.nodes {
		number[n.pkg] = int32(i)
	}
	count := len(c.nodes)
	c.marked = make([]bool, count)
	c.keptBy = make([]string, count)
	c.turn = make([]int32, count)
	c.reach = make([][]int32, count)
	c.supers = make([][]int32, count)
	c.exclusive = make([]int64, count)
	c.shared = make([]int64, count)
	for i, n := range c.nodes {
		c.keptBy[i] = marked[n.pkg]
		c.marked[i] = c.keptBy[i] != ""
		for _, pkg := range g.reach(n.pkg) {
			j := number[pkg]
			c.reach[i] = append(c.reach[i], j)
			if n.tree || c.marked[i] {
				c.supers[j] = append(c.supers[j], int32(i))
			}
		}
		slices.Sort(c.reach[i])
	}
	c.order()
	for i, n := range c.nodes {
		for _, w := range n.wants {
			c.add(w, int32(i))
		}
	}
	// A blob that a resolve has requested has no package yet.
	for _, r := range roots {
		for _, k := range r.Wanted() {
			c.add(store.Want{Key: k}, nobody)
		}
	}
	return c
}

// nobody represents a resolve among the owners of a blob.
const nobody = -1

func (c *census) add(w store.Want, n int32) {
	b := &c.buckets[w.Key.Digest[0]]
	*b = append(*b, ref{w, n, -1})
}

// order decides which dead package goes first: of those that no remaining dead
// package contains, the one that costs the fewest bytes to re-fetch.
func (c *census) order() {
	weight := make([]int64, len(c.nodes))
	containing := make([]int, len(c.nodes))
	for i := range c.nodes {
		for _, j := range c.reach[i] {
			weight[i] += c.nodes[j].bytes
			if int(j) != i && !c.marked[i] {
				containing[j]++
			}
		}
	}
	var ready []int32
	for i := range c.nodes {
		if !c.marked[i] && containing[i] == 0 {
			ready = append(ready, int32(i))
		}
	}
	for len(ready) > 0 {
		first := slices.MinFunc(ready, func(a, b int32) int { return cmp.Or(cmp.Compare(weight[a], weight[b]), cmp.Compare(a, b)) })
		ready = slices.DeleteFunc(ready, func(i int32) bool { return i == first })
		c.dead = append(c.dead, first)
		c.turn[first] = int32(len(c.dead))
		for _, j := range c.reach[first] {
			if containing[j]--; j != first && containing[j] == 0 && !c.marked[j] {
				ready = append(ready, j)
			}
		}
	}
}

// count goes through all resident blobs.
func (c *census) count(ctx context.Context) error {
	var work errgroup.Group
	parts := make(chan int)
	for range 2 {
		work.Go(func() error {
			t := tally{c: c, head: map[store.Key]int32{}, owners: map[string][]share{}, exclusive: make([]int64, len(c.nodes)), shared: make([]int64, len(c.nodes))}
			var err error
			for part := range parts {
				if err == nil {
					err = ctx.Err()
				}
				if err == nil {
					err = t.bucket(part)
				}
			}
			t.add()
			return err
		})
	}
	for part := range store.FanOut {
		parts <- part
	}
	close(parts)
	return work.Wait()
}

// tally is what one goroutine counts.
type tally struct {
	c                 *census
	head              map[store.Key]int32
	victims           []victim
	exclusive, shared []int64
	owners            map[string][]share
	set               []int32 // scratch
	signature         []byte  // scratch
}

func (t *tally) bucket(part int) error {
	refs := t.c.buckets[part]
	clear(t.head)
	for i := range refs {
		if first, ok := t.head[refs[i].Key]; ok {
			refs[i].next = first
		}
		t.head[refs[i].Key] = int32(i)
	}
	err := t.c.s.ScanBlobs(part, func(k store.Key) error {
		i, ok := t.head[k]
		if !ok {
			t.victim(k, -1, 0)
			return nil
		}
		kept, turn, size := false, int32(0), int64(-1)
		t.set = t.set[:0]
		for ; i >= 0; i = refs[i].next {
			n := refs[i].node
			if n == nobody {
				kept = true
				continue
			}
			size = refs[i].Size
			kept = kept || t.c.marked[n]
			turn = max(turn, t.c.turn[n])
			if !slices.Contains(t.set, n) {
				t.set = append(t.set, n)
			}
		}
		if !kept {
			t.victim(k, size, turn)
		}
		t.share(size)
		return nil
	}, nil)
	t.c.buckets[part] = nil
	return err
}

func (t *tally) victim(k store.Key, size int64, turn int32) {
	if size < 0 {
		var err error
		if size, err = t.c.s.Size(k); err != nil {
			return // just gone
		}
	}
	t.victims = append(t.victims, victim{Victim{k, size}, turn})
}

// share counts size for the owners in t.set.
func (t *tally) share(size int64) {
	if len(t.set) == 0 {
		return
	}
	slices.Sort(t.set)
	t.signature = t.signature[:0]
	for _, n := range t.set {
		t.signature = append(t.signature, byte(n), byte(n>>8), byte(n>>16), byte(n>>24))
	}
	list, ok := t.owners[string(t.signature)]
	if !ok {
		list = t.c.shares(t.set)
		t.owners[string(t.signature)] = list
	}
	for _, s := range list {
		if s.exclusive {
			t.exclusive[s.node] += size
		} else {
			t.shared[s.node] += size
		}
	}
}

// shares returns, for a blob that belongs to the packages in set, which
// packages need it, and which of them it would be removed with.
func (c *census) shares(set []int32) []share {
	var all []int32
	for _, n := range set {
		all = append(all, c.supers[n]...)
	}
	slices.Sort(all)
	all = slices.Compact(all)
	list := make([]share, len(all))
	for i, n := range all {
		list[i] = share{n, true}
		for _, other := range all {
			if _, ok := slices.BinarySearch(c.reach[n], other); !ok {
				list[i].exclusive = false
				break
			}
		}
	}
	return list
}

// add gives the tally to the census.
func (t *tally) add() {
	t.c.mu.Lock()
	defer t.c.mu.Unlock()
	t.c.victims = append(t.c.victims, t.victims...)
	for i := range t.exclusive {
		t.c.exclusive[i] += t.exclusive[i]
		t.c.shared[i] += t.shared[i]
	}
}

// usages lists the packages that are there, sorted by hash.
func (c *census) usages() []Usage {
	var list []Usage
	for i, n := range c.nodes {
		if n.absent {
			continue
		}
		list = append(list, Usage{Package: n.pkg, Name: n.name, Version: n.version, Exclusive: c.exclusive[i], Shared: c.shared[i], KeptBy: c.keptBy[i]})
	}
	return list
}
