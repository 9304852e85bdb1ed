package runs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/lull/lull/agent/lib/cgroup"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/inotify"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/lib/runctl"
	"github.com/lull/lull/agent/lib/runname"
	"github.com/lull/lull/agent/lib/scopes"
	"github.com/lull/lull/agent/lib/share"
	"github.com/lull/lull/agent/vacancy"
)

// scopeTracker finds the scopes and service units that systemd keeps for lull:
// below system.slice and below every user's manager. Launchers make the scopes;
// the tracker only reads, and keeps .running.
type scopeTracker struct {
	base
	top     string           // of the unified hierarchy
	uid     int              // of the only user whose manager counts; -1 means the system's and those of all users
	in      *inotify.Watcher // nil if there is no inotify and everything is polled
	markers *runctl.Watch    // nil with in
	marks   *hints           // instances whose .running may have to change
	look    chan struct{}    // capacity 1: a branch must be read
	stop    chan struct{}
	wg      sync.WaitGroup

	mu      sync.Mutex         // guards what follows, and makes a change of .running and its reason one
	watches map[int]watched    // by inotify watch
	follows map[int]*following // by UID, theTrunk and theSystem among them
	missed  error              // why watches are missing; nil if none are
	looking bool               // lookAround is at work, and asks for the next look itself
	closed  bool

	askedMu sync.Mutex              // guards what follows
	asked   map[int]map[string]bool // by UID: instances that were reported as running there, since the last look
}

// watched is a directory in which units appear, or the group of a run.
type watched struct {
	path     string // below the top
	instance string // of a run; "" for a directory
	uid      int    // of the branch
}

func newScope(ctl *runctl.Dir, l cgroup.Layout, opts Options) (*scopeTracker, error) {
	if l.Unified == "" || !l.SystemdUnified {
		return nil, errkind.New(errkind.Unavailable, "cannot use the scope tracker: systemd does not run this machine with cgroup v2")
	}
	uid := theSystem
	if opts.UserMode {
		uid = os.Getuid()
	}
	s := &scopeTracker{
		top: l.Unified, uid: uid, watches: map[int]watched{}, follows: map[int]*following{}, asked: map[int]map[string]bool{},
		look: make(chan struct{}, 1), stop: make(chan struct{}),
	}
	s.base = base{
		ctl: ctl, log: opts.Log, known: map[string]bool{},
		manner: func() string { return "cgroup.events of systemd's scopes and inotify" },
		find: func(_ string, _ bool, match func(group) bool) (map[group][]Process, []Unread, error) {
			return s.read(match)
		},
	}
	if uid >= 0 {
		if _, err := os.Lstat(filepath.Join(s.top, s.ownPath())); err != nil {
			return nil, errkind.New(errkind.Unavailable, "cannot use the scope tracker: the user's systemd does not run: %w", err)
		}
	}
	if err := s.listen(); err != nil {
		s.polls = true
		s.manner = func() string { return errkind.Text("systemd's scopes are polled every second (no inotify: %v)", err) }
	} else {
		s.degraded = s.blindness
	}
	s.hints, s.marks = newHints(), newHints()
	if err := s.lookAtAll(); err != nil {
		s.closeWatches()
		s.hints.close()
		s.marks.close()
		return nil, err
	}
	s.wg.Go(s.poll)
	s.wg.Go(func() {
		var spent share.Time
		for instance := range s.marks.out {
			began := time.Now()
			if s.mark(instance) {
				s.hints.give(instance) // for those who wait for the marker
			}
			select { // a marker is for display, and any user can start applications in a loop
			case <-time.After(spent.Spend(time.Since(began))):
			case <-s.stop:
			}
		}
	})
	if s.in != nil {
		s.wg.Go(s.follow)
		s.wg.Go(s.followMarkers)
	}
	return s, nil
}

// Name implements Tracker.
func (s *scopeTracker) Name() string { return "scope" }

// ownPath is the group of the agent's user's manager, below the top.
func (s *scopeTracker) ownPath() string {
	id := strconv.Itoa(s.uid)
	return "user.slice/user-" + id + ".slice/user@" + id + ".service"
}

// A role is the kind of a group in a slice.
type role int

