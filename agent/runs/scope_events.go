package runs

import (
	"errors"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/cgroup"
	"github.com/lull/lull/agent/messages"
	"github.com/lull/lull/agent/runctl"
	"github.com/lull/lull/agent/runctl/inotify"
)

// listen gets what events come through.
func (s *scopeTracker) listen() error {
	in, err := inotify.New()
	if err != nil {
		return err
	}
	markers, err := s.ctl.Watch()
	if err != nil {
		return errors.Join(err, in.Close())
	}
	s.in, s.markers = in, markers
	return nil
}

// deafen ends the events.
func (s *scopeTracker) deafen() error {
	if s.in == nil {
		return nil
	}
	return errors.Join(s.in.Close(), s.markers.Close())
}

func (s *scopeTracker) followMarkers() {
	for e := range s.markers.Events() {
		switch e.Kind {
		case runctl.LookAtAll:
			s.hints.give("")
		case runctl.LockReleased:
			s.hints.give(e.Instance)
		}
	}
}

// watchAll watches what is there, and returns the groups of the runs.
func (s *scopeTracker) watchAll() ([]group, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.missed = nil
	groups, err := s.list(s.watchFolderLocked)
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		s.watchRunLocked(g)
	}
	return groups, nil
}

func (s *scopeTracker) watchFolderLocked(dir string) error {
	if s.in == nil {
		return nil
	}
	// The end of a run shows twice: its population changes, and systemd removes
	// the group, which may be faster than the kernel is in telling the first.
	wd, err := s.in.Add(dir, unix.IN_CREATE|unix.IN_DELETE|unix.IN_ONLYDIR)
	if noWatchLeft(err) {
		s.missLocked(err)
		return nil
	}
	if err == nil {
		s.noteLocked(wd, watched{dir: dir})
	}
	return err
}

// noteLocked keeps a new watch. To add what is watched already changes nothing;
// a folder that was removed and made again is another one, with another watch.
func (s *scopeTracker) noteLocked(wd int, w watched) {
	if old, ok := s.paths[w.dir]; ok && old != wd {
		s.forgetLocked(w.dir)
	}
	s.watches[wd], s.paths[w.dir] = w, wd
}

// forgetLocked ends the watch of a folder that is gone: cgroupfs does not.
func (s *scopeTracker) forgetLocked(dir string) {
	if wd, ok := s.paths[dir]; ok {
		delete(s.paths, dir)
		delete(s.watches, wd)
		s.in.Remove(wd)
	}
}

// watchRunLocked follows the population of a run. One that has vanished is no
// error: its end is what the hint after this tells.
func (s *scopeTracker) watchRunLocked(g group) {
	if s.in == nil {
		return
	}
	wd, err := s.in.Add(filepath.Join(g.dir, "cgroup.events"), unix.IN_MODIFY)
	if err != nil {
		if !cgroup.Gone(err) {
			s.missLocked(err) // whatever it is, polling helps
		}
		return
	}
	s.noteLocked(wd, watched{dir: g.dir, instance: g.instance})
}

// follow turns the kernel's events into hints until the watcher is closed.
func (s *scopeTracker) follow() {
	for {
		events, err := s.in.Read()
		if err != nil {
			return
		}
		for _, e := range events {
			s.handle(e)
		}
	}
}

func (s *scopeTracker) handle(e inotify.Event) {
	all := e.Overflow()
	var touched string
	s.mu.Lock()
	w, ok := s.watches[e.Watch]
	switch {
	case all, !ok:
	case w.instance != "":
		touched = w.instance
	case e.Mask&unix.IN_ISDIR != 0:
		dir := filepath.Join(w.dir, e.Name)
		gone := e.Mask&unix.IN_DELETE != 0
		if gone {
			s.forgetLocked(dir)
		}
		switch s.roleOf(dir) {
		case ignored:
		case runOfApp, runOfDmon:
			g := s.group(dir)
			touched = g.instance
			if !gone {
				s.watchRunLocked(g)
			}
		default:
			all = !gone // a slice: more may be in it already
		}
	}
	s.mu.Unlock()
	if touched != "" {
		// A refresh may wait for the hint. The marker, which is for people, has
		// time, and this goroutine has none: while it works, those whom it has
		// woken wait for a CPU.
		s.marks.give(touched)
		s.hints.give(touched)
	}
	if all {
		if err := s.lookAtAll(); err != nil {
			s.log.Warn("cannot tell what runs", messages.Key, messages.RunsUnreadable, "error", err)
			s.hints.give("")
		}
	}
}
