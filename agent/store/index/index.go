// Package index keeps the indices: which packages are protected from
// collection, by which holder, and why.
//
// Words: a Root is one package held by one index for one holder. base, cache,
// retained and installed are set as a whole by their owners, who keep them on
// disk. writing holds what is being resolved; an entry begins before anything
// is looked up in the store and lists every key that is wanted. open holds
// leases of clients and, through providers, runs. A lease lives as long as its
// holder keeps it; nothing here is written to disk. recent is apart from these
// six: packages that were open a while ago and may be needed soon. It is a convenience
// that gives way to any need for space (Evict), and ends with the agent.
//
// This order makes collection safe without a pause: a component that needs a
// package or blob registers it here first and asks the store second; the
// collector,
// under the store's lock, asks here (Check) and takes away second.
//
// Concurrency: Indices is safe for concurrent use. One mutex guards it and is
// never held while a provider or an OnChange function runs; these may call
// back. Check takes that mutex for a moment and never blocks on anything else.
package index

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/store"
)

// The names of the indices, in their order in lists.
const (
	BaseIndex      = "base"
	CacheIndex     = "cache"
	RetainedIndex  = "retained"
	InstalledIndex = "installed"
	WritingIndex   = "writing"
	OpenIndex      = "open"
	RecentIndex    = "recent"
)

// Names lists the indices.
var Names = [...]string{BaseIndex, CacheIndex, RetainedIndex, InstalledIndex, WritingIndex, OpenIndex, RecentIndex}

// Root is a package that an index holds.
type Root struct {
	Index   string
	Package digest.Digest
	Holder  string // instance, client, run or resolve; what people can make sense of
	PID     int    // of the client or a process of the run, else 0

	writing *Writing
}

// Wanted lists the keys that a root of the writing index has registered, in no
// order; nil for the others.
func (r Root) Wanted() []store.Key {
	if r.writing == nil {
		return nil
	}
	r.writing.ix.mu.Lock()
	defer r.writing.ix.mu.Unlock()
	return slices.Concat(r.writing.wanted...)
}

// Wants reports whether a root of the writing index has registered the key.
func (r Root) Wants(k store.Key) bool {
	if r.writing == nil {
		return false
	}
	r.writing.ix.mu.Lock()
	defer r.writing.ix.mu.Unlock()
	return r.writing.wantsLocked(k)
}

// Indices is the union of all roots.
type Indices struct {
	mu         sync.Mutex
	generation uint64                // grows with what may make a mark stale; see Check
	set        map[string][]Root     // base, cache, retained, installed
	rooted     map[digest.Digest]int // by them
	writing    map[*Writing]struct{}
	leases     map[*Lease]struct{}
	held       map[digest.Digest]int       // by writing and leases: their own hash
	recent     map[digest.Digest]time.Time // since when it is not open any more
	keepRecent time.Duration
	providers  []func() []Root
	leaving    sync.Mutex             // one Left at a time; taken before mu
	provided   map[digest.Digest]bool // by providers, when Left was asked last
	left       uint64                 // see Left
	onChange   []func(string)
}

// New returns empty indices.
func New() *Indices {
	return &Indices{
		set:     map[string][]Root{},
		rooted:  map[digest.Digest]int{},
		writing: map[*Writing]struct{}{},
		leases:  map[*Lease]struct{}{},
		held:    map[digest.Digest]int{},
		recent:  map[digest.Digest]time.Time{},
	}
}

// OnChange registers f, which is called with the name of an index after its roots have
// changed, by the goroutine that changed them. Runs of providers are not
// noticed; see Changed.
func (x *Indices) OnChange(f func(index string)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.onChange = append(slices.Clip(x.onChange), f)
}

// Changed notifies all observers, and a collection under way, that the
// roots of a provider have changed.
func (x *Indices) Changed(index string) {
	x.mu.Lock()
	x.unlockChanged(index)
}

// unlockChanged ends a change of index that may make a mark stale: it unlocks
// and notifies.
func (x *Indices) unlockChanged(index string) { x.unlock(index, true) }

// unlock ends a change of index.
func (x *Indices) unlock(index string, stale bool) {
	if stale {
		x.generation++
	}
	told := x.onChange
	x.mu.Unlock()
	for _, f := range told {
		f(index)
	}
}

// AddProvider adds a source of open roots that is asked at every Snapshot, as
// the tracker for runs. The Index of its roots is set to open where it is
// empty. A provider may block; it must not panic when asked from several
// goroutines.
func (x *Indices) AddProvider(f func() []Root) {
	x.mu.Lock()
	x.providers = append(slices.Clip(x.providers), f)
	x.unlockChanged(OpenIndex)
}

// SetBase replaces the base index.
func (x *Indices) SetBase(roots []Root) { x.replace(BaseIndex, roots) }

// SetCache replaces the cache index.
func (x *Indices) SetCache(roots []Root) { x.replace(CacheIndex, roots) }

// SetRetained replaces the retained index.
func (x *Indices) SetRetained(roots []Root) { x.replace(RetainedIndex, roots) }

// SetInstalled replaces the installed index.
func (x *Indices) SetInstalled(roots []Root) { x.replace(InstalledIndex, roots) }

