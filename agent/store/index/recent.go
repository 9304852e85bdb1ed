package index

import (
	"maps"
	"slices"
	"time"

	"github.com/lull/lull/agent/lib/digest"
)

// KeepRecent sets how long a package stays in the recent index after its last
// lease has ended; 0 disables the index and empties it.
func (x *Indices) KeepRecent(d time.Duration) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.keepRecent = d
	x.expireLocked()
}

// leftLocked notes that a lease has ended.
func (x *Indices) leftLocked(pkg digest.Digest) {
	x.expireLocked()
	if x.keepRecent > 0 {
		x.recent[pkg] = time.Now()
	}
}

func (x *Indices) expireLocked() {
	before := len(x.recent)
	maps.DeleteFunc(x.recent, func(_ digest.Digest, since time.Time) bool { return time.Since(since) >= x.keepRecent })
	if len(x.recent) < before {
		x.left++
	}
}

// recentLocked are the roots, the one released first first: this is the order
// of their eviction.
func (x *Indices) recentLocked() []Root {
	x.expireLocked()
	pkgs := slices.SortedFunc(maps.Keys(x.recent), func(a, b digest.Digest) int {
		if c := x.recent[a].Compare(x.recent[b]); c != 0 {
			return c
		}
		return a.Compare(b)
	})
	roots := make([]Root, len(pkgs))
	for i, pkg := range pkgs {
		roots[i] = Root{Index: RecentIndex, Package: pkg}
	}
	return roots
}

// Evict takes packages out of the recent index; none named: all.
func (x *Indices) Evict(pkgs ...digest.Digest) {
	x.mu.Lock()
	before := len(x.recent)
	if len(pkgs) == 0 {
		clear(x.recent)
	}
	for _, pkg := range pkgs {
		delete(x.recent, pkg)
	}
	if len(x.recent) == before {
		x.mu.Unlock()
		return
	}
	x.left++
	x.unlockChanged(RecentIndex)
}

// Firm leaves out of roots what gives way to any need for space.
func Firm(roots []Root) []Root {
	return slices.DeleteFunc(slices.Clone(roots), func(r Root) bool { return r.Index == RecentIndex })
}
