package runs

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/cgroup"
	"github.com/lull/lull/agent/lib/inotify"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/lib/runctl"
)

// The bounds of the events of one user. Beyond them that user's groups are
// read once a second, for calm at least, and twice as long each time that the
// events exceed the bounds again soon after.
const (
	maxWatches = 1024
	period     = 5 * time.Second
	maxEvents  = 500                    // in a period
	maxSpent   = 250 * time.Millisecond // of work because of events, in a period
	calm       = 10 * time.Second
	maxCalm    = 16 * calm
)

var (
	errWatches = fmt.Errorf("it has more than %d slices and runs to watch", maxWatches)
	errEvents  = errors.New("it changes too often")
)

// theTrunk is the UID of what is above the branches.
const theTrunk = -2

// following is what the tracker keeps of a branch.
type following struct {
	branch
	watches map[string]int    // by path below the top
	runs    map[string]string // by instance, a text that changes when runs of it begin or end; as of the last look
	unread  error             // of the last look
	lost    map[string]bool   // instances with runs whose watches are gone, or never were, since the last look
	dirty   bool              // must be read at once
	looked  time.Time

	polled error         // why it is read once a second; nil if it is not
	until  time.Time     // when events may be tried again
	calm   time.Duration // what until was last set to
	began  time.Time     // of the period
	events int           // in it
	spent  time.Duration
}

// loses notes that a run of the instance may begin and end unseen until the
// next poll, which cannot detect that; "" is no instance.
func (f *following) loses(instance string) {
	if instance == "" {
		return
	}
	if f.lost == nil {
		f.lost = map[string]bool{}
	}
	f.lost[instance] = true
}

// charge counts an event of a user, or the time that one has cost, and reports
// whether that is within bounds.
func (f *following) charge(events int, spent time.Duration) bool {
	if f.uid < 0 {
		return true
	}
	if now := time.Now(); now.Sub(f.began) > period {
		f.began, f.events, f.spent = now, 0, 0
	}
	f.events += events
	f.spent += spent
	return f.events <= maxEvents && f.spent <= maxSpent
}

// calmDown sets when events may be tried again.
func (f *following) calmDown(now time.Time) {
	if f.calm == 0 || now.Sub(f.until) > f.calm {
		f.calm = calm
	} else {
		f.calm = min(2*f.calm, maxCalm)
	}
	f.until = now.Add(f.calm)
}

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

// closeWatches ends the events.
func (s *scopeTracker) closeWatches() error {
	if s.in == nil {
		return nil
	}
	return errors.Join(s.in.Close(), s.markers.Close())
}

func (s *scopeTracker) followMarkers() {
	for e := range s.markers.Events() {
		switch e.Kind {
		case runctl.LookAtAll:
			s.marks.give("")
			s.hints.give("")
		case runctl.LockReleased: // perhaps of a launch that stays where it is
			s.marks.give(e.Instance)
			s.hints.give(e.Instance)
		case runctl.TetherReleased:
			s.marks.give(e.Instance)
		}
	}
}

const inDirectory = unix.IN_CREATE | unix.IN_DELETE | unix.IN_ONLYDIR

// addLocked watches a file or directory of a branch, which is open at handle.
// An existing watch stays; a directory that was removed and re-created is
// another one, with another watch.
func (s *scopeTracker) addLocked(f *following, handle, path, instance string) error {
	if s.in == nil || f.polled != nil {
		return nil
	}
	if f.uid >= 0 && len(f.watches) >= maxWatches && f.watches[path] == 0 {
		return errWatches
	}
	mask := uint32(unix.IN_MODIFY)
	if instance == "" {
		// The end of a run shows twice: its population changes, and systemd removes
		// the group, which may be faster than the kernel's event for the first.
		mask = inDirectory
	}
	wd, err := s.in.Add(handle, mask)
	if noWatchLeft(err) {
		s.missLocked(err)
		return nil
	}
	if err != nil {
		return err
	}
	if old, ok := f.watches[path]; ok && old != wd {
		s.forgetLocked(f, path)
	}
	f.watches[path] = wd
	s.watches[wd] = watched{path: path, instance: instance, uid: f.uid}
	return nil
}

// forgetLocked ends the watch of a directory that is gone: cgroupfs does not.
func (s *scopeTracker) forgetLocked(f *following, path string) {
	if wd, ok := f.watches[path]; ok {
		delete(f.watches, path)
		delete(s.watches, wd)
		s.in.Remove(wd)
	}
}

// pollLocked ends the watches of a user, whose groups are read once a second
// from now on.
func (s *scopeTracker) pollLocked(f *following, why error) {
	for path, wd := range f.watches {
		f.loses(s.watches[wd].instance)
		s.forgetLocked(f, path)
	}
	f.polled = why
	f.calmDown(time.Now())
	s.wakeLocked()
}