const (
	ignored   role = iota
	slice          // has slices and units
	runOfApp       // a scope of ours
	runOfDmon      // a service unit of ours
)

// mayHaveRole reports whether a group can have another role than ignored.
func mayHaveRole(name []byte) bool {
	return bytes.HasSuffix(name, []byte(".slice")) || runname.MayBe(name)
}

// roleOf returns the role of a group in a slice by its name.
func roleOf(name string) role {
	if strings.HasSuffix(name, ".slice") {
		return slice
	}
	if _, _, ok := runname.ParseScope(name); ok {
		return runOfApp
	}
	if _, _, ok := runname.ParseServiceUnit(name); ok {
		return runOfDmon
	}
	return ignored
}

// lookAtAll watches all branches and re-reads every instance, in one pass.
func (s *scopeTracker) lookAtAll() error {
	installed, err1 := s.ctl.Instances()
	marked, err2 := s.ctl.AllRunning()
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	instances := slices.Concat(installed, marked)
	slices.Sort(instances)
	tied := s.tied("")
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.watchAllLocked(); err != nil {
		return err
	}
	found, unread, err := s.find(func(g group) bool { return !g.isSvc })
	if err != nil {
		s.log.Warn("cannot determine what runs, so it counts as running", messages.Key, messages.RunsUnreadable, "error", err)
	}
	all := newSnapshot(found, unread)
	for _, i := range slices.Compact(instances) {
		s.markLocked(i, err != nil || len(all.Of(i)) > 0 || tied[i])
	}
	s.hints.give("")
	return nil
}

