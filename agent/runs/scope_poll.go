package runs

import (
	"maps"
	"time"

	"github.com/lull/lull/agent/lib/cgroup"
	"github.com/lull/lull/agent/lib/messages"
)

// missLocked notes that something is not watched, and begins to poll.
func (s *scopeTracker) missLocked(err error) {
	s.missed = err
	s.wakeLocked()
}

// wakeLocked makes poll look.
func (s *scopeTracker) wakeLocked() {
	if s.looking {
		return
	}
	select {
	case s.look <- struct{}{}:
	default:
	}
}

// blindness returns why something is not watched, nil if everything is, except
// the groups that exceed a user's bounds.
func (s *scopeTracker) blindness() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.missed
}

// read is find. It also reports the end of runs that were reported before,
// even if that comes before the next poll has seen the beginning.
func (s *scopeTracker) read(match func(group) bool) (map[group][]Process, []Unread, error) {
	found, unread, err := s.find(match)
	s.askedMu.Lock()
	defer s.askedMu.Unlock()
	for g := range found {
		s.askLocked(g)
	}
	return found, unread, err
}

// askLocked has the next look at the branch of a run report its instance. The caller holds
// askedMu.
func (s *scopeTracker) askLocked(g group) {
	if s.asked[g.branch] == nil {
		s.asked[g.branch] = map[string]bool{}
	}
	s.asked[g.branch][g.instance] = true
}

// wasAsked returns whom there was a promise to since the last time.
func (s *scopeTracker) wasAsked(uid int) map[string]bool {
	s.askedMu.Lock()
	defer s.askedMu.Unlock()
	asked := s.asked[uid]
	delete(s.asked, uid)
	return asked
}

// poll reads branches in which something may have appeared unseen, and once a
// second those that are not watched. Launchers make scopes without asking the
// agent: while events are missing, it cannot rest.
func (s *scopeTracker) poll() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-s.look:
		case <-timer.C:
		}
		if s.lookAround() {
			timer.Reset(pollEvery)
		} else {
			timer.Stop()
		}
	}
}

// lookAround reads the branches that are due; again asks for the next poll after pollEvery.
func (s *scopeTracker) lookAround() (again bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looking = true
	defer func() { s.looking = false }()
	now := time.Now()
	everything := s.in == nil || s.missed != nil
	trunk := s.follows[theTrunk]
	if everything || trunk.dirty {
		s.missed = nil // what is still missing is noticed again
		if err := s.lookAtTrunkLocked(); err != nil {
			s.log.Warn("cannot determine what runs", messages.Key, messages.RunsUnreadable, "error", err)
			s.hints.give("")
			trunk.dirty = true
			return true
		}
	}
	for _, f := range s.follows {
		if f.uid == theTrunk {
			continue
		}
		if due := f.dirty || everything || f.polled != nil && now.Sub(f.looked) >= pollEvery; due {
			s.lookAtLocked(f)
		}
		again = again || f.polled != nil || f.uid < 0 && f.unread != nil
	}
	return again || s.in == nil || s.missed != nil
}

// watchAllLocked begins with everything.
func (s *scopeTracker) watchAllLocked() error {
	s.missed = nil
	if err := s.lookAtTrunkLocked(); err != nil {
		return err
	}
	for _, f := range s.follows {
		if f.uid != theTrunk {
			s.lookAtLocked(f)
		}
	}
	return s.follows[theSystem].unread
}

// lookAtTrunkLocked finds the branches that there are.
func (s *scopeTracker) lookAtTrunkLocked() error {
	trunk := s.follows[theTrunk]
	if trunk == nil {
		trunk = &following{branch: branch{uid: theTrunk}, watches: map[string]int{}}
		s.follows[theTrunk] = trunk
	}
	trunk.dirty = false
	list, err := s.branches(func(d *cgroup.Dir, path string) error { return s.addLocked(trunk, d.Handle(), path, "") })
	if err != nil {
		return err
	}
	there := map[int]bool{theTrunk: true}
	for _, b := range list {
		there[b.uid] = true
		if s.follows[b.uid] == nil {
			s.follows[b.uid] = &following{branch: b, watches: map[string]int{}, dirty: true}
		}
	}
	for uid, f := range s.follows {
		if !there[uid] {
			s.endLocked(f)
		}
	}
	return nil
}

// endLocked drops a branch that is gone, and all its runs.
func (s *scopeTracker) endLocked(f *following) {
	delete(s.follows, f.uid)
	for path := range f.watches {
		s.forgetLocked(f, path)
	}
	s.changedLocked(f, nil, nil)
}

// lookAtLocked watches and reads one branch.
func (s *scopeTracker) lookAtLocked(f *following) {
	began := time.Now()
	if f.polled != nil && began.After(f.until) {
		f.polled = nil
	}
	f.dirty = false
	now, err := s.followLocked(f)
	if err != nil && f.uid >= 0 && f.polled == nil {
		s.pollLocked(f, err)
		now, err = s.followLocked(f)
	}
	if f.polled == nil && !f.charge(0, time.Since(began)) {
		s.pollLocked(f, errEvents)
	}
	if err != nil {
		s.log.Warn("cannot determine what runs", messages.Key, messages.RunsUnreadable, "branch", f.path, "error", err)
	}
	f.looked = time.Now()
	s.changedLocked(f, now, err)
}

// changedLocked gives hints of the differences from the last poll. Any
// instance may differ if the branch could not be read, or can be read now.
func (s *scopeTracker) changedLocked(f *following, now map[string]string, err error) {
	before, unread, lost := f.runs, f.unread, f.lost
	f.runs, f.unread, f.lost = now, err, nil
	asked := s.wasAsked(f.uid)
	if err != nil || unread != nil {
		if err == nil || unread == nil {
			s.marks.give("")
		}
		if err == nil || unread == nil || f.uid < 0 {
			s.hints.give("")
		}
		return
	}
	touched := maps.Clone(asked)
	if touched == nil {
		touched = map[string]bool{}
	}
	maps.Copy(touched, lost) // seen to begin by an event after the last look, perhaps
	for _, m := range []map[string]string{before, now} {
		for instance := range m {
			if before[instance] != now[instance] {
				touched[instance] = true
			}
		}
	}
	for instance := range touched {
		s.marks.give(instance)
		s.hints.give(instance)
	}
}

// followLocked watches a branch and reads which runs in it have processes.
func (s *scopeTracker) followLocked(f *following) (map[string]string, error) {
	var runs map[string]string
	var seen map[string]bool
	w := s.newWalk(f.branch)
	w.enter = func(d *cgroup.Dir, path string) error {
		seen[path] = true
		return s.addLocked(f, d.Handle(), path, "")
	}
	w.run = func(parent *cgroup.Dir, g group) error {
		if w.runs--; w.runs < 0 {
			return errRuns
		}
		seen[g.cgroup[1:]] = true
		populated, err := s.watchRunLocked(f, parent, g)
		if err != nil && err != errWatches && g.session {
			populated, err = true, nil // of this instance alone
		}
		if populated {
			runs[g.instance] += g.cgroup + "\n"
		}
		return err
	}
	if err := w.read(func() { runs, seen = map[string]string{}, map[string]bool{} }); err != nil {
		return nil, err
	}
	for path := range f.watches {
		if !seen[path] {
			s.forgetLocked(f, path)
		}
	}
	return runs, nil
}