// watchRunLocked follows the population of a run below parent, and reports
// whether it has processes. One that has vanished has none.
func (s *scopeTracker) watchRunLocked(f *following, parent *cgroup.Dir, g group) (populated bool, err error) {
	d, err := parent.Open(filepath.Base(g.dir))
	if err == nil {
		defer d.Close()
		err = s.addLocked(f, d.Handle()+"/cgroup.events", g.cgroup[1:], g.instance)
	}
	if err == nil {
		populated, err = d.Populated()
	}
	if cgroup.Gone(err) {
		return false, nil // the next hint reports its end
	}
	return populated, err
}

// follow turns the kernel's events into hints until the watcher is closed.
func (s *scopeTracker) follow() {
	for {
		events, err := s.in.Read()
		if err != nil {
			return
		}
		for _, e := range lastOfEach(events) {
			s.handle(e)
		}
	}
}

// change is the last of the events about one group that were read together.
type change struct {
	inotify.Event
	events int // how many there were
}

// lastOfEach merges the events about the same group: an event is only a hint, and a group
// that has come and gone many times is read once.
func lastOfEach(events []inotify.Event) []change {
	type group struct {
		watch int
		name  string
	}
	at := map[group]int{}
	var all []change
	for _, e := range events {
		if e.Ended() { // the agent has removed the watch
			continue
		}
		g := group{e.Watch, e.Name}
		if i, ok := at[g]; ok {
			all[i].Event = e
			all[i].events++
			continue
		}
		at[g] = len(all)
		all = append(all, change{e, 1})
	}
	return all
}

func (s *scopeTracker) handle(e change) {
	if e.Overflow() {
		if err := s.lookAtAll(); err != nil {
			s.log.Warn("cannot determine what runs", messages.Key, messages.RunsUnreadable, "error", err)
			s.hints.give("")
		}
		return
	}
	if touched := s.handleOne(e); touched != "" {
		// A refresh may wait for the hint. The marker, which is for display,
		// can wait: while this goroutine works, the goroutines that it has
		// woken wait for a CPU.
		s.marks.give(touched)
		s.hints.give(touched)
	}
}

func (s *scopeTracker) handleOne(e change) (touched string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w, ok := s.watches[e.Watch]
	f := s.follows[w.uid]
	if !ok || f == nil {
		return ""
	}
	if !f.charge(e.events, 0) {
		s.pollLocked(f, errEvents)
		return ""
	}
	if w.instance != "" {
		return w.instance
	}
	if e.Mask&unix.IN_ISDIR == 0 {
		return ""
	}
	if f.uid == theTrunk {
		s.trunkLocked(f, e.Name)
		return ""
	}
	path, gone := w.path+"/"+e.Name, e.Mask&unix.IN_DELETE != 0
	if gone {
		s.forgetLocked(f, path)
	}
	switch r := roleOf(e.Name); {
	case r == slice && !gone: // more may be in it already
		f.dirty = true
		s.wakeLocked()
	case r == runOfApp, r == runOfDmon:
		g := s.group(f.branch, path)
		if !gone {
			s.newRunLocked(f, g)
		}
		return g.instance
	}
	return ""
}

// trunkLocked takes notice of a branch that has come or gone, or both.
func (s *scopeTracker) trunkLocked(trunk *following, name string) {
	uid, ok := userOf(name, "user-", ".slice")
	if !ok {
		uid, ok = userOf(name, "user@", ".service")
	}
	own, isOwn := userOf(name, "user-", sliceSuffix)
	switch {
	case isOwn:
		uid = systemFor(own)
	case ok && uid == s.uid, name == "system.slice":
		uid = theSystem
	case ok, name == "user.slice":
	default:
		return
	}
	if f := s.follows[uid]; f != nil {
		f.dirty = true
	}
	trunk.dirty = true
	s.wakeLocked()
}

// newRunLocked watches a run that has just appeared. If that fails for any
// reason, the run is polled.
func (s *scopeTracker) newRunLocked(f *following, g group) {
	began := time.Now()
	defer func() { f.charge(0, time.Since(began)) }() // what is too much shows at the next event
	parent, err := cgroup.OpenDir(filepath.Dir(g.dir))
	if err == nil {
		defer parent.Close()
		_, err = s.watchRunLocked(f, parent, g)
	}
	if f.watches[g.cgroup[1:]] == 0 && !cgroup.Gone(err) {
		f.loses(g.instance)
	}
	switch {
	case err == nil, cgroup.Gone(err):
	case f.uid >= 0:
		s.pollLocked(f, err)
	default:
		s.missLocked(err)
	}
}