// mark makes .running match whether the application runs; changed reports a change.
func (s *scopeTracker) mark(instance string) (changed bool) {
	if instance == "" {
		if err := s.lookAtAll(); err != nil {
			s.log.Warn("cannot determine what runs", messages.Key, messages.RunsUnreadable, "error", err)
		}
		return false
	}
	for tied := false; ; tied = true {
		s.mu.Lock()
		found, unread, err := s.find(func(g group) bool { return !g.isSvc && g.instance == instance })
		if err != nil {
			s.log.Warn("cannot determine what runs, so it counts as running", messages.Key, messages.RunsUnreadable, "instance", instance, "error", err)
		}
		busy := tied || err != nil || len(found)+len(unread) > 0
		if busy {
			s.unseenLocked(found)
			changed = s.markLocked(instance, true)
		}
		s.mu.Unlock()
		if busy {
			return changed
		}
		if !s.tied(instance)[instance] { // outside the lock: it reads all of /proc
			break
		}
	}
	if before, err := s.ctl.Running(instance); err == nil && !before {
		return false // a run that has started meanwhile makes an event of its own
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	found, unread, err := s.find(func(g group) bool { return !g.isSvc && g.instance == instance })
	s.unseenLocked(found)
	return s.markLocked(instance, err != nil || len(found)+len(unread) > 0)
}

// unseenLocked notes runs that the marker is based on and that neither a watch nor the last
// look at their branch has found. Such a run may end before its slice is watched: the next
// look marks the instance again.
func (s *scopeTracker) unseenLocked(found map[group][]Process) {
	s.askedMu.Lock()
	defer s.askedMu.Unlock()
	for g := range found {
		if f := s.follows[g.branch]; f != nil && (f.watches[g.cgroup[1:]] != 0 || strings.Contains(f.runs[g.instance], g.cgroup+"\n")) {
			continue
		}
		s.askLocked(g)
	}
}

// tied are the instances whose tether a process has, in a run or not; instance
// is one of them, or "" for all. An unreadable process is logged and counts as
// not running: the marker is for display, and a refresh asks the kernel.
func (s *scopeTracker) tied(instance string) map[string]bool {
	list, err := s.ctl.Tethers(instance)
	q := vacancy.Query{Tethers: map[vacancy.Inode]bool{}, TetherFD: runctl.TetherFD}
	of := map[vacancy.Inode]string{}
	for _, tether := range list {
		in := vacancy.Inode{Dev: tether.Dev, Ino: tether.Ino}
		q.Tethers[in], of[in] = true, tether.Instance
	}
	var o vacancy.Outcome
	if err == nil && len(of) > 0 {
		o, err = vacancy.Scan(context.Background(), tiedBudget, q)
	}
	if err != nil {
		s.log.Warn("cannot read which processes have a tether", "instance", instance, "error", err)
	}
	set := map[string]bool{}
	for _, h := range o.Holders {
		set[of[h.Inode]] = true
	}
	return set
}

// tiedBudget bounds the reading of /proc, which takes some five microseconds a process.
const tiedBudget = 5 * time.Second

func (s *scopeTracker) markLocked(instance string, busy bool) (changed bool) {
	before, err := s.ctl.Running(instance)
	if err == nil && before == busy {
		return false
	}
	if !busy {
		err = s.ctl.ClearRunning(instance)
	} else if _, lerr := os.Lstat(s.ctl.LockPath(instance)); lerr == nil {
		err = s.ctl.SetRunning(instance)
	} else {
		return false // of an instance that was removed, or is another agent's
	}
	if err != nil {
		s.log.Warn("cannot keep a marker", "instance", instance, "error", err)
	}
	return true
}

// Busy implements Tracker.
func (s *scopeTracker) Busy(instance string) ([]Process, error) { return s.busy(instance) }

// placePatience bounds the wait for systemd.
const placePatience = 25 * time.Second

// Attach implements Tracker: for a launcher whose user has no systemd
// manager, the system's makes the scope.
func (s *scopeTracker) Attach(instance string, pkg digest.Digest, service string, pid, pidfd int) (string, error) {
	if err := validRun(instance, service); err != nil {
		return "", err
	}
	if service != "" {
		return "", errkind.New(errkind.Invalid, "cannot put process %d into service %s of %s: systemd starts services", pid, service, instance)
	}
	who, err := identify(pid, pidfd)
	if err != nil {
		return "", fmt.Errorf("cannot put process %d into a run of %s: %w", pid, instance, err)
	}
	defer who.close()
	all, err := cgroup.Of(pid)
	if err != nil {
		return "", fmt.Errorf("cannot put process %d into a run of %s: %w", pid, instance, err)
	}
	slice, err := s.sliceFor(all)
	if err != nil {
		return "", errkind.New(errkind.Unavailable, "cannot put process %d into a run of %s: %w", pid, instance, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), placePatience)
	defer cancel()
	connect := scopes.System
	if s.uid >= 0 {
		connect = scopes.User
	}
	m, err := connect(ctx)
	if err != nil {
		return "", err
	}
	defer m.Close()
	name := runname.Scope(instance, pkg, runname.Random())
	err = m.Start(ctx, scopes.Scope{Name: name, Description: instance, Slice: slice, PIDs: []uint32{uint32(pid)}})
	if err == nil {
		err = who.alive()
	}
	if err != nil {
		return "", fmt.Errorf("cannot put process %d into a run of %s: %w", pid, instance, err)
	}
	found, _, err := s.read(func(g group) bool { return filepath.Base(g.dir) == name })
	if err != nil {
		return "", err
	}
	for g := range found {
		return g.cgroup, nil
	}
	return "", fmt.Errorf("cannot put process %d into a run of %s: %s has ended", pid, instance, name)
}

// sliceFor returns the slice for the run of a process with these memberships.
// It is below the process's own slice, so that the limits of that apply to the
// run; "" is the manager's default, for a process that is in none.
func (s *scopeTracker) sliceFor(all []cgroup.Membership) (string, error) {
	if s.uid >= 0 {
		return "", nil // the user's own manager has no other limits
	}
	parts := strings.Split(strings.Trim(cgroup.Unified(all), "/"), "/")
	n := 0
	for n < len(parts) && strings.HasSuffix(parts[n], ".slice") {
		n++
	}
	switch {
	case n == 0:
		return "", nil
	case parts[0] == "system.slice":
		return parts[n-1], nil
	case parts[0] == "user.slice" && n > 1:
		if uid, ok := userOf(parts[1], "user-", ".slice"); ok {
			return fmt.Sprintf("user-%d%s", uid, sliceSuffix), nil
		}
	}
	return "", fmt.Errorf("it is in %s, and runs are followed in system.slice and in slices of users alone", parts[n-1])
}

// Close implements Tracker.
func (s *scopeTracker) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	close(s.stop)
	err := s.closeWatches()
	s.marks.close()
	s.wg.Wait()
	s.hints.close()
	return err
}
