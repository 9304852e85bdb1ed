package runs

import (
	"cmp"
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

	"github.com/lull/lull/agent/cgroup"
	"github.com/lull/lull/agent/digest"
	"github.com/lull/lull/agent/messages"
	"github.com/lull/lull/agent/problem"
	"github.com/lull/lull/agent/runctl"
	"github.com/lull/lull/agent/runctl/inotify"
	"github.com/lull/lull/agent/runs/runname"
	"github.com/lull/lull/agent/runs/transient"
)

// scopeTracker finds the scopes and service units that systemd keeps for lull:
// below system.slice and below every user's manager. Launchers make the scopes;
// the tracker only reads, and keeps .running.
type scopeTracker struct {
	base
	top     string           // of the unified hierarchy
	uid     int              // of the only user whose manager counts; -1: the system's and everybody's
	in      *inotify.Watcher // nil: there is no inotify, everything is polled
	markers *runctl.Watch    // nil with in
	marks   *hints           // instances whose .running may have to change
	look    chan struct{}    // capacity 1: polling is to begin
	stop    chan struct{}
	wg      sync.WaitGroup

	mu      sync.Mutex      // guards what follows, and makes a change of .running and its reason one
	watches map[int]watched // by inotify watch
	paths   map[string]int  // the watch of a folder
	missed  error           // why something is not watched that should be; nil: all is
	asked   map[string]bool // instances of which somebody was told that something runs, since the last poll
	closed  bool
}

// watched is a folder in which units appear, or the group of a run.
type watched struct {
	dir      string
	instance string // of a run; "" for a folder
}

