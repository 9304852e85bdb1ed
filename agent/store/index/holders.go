package index

import (
	"slices"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/store"
)

// Writing is an entry of the writing index: a package that is being resolved.
type Writing struct {
	ix     *Indices
	pkg    digest.Digest
	holder string
	wanted [][]store.Key // sorted, each; guarded by ix.mu
	known  bool          // it was a root already
	ended  bool          // guarded by ix.mu
}

// BeginWriting registers that pkg is about to be resolved. Its meta and tree
// are protected from now on; the rest follows with Add.
//
// A mark becomes stale at the beginning if the package was no root, and at the
// end if anything was added: only then may the store have what it had not when
// the mark was made.
func (x *Indices) BeginWriting(pkg digest.Digest, holder string) *Writing {
	w := &Writing{ix: x, pkg: pkg, holder: holder, wanted: [][]store.Key{{store.MetaKey(pkg)}}}
	x.mu.Lock()
	x.writing[w] = struct{}{}
	w.known = x.holdLocked(pkg)
	x.unlock(WritingIndex, !w.known)
	return w
}

// Add registers keys as wanted, before the store is asked whether they are
// resident. Many are best added at once. It keeps the slice, and sorts it.
func (w *Writing) Add(keys ...store.Key) {
	slices.SortFunc(keys, store.Key.Compare)
	w.ix.mu.Lock()
	defer w.ix.mu.Unlock()
	if !w.ended {
		w.wanted = append(w.wanted, keys)
	}
}

func (w *Writing) wantsLocked(k store.Key) bool {
	return slices.ContainsFunc(w.wanted, func(keys []store.Key) bool {
		_, ok := slices.BinarySearchFunc(keys, k, store.Key.Compare)
		return ok
	})
}

// End removes the entry. It can be called repeatedly.
func (w *Writing) End() {
	x := w.ix
	x.mu.Lock()
	if w.ended {
		x.mu.Unlock()
		return
	}
	w.ended = true
	delete(x.writing, w)
	x.lessLocked(w.pkg)
	stale := !w.known || len(w.wanted) > 1
	w.wanted = nil
	x.unlock(WritingIndex, stale)
}

// Lease is an entry of the open index: a package in use by a live client.
type Lease struct {
	ix     *Indices
	pkg    digest.Digest
	holder string
	pid    int
	closed bool // guarded by ix.mu
}

// Lease protects pkg until Close. A caller that needs the package to be
// resident asks the store after this, not before.
func (x *Indices) Lease(pkg digest.Digest, holder string, pid int) *Lease {
	l := &Lease{ix: x, pkg: pkg, holder: holder, pid: pid}
	x.mu.Lock()
	x.leases[l] = struct{}{}
	known := x.holdLocked(pkg)
	x.unlock(OpenIndex, !known)
	return l
}

// Package is what the lease protects.
func (l *Lease) Package() digest.Digest { return l.pkg }

// Close ends the lease. It can be called repeatedly.
func (l *Lease) Close() {
	x := l.ix
	x.mu.Lock()
	if l.closed {
		x.mu.Unlock()
		return
	}
	l.closed = true
	delete(x.leases, l)
	x.lessLocked(l.pkg)
	x.leftLocked(l.pkg)
	x.unlock(OpenIndex, false)
}

// drop counts down and forgets at zero.
func drop[K comparable](m map[K]int, k K) {
	if m[k]--; m[k] <= 0 {
		delete(m, k)
	}
}
