package runs

import (
	"time"

	"github.com/lull/lull/agent/cgroup"
	"github.com/lull/lull/agent/messages"
)

// missLocked notes that something is not watched, and begins to poll.
func (s *scopeTracker) missLocked(err error) {
	s.missed = err
	select {
	case s.look <- struct{}{}:
	default:
	}
}

// blindness says why something is not watched, nil if everything is.
func (s *scopeTracker) blindness() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.missed
}

// promise has the end of what somebody was told runs be told as well, also if it
// comes before the next look has seen the beginning.
func (s *scopeTracker) promise(instance string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.in == nil || s.missed != nil {
		s.asked[instance] = true
	}
}

// promised returns whom there was a promise to since the last time.
func (s *scopeTracker) promised() map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.asked
	s.asked = map[string]bool{}
	return asked
}

// poll looks at everything once a second as long as something is not watched.
// Launchers make scopes without asking anybody: while events are missing, there
// is no moment at which it could rest.
func (s *scopeTracker) poll() {
	timer := time.NewTimer(pollEvery)
	defer timer.Stop()
	if s.in != nil && s.blindness() == nil {
		timer.Stop()
	}
	before := map[string]string{}
	for {
		select {
		case <-s.stop:
			return
		case <-s.look:
		case <-timer.C:
		}
		for instance := range s.promised() {
			before[instance] += "seen"
		}
		now, err := s.pictures()
		if err != nil {
			s.log.Warn("cannot tell what runs", messages.Key, messages.RunsUnreadable, "error", err)
			s.hints.give("")
		}
		for _, m := range []map[string]string{before, now} {
			for instance := range m {
				if err == nil && before[instance] != now[instance] {
					s.mark(instance)
					s.hints.give(instance)
				}
			}
		}
		if err == nil {
			before = now
		}
		if err != nil || s.in == nil || s.blindness() != nil {
			timer.Reset(pollEvery)
		}
	}
}

// pictures returns a text for each instance that changes when runs of it begin
// or end. Watches for which there was no room are tried again on the way.
func (s *scopeTracker) pictures() (map[string]string, error) {
	groups, err := s.watchAll()
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for _, g := range groups {
		pids, err := cgroup.Procs(g.dir)
		if err != nil {
			return nil, err
		}
		if len(pids) > 0 {
			all[g.instance] += g.cgroup + "\n"
		}
	}
	return all, nil
}