func (x *Indices) replace(index string, roots []Root) {
	own := make([]Root, len(roots))
	for i, r := range roots {
		own[i] = Root{Index: index, Package: r.Package, Holder: r.Holder, PID: r.PID}
	}
	slices.SortFunc(own, compare)
	x.mu.Lock()
	if slices.Equal(own, x.set[index]) {
		x.mu.Unlock()
		return
	}
	for _, r := range x.set[index] {
		drop(x.rooted, r.Package)
	}
	for _, r := range own {
		x.rooted[r.Package]++
	}
	if slices.ContainsFunc(x.set[index], func(r Root) bool { return x.rooted[r.Package] == 0 }) {
		x.left++
	}
	x.set[index] = own
	x.unlockChanged(index)
}

func compare(a, b Root) int {
	if c := a.Package.Compare(b.Package); c != 0 {
		return c
	}
	if c := strings.Compare(a.Holder, b.Holder); c != 0 {
		return c
	}
	return a.PID - b.PID
}

// Snapshot lists all roots, index by index in the order of Names, each sorted
// by package and holder.
func (x *Indices) Snapshot() []Root {
	roots, _ := x.SnapshotAt()
	return roots
}

// SnapshotAt is Snapshot with the generation that Check needs. A
// change meanwhile makes the generation stale at once, never the other way
// round.
func (x *Indices) SnapshotAt() ([]Root, uint64) {
	x.mu.Lock()
	generation := x.generation
	providers := x.providers
	x.mu.Unlock()
	open := ask(providers)
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.snapshotLocked(open), generation
}

// SnapshotWith is Snapshot with open roots in place of those of the providers. It is for
// callers that show the roots, not for decisions.
func (x *Indices) SnapshotWith(open []Root) []Root {
	open = named(nil, open)
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.snapshotLocked(open)
}

// snapshotLocked adds all other roots to open, which it may change.
func (x *Indices) snapshotLocked(open []Root) []Root {
	for l := range x.leases {
		open = append(open, Root{Index: OpenIndex, Package: l.pkg, Holder: l.holder, PID: l.pid})
	}
	var writing []Root
	for w := range x.writing {
		writing = append(writing, Root{Index: WritingIndex, Package: w.pkg, Holder: w.holder, writing: w})
	}
	slices.SortFunc(open, compare)
	slices.SortFunc(writing, compare)
	var roots []Root
	for _, name := range Names {
		switch name {
		case WritingIndex:
			roots = append(roots, writing...)
		case OpenIndex:
			roots = append(roots, open...)
		case RecentIndex:
			roots = append(roots, x.recentLocked()...)
		default:
			roots = append(roots, x.set[name]...)
		}
	}
	return roots
}

// ask lists the roots of providers.
func ask(providers []func() []Root) (open []Root) {
	for _, f := range providers {
		open = named(open, f())
	}
	return open
}

// named appends roots that are of the open index unless they name another.
func named(open, more []Root) []Root {
	for _, r := range more {
		if r.Index == "" {
			r.Index = OpenIndex
		}
		open = append(open, r)
	}
	return open
}

// ReleaseCount grows when a package may have lost its protection. While it is the same
// as before a collection that removed everything possible, another collection
// would find nothing.
func (x *Indices) ReleaseCount() uint64 {
	x.leaving.Lock() // an older answer of the providers must not replace a newer one
	defer x.leaving.Unlock()
	x.mu.Lock()
	providers := x.providers
	x.mu.Unlock()
	now := map[digest.Digest]bool{}
	for _, r := range ask(providers) {
		now[r.Package] = true
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.expireLocked()
	for pkg := range x.provided {
		if !now[pkg] {
			x.left++
		}
	}
	x.provided = now
	return x.left
}

// holdLocked notes that a package has one holder more, and reports whether it
// was a root already.
func (x *Indices) holdLocked(pkg digest.Digest) (known bool) {
	known = x.held[pkg]+x.rooted[pkg] > 0
	x.held[pkg]++
	return known
}

// lessLocked notes that a package has one holder less.
func (x *Indices) lessLocked(pkg digest.Digest) {
	if drop(x.held, pkg); x.held[pkg]+x.rooted[pkg] == 0 {
		x.left++
	}
}

// Of lists the roots of one index.
func (x *Indices) Of(index string) []Root {
	if index != OpenIndex && index != WritingIndex {
		return slices.DeleteFunc(x.SnapshotWith(nil), func(r Root) bool { return r.Index != index })
	}
	return slices.DeleteFunc(x.Snapshot(), func(r Root) bool { return r.Index != index })
}

// Protects reports whether the key is wanted by a resolve under way, or is the
// manifest of a package that is being written or leased. It does not cover the
// content below such a manifest: that is the collector's mark, which Check
// keeps up to date.
func (x *Indices) Protects(k store.Key) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.protectsLocked(k)
}

func (x *Indices) protectsLocked(k store.Key) bool {
	if !k.Exec && x.held[k.Digest] > 0 {
		return true
	}
	for w := range x.writing {
		if w.wantsLocked(k) {
			return true
		}
	}
	return false
}

// Check is the collector's last question about a key: is it protected, and is
// the mark stale because roots have changed since the snapshot of that
// generation? Both are answered as of one moment. A lease of what is a root
// already, the end of a lease, and a resolve of what is a root and there, make no
// mark stale: they add nothing to what must stay, and thousands may come while a
// collection goes on.
func (x *Indices) Check(generation uint64, k store.Key) (protected, stale bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.protectsLocked(k), x.generation != generation
}
