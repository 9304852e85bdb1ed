package userdata

import (
	"slices"
)

// own reports whether a directory is the data of one of this store's revisions. A
// store without an identity takes every directory for its own. A store whose identity
// was cloned gives the same number to another package, which is why that counts too.
func (s *state) own(d *dir, rev uint32) bool {
	if pkg := s.packageOf(rev); pkg != "" && d.Package != "" && d.Package != pkg {
		return false
	}
	if s.store.ID != "" {
		return d.usedBy(s.store.ID, rev)
	}
	return slices.ContainsFunc(d.Uses, func(u Use) bool { return u.Revision == rev })
}

// ofStore reports whether this store has ever used a directory.
func (s *state) ofStore(d *dir) bool { return s.store.ID == "" || d.usedByStore(s.store.ID) }

// current is the data of a revision; nil if it has none yet. Only a directory in Base can be it.
func (s *state) current(rev uint32) *dir {
	pkg := s.packageOf(rev)
	var best *dir
	for _, d := range s.dirs {
		if d.base == s.Base && d.Complete && s.own(d, rev) {
			best = d
		}
	}
	// The same application of another machine in the same home, used since: two copies
	// would only drift apart.
	if n := s.newest(); n != nil && n != best && n.base == s.Base && !s.ofStore(n) && pkg != "" && n.Package == pkg && (best == nil || best.Counter < n.Counter) {
		return n
	}
	return best
}

// newest is the directory that was used last; nil if there is none.
func (s *state) newest() *dir {
	for _, d := range slices.Backward(s.dirs) {
		if d.Complete {
			return d
		}
	}
	return nil
}

// newestWhole is the newest complete one.
func (s *state) newestWhole() *dir {
	for _, d := range slices.Backward(s.dirs) {
		if d.Complete && len(d.Missing) == 0 {
			return d
		}
	}
	return nil
}

// nextCounter is a number above all others.
func (s *state) nextCounter() uint64 {
	top := uint64(0)
	for _, d := range s.dirs {
		top = max(top, d.Counter)
	}
	return top + 1
}

// ancestor is the directory whose content rev takes over; nil if there is
// none. If the chain is broken, because the agent has dropped a revision, it
// is the youngest of the store that is older than the gap. Directories that
// the store itself has used beside the chain were reverted and do not count;
// those that another store has used since do.
func (s *state) ancestor(rev uint32) *dir {
	mine := s.onChain(rev)
	for _, d := range slices.Backward(s.dirs) {
		if !d.Complete || s.ofStore(d) {
			continue
		}
		if mine == nil || mine.Counter < d.Counter {
			return d
		}
		break
	}
	return mine
}

func (s *state) onChain(rev uint32) *dir {
	if d := s.dataOf(rev); d != nil && d.base != s.Base {
		return d // its own, from before the agent had its own directory
	}
	seen := map[uint32]bool{rev: true}
	for at := rev; ; {
		before, err := s.from(at)
		if err != nil || seen[before] {
			return s.youngestBefore(at)
		}
		if before == 0 {
			return nil
		}
		if d := s.dataOf(before); d != nil {
			return d
		}
		seen[before] = true
		at = before
	}
}

// dataOf is the newest directory that the store used for a revision.
func (s *state) dataOf(rev uint32) *dir {
	for _, d := range slices.Backward(s.dirs) {
		if d.Complete && s.own(d, rev) {
			return d
		}
	}
	return nil
}

func (s *state) youngestBefore(rev uint32) (best *dir) {
	highest := uint32(0)
	for _, d := range s.dirs {
		for _, u := range d.Uses {
			if d.Complete && s.own(d, u.Revision) && u.Revision < rev && u.Revision >= highest {
				best, highest = d, u.Revision
			}
		}
	}
	return best
}