func newScope(ctl *runctl.Dir, l cgroup.Layout, opts Options) (*scopeTracker, error) {
	if l.Unified == "" || !l.SystemdUnified {
		return nil, problem.New(problem.Unavailable, "cannot use the scope tracker: systemd does not run this machine with cgroup v2")
	}
	uid := -1
	if opts.UserMode {
		uid = os.Getuid()
	}
	s := &scopeTracker{
		top: l.Unified, uid: uid, watches: map[int]watched{}, paths: map[string]int{}, asked: map[string]bool{},
		look: make(chan struct{}, 1), stop: make(chan struct{}),
	}
	s.base = base{
		ctl: ctl, log: opts.Log, known: map[string]bool{},
		manner: "cgroup.events of systemd's scopes and inotify",
		all:    func() ([]group, error) { return s.list(nil) },
	}
	s.of = func(string, bool) ([]group, error) { return s.all() }
	if uid >= 0 {
		if _, err := os.Lstat(s.own()); err != nil {
			return nil, problem.New(problem.Unavailable, "cannot use the scope tracker: the user's systemd does not run: %w", err)
		}
	}
	if err := s.listen(); err != nil {
		s.polls = true
		s.manner = fmt.Sprintf("systemd's scopes are looked at every %v (no inotify: %v)", pollEvery, err)
	} else {
		s.blind = s.blindness
	}
	s.hints, s.marks = newHints(), newHints()
	if err := s.lookAtAll(); err != nil {
		s.deafen()
		s.hints.close()
		s.marks.close()
		return nil, err
	}
	s.wg.Go(s.poll)
	s.wg.Go(func() {
		for instance := range s.marks.out {
			if s.mark(instance) {
				s.hints.give(instance) // for those who wait for the marker
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

// own is the group of the agent's user's manager.
func (s *scopeTracker) own() string {
	id := strconv.Itoa(s.uid)
	return filepath.Join(s.top, "user.slice", "user-"+id+".slice", "user@"+id+".service")
}

// A role says what may lie in a folder of systemd's tree.
type role int

const (
	ignored   role = iota
	theRoot        // system.slice, user.slice
	users          // user.slice: user-UID.slice
	user           // user-UID.slice: user@UID.service
	units          // system.slice, user@UID.service, slices below: slices and units
	runOfApp       // a scope of ours
	runOfDmon      // a service unit of ours
)

// child says what a folder is from the role of its parent and its name.
func child(parent role, name string) role {
	switch parent {
	case theRoot:
		switch name {
		case "system.slice":
			return units
		case "user.slice":
			return users
		}
	case users:
		if strings.HasPrefix(name, "user-") && strings.HasSuffix(name, ".slice") {
			return user
		}
	case user:
		if strings.HasPrefix(name, "user@") && strings.HasSuffix(name, ".service") {
			return units
		}
	case units:
		if strings.HasSuffix(name, ".slice") {
			return units
		}
		if _, _, ok := runname.ParseScope(name); ok {
			return runOfApp
		}
		if _, _, ok := runname.ParseServiceUnit(name); ok {
			return runOfDmon
		}
	}
	return ignored
}

// list walks the tree. enter, if there is one, is called for each folder before
// it is read, so that nothing can appear between a look and a watch. A folder
// that vanishes makes the walk begin again.
func (s *scopeTracker) list(enter func(dir string) error) ([]group, error) {
	start, as := s.top, theRoot
	if s.uid >= 0 {
		start, as = s.own(), units
	}
	for range rounds {
		groups, err := s.walk(start, as, enter)
		if err == nil {
			return groups, nil
		}
		if !cgroup.Gone(err) {
			return nil, fmt.Errorf("cannot list the runs: %w", err)
		}
		if s.uid >= 0 {
			if _, serr := os.Lstat(start); serr != nil && cgroup.Gone(serr) {
				return nil, nil // the manager has ended, and everything with it
			}
		}
	}
	return nil, fmt.Errorf("cannot list the runs: %w", errRestless)
}

func (s *scopeTracker) walk(dir string, as role, enter func(dir string) error) ([]group, error) {
	if enter != nil {
		if err := enter(dir); err != nil {
			return nil, err
		}
	}
	names, err := cgroup.Groups(dir)
	if err != nil {
		return nil, err
	}
	var all []group
	for _, name := range names {
		sub := filepath.Join(dir, name)
		switch r := child(as, name); r {
		case ignored:
		case runOfApp, runOfDmon:
			all = append(all, s.group(sub))
		default:
			more, err := s.walk(sub, r, enter)
			if err != nil {
				return nil, err
			}
			all = append(all, more...)
		}
	}
	return all, nil
}

// group reads the name of a run's unit, which child has recognised.
func (s *scopeTracker) group(dir string) group {
	g := group{dir: dir, cgroup: strings.TrimPrefix(dir, strings.TrimSuffix(s.top, "/"))}
	var ok bool
	if g.instance, g.prefix, ok = runname.ParseScope(filepath.Base(dir)); !ok {
		g.instance, g.service, _ = runname.ParseServiceUnit(filepath.Base(dir))
		g.isSvc = true
	}
	return g
}

// lookAtAll watches all that is there and re-reads every instance.
func (s *scopeTracker) lookAtAll() error {
	if _, err := s.watchAll(); err != nil {
		return err
	}
	installed, err1 := s.ctl.Instances()
	marked, err2 := s.ctl.AllRunning()
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	instances := slices.Concat(installed, marked)
	slices.Sort(instances)
	for _, i := range slices.Compact(instances) {
		s.mark(i)
	}
	s.hints.give("")
	return nil
}

// mark makes .running say whether the application runs; changed says that it did not.
func (s *scopeTracker) mark(instance string) (changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, _ := s.ctl.Running(instance) // what cannot be read is written again
	after := before
	ps, err := s.busy(instance)
	if err != nil {
		s.log.Warn("cannot tell what runs, so it counts as running", messages.Key, messages.RunsUnreadable, "instance", instance, "error", err)
	}
	if err == nil && len(ps) == 0 {
		err, after = s.ctl.ClearRunning(instance), false
	} else if _, lerr := os.Lstat(s.ctl.LockPath(instance)); lerr == nil {
		err, after = s.ctl.SetRunning(instance), true
	}
	if err != nil {
		s.log.Warn("cannot keep a marker", "instance", instance, "error", err)
	}
	return after != before
}

// roleOf finds a folder's role from its path.
func (s *scopeTracker) roleOf(dir string) role {
	start, r := s.top, theRoot
	if s.uid >= 0 {
		start, r = s.own(), units
	}
	rel, err := filepath.Rel(start, dir)
	if err != nil {
		return ignored
	}
	for name := range strings.SplitSeq(rel, "/") {
		r = child(r, name)
	}
	return r
}

// Busy implements Tracker.
func (s *scopeTracker) Busy(instance string) ([]Process, error) {
	ps, err := s.busy(instance)
	if err != nil || len(ps) > 0 {
		s.promise(instance)
	}
	return ps, err
}

// ServiceProcs implements Tracker.
func (s *scopeTracker) ServiceProcs(instance, service string) ([]Process, error) {
	ps, err := s.base.ServiceProcs(instance, service)
	if err != nil || len(ps) > 0 {
		s.promise(instance)
	}
	return ps, err
}

// placePatience bounds the wait for systemd.
const placePatience = 25 * time.Second

// Place implements Tracker: for a launcher whose user has no systemd of his
// own, the system's makes the scope.
func (s *scopeTracker) Place(instance string, pkg digest.Digest, service string, pid, pidfd int) (string, error) {
	if err := validRun(instance, service); err != nil {
		return "", err
	}
	if service != "" {
		return "", problem.New(problem.Invalid, "cannot put process %d into service %s of %s: systemd starts services", pid, service, instance)
	}
	who, err := identify(pid, pidfd)
	if err != nil {
		return "", fmt.Errorf("cannot put process %d into a run of %s: %w", pid, instance, err)
	}
	defer who.close()
	ctx, cancel := context.WithTimeout(context.Background(), placePatience)
	defer cancel()
	connect := transient.System
	if s.uid >= 0 {
		connect = transient.User
	}
	m, err := connect(ctx)
	if err != nil {
		return "", err
	}
	defer m.Close()
	name := runname.Scope(instance, pkg, runname.Random())
	err = m.Start(ctx, transient.Scope{Name: name, Description: "lull run " + instance, PIDs: []uint32{uint32(pid)}})
	if err == nil {
		err = who.alive()
	}
	if err != nil {
		return "", fmt.Errorf("cannot put process %d into a run of %s: %w", pid, instance, err)
	}
	groups, err := s.all()
	if err != nil {
		return "", err
	}
	for _, g := range groups {
		if filepath.Base(g.dir) == name {
			return g.cgroup, nil
		}
	}
	return "", fmt.Errorf("cannot put process %d into a run of %s: %s has ended", pid, instance, name)
}

// Runs implements Tracker. The units of services carry no package hash.
func (s *scopeTracker) Runs() ([]Run, error) {
	list, err := s.base.Runs()
	for _, r := range list {
		s.promise(r.Instance)
	}
	slices.SortStableFunc(list, func(a, b Run) int { return cmp.Compare(a.Instance, b.Instance) })
	return list, err
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
	err := s.deafen()
	s.marks.close()
	s.wg.Wait()
	s.hints.close()
	return err
}
