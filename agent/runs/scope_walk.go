package runs

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lull/lull/agent/lib/cgroup"
	"github.com/lull/lull/agent/lib/printable"
	"github.com/lull/lull/agent/lib/runname"
)

// A user may make any groups below the user's own manager. Reading them is
// bounded: a desktop session has some 50 slices, 200 units and 5 levels.
const (
	maxDepth  = 16   // levels of slices below the user's manager
	maxSlices = 512  // slices that are listed, over all attempts
	maxNames  = 8192 // groups in the slices, likewise
	maxRuns   = 1024 // runs that are opened, likewise
	maxInRun  = 256  // groups below a run; more than that are not needed to name a process
	maxTime   = 500 * time.Millisecond
	maxTries  = 16 // attempts, when groups vanish while they are read
)

var (
	errDeep = fmt.Errorf("its slices are more than %d levels deep", maxDepth)
	errMany = fmt.Errorf("it has more than %d slices, or %d groups in them", maxSlices, maxNames)
	errRuns = fmt.Errorf("it has more than %d runs", maxRuns)
	errSlow = fmt.Errorf("it cannot be read within %s", printable.Duration(maxTime))
)

// Unread is a user whose groups cannot be read, or not within the bounds. The
// user counts as running every application.
type Unread struct {
	UID uint32
	Err error
}

// unreadCommand is the command of a process that may exist.
const unreadCommand = "unread cgroups"

// theSystem is the UID of the branch of the agent's own manager.
const theSystem = -1

// sliceSuffix ends the name of the slice, below a user's, where the system's
// manager keeps runs that the agent has made for that user.
const sliceSuffix = "-lull.slice"

// systemFor is the UID of the branch below that slice. Like theSystem it is negative:
// only root makes groups in it.
func systemFor(uid int) int { return -3 - uid }

// branch is the part of the tree that one manager keeps.
type branch struct {
	uid  int    // theSystem, systemFor a user, or the user
	path string // below the top
}

// branches lists the existing branches. Above them only root makes groups.
// enter, if not nil, is called for each directory where one can appear.
func (s *scopeTracker) branches(enter func(d *cgroup.Dir, path string) error) ([]branch, error) {
	if s.uid >= 0 {
		all := []branch{{theSystem, s.ownPath()}}
		if enter == nil {
			return all, nil
		}
		path := filepath.Dir(s.ownPath())
		d, err := cgroup.OpenDir(filepath.Join(s.top, path))
		if err == nil {
			defer d.Close()
			err = enter(d, path)
		}
		if cgroup.Gone(err) {
			err = nil // the user's manager has ended, and everything with it
		}
		return all, err
	}
	top, err := cgroup.OpenDir(s.top)
	if err != nil {
		return nil, err
	}
	defer top.Close()
	all := []branch{{theSystem, "system.slice"}}
	// visit calls f for each group below a directory. One that is gone has nothing below.
	visit := func(d *cgroup.Dir, name, path string, f func(d *cgroup.Dir, name string) error) error {
		sub, err := d.Open(name)
		if err == nil {
			defer sub.Close()
			if enter != nil {
				err = enter(sub, path)
			}
		}
		var names []string
		if err == nil {
			names, err = sub.Groups(1 << 20)
		}
		if cgroup.Gone(err) {
			return nil
		}
		for _, n := range names {
			err = errors.Join(err, f(sub, n))
		}
		return err
	}
	if enter != nil {
		if err := enter(top, ""); err != nil {
			return nil, err
		}
	}
	const users = "user.slice"
	err = visit(top, users, users, func(d *cgroup.Dir, slice string) error {
		uid, ok := userOf(slice, "user-", ".slice")
		if !ok {
			return nil
		}
		path := users + "/" + slice
		return visit(d, slice, path, func(_ *cgroup.Dir, service string) error {
			if of, ok := userOf(service, "user@", ".service"); ok && of == uid {
				all = append(all, branch{uid, path + "/" + service})
			}
			if of, ok := userOf(service, "user-", sliceSuffix); ok && of == uid {
				all = append(all, branch{systemFor(uid), path + "/" + service})
			}
			return nil
		})
	})
	return all, err
}

// userOf reads the UID from the name of a unit of systemd's.
func userOf(name, before, behind string) (uid int, ok bool) {
	id, ok1 := strings.CutPrefix(name, before)
	id, ok2 := strings.CutSuffix(id, behind)
	n, err := strconv.ParseUint(id, 10, 32)
	return int(n), ok1 && ok2 && err == nil && n != 1<<32-1
}

// walk reads a branch, as often as it has to, within one allowance.
type walk struct {
	s      *scopeTracker
	b      branch
	slices int // what may still be read
	names  int
	runs   int
	tries  int
	inRuns int // groups below runs
	until  time.Time
	enter  func(d *cgroup.Dir, path string) error // before a slice is listed; may be nil
	run    func(parent *cgroup.Dir, g group) error
}

func (s *scopeTracker) newWalk(b branch) *walk {
	w := &walk{s: s, b: b, slices: maxSlices, names: maxNames, runs: maxRuns, inRuns: maxSlices, tries: maxTries, until: time.Now().Add(maxTime)}
	if b.uid < 0 { // what is there is root's
		w.slices, w.names, w.runs, w.inRuns, w.tries = 1<<30, 1<<30, 1<<30, 1<<30, rounds
	}
	return w
}

// read calls enter for each slice before it is listed, so that nothing can
// appear between a read and a watch, and run for each group of a run. A
// vanished group restarts the reading; begin is called before each. A branch
// that has vanished is empty.
func (w *walk) read(begin func()) error {
	for ; w.tries > 0; w.tries-- {
		begin()
		top, err := cgroup.OpenDir(filepath.Join(w.s.top, w.b.path))
		if cgroup.Gone(err) {
			return nil
		}
		if err != nil {
			return err
		}
		err = w.slice(top, w.b.path, 0)
		top.Close()
		if !cgroup.Gone(err) {
			return err
		}
	}
	return errRestless
}

func (w *walk) slice(d *cgroup.Dir, path string, depth int) error {
	if w.b.uid >= 0 {
		switch w.slices--; {
		case depth > maxDepth:
			return errDeep
		case w.slices < 0:
			return errMany
		case time.Now().After(w.until):
			return errSlow
		}
	}
	if w.enter != nil {
		if err := w.enter(d, path); err != nil {
			return err
		}
	}
	names, count, err := d.GroupsLike(w.names, mayHaveRole)
	if errors.Is(err, cgroup.ErrTooMany) {
		return errMany
	}
	if err != nil {
		return err
	}
	w.names -= count
	if w.b.uid >= 0 && countSlices(names) > w.slices {
		return errMany // before any of them is opened, and watched
	}
	slices.Sort(names)
	for _, name := range names {
		switch roleOf(name) {
		case slice:
			sub, err := d.Open(name)
			if err != nil {
				return err
			}
			err = w.slice(sub, path+"/"+name, depth+1)
			sub.Close()
			if err != nil {
				return err
			}
		case runOfApp, runOfDmon:
			if err := w.run(d, w.s.group(w.b, path+"/"+name)); err != nil {
				return err
			}
		}
	}
	return nil
}

func countSlices(names []string) (n int) {
	for _, name := range names {
		if roleOf(name) == slice {
			n++
		}
	}
	return n
}

// group reads the name of a run's unit, which roleOf has recognised.
func (s *scopeTracker) group(b branch, path string) group {
	g := group{dir: s.top + "/" + path, cgroup: "/" + path, branch: b.uid}
	if b.uid >= 0 {
		g.session, g.uid = true, uint32(b.uid)
	}
	var ok bool
	if g.instance, g.prefix, ok = runname.ParseScope(filepath.Base(path)); !ok {
		g.instance, g.service, _ = runname.ParseServiceUnit(filepath.Base(path))
		g.isSvc = true
	}
	return g
}

// find reads the processes of the runs that match, and which users could not be
// read. An error means that the system's own groups could not.
func (s *scopeTracker) find(match func(group) bool) (map[group][]Process, []Unread, error) {
	list, err := s.branches(nil)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot list the runs: %w", err)
	}
	all := map[group][]Process{}
	var unread []Unread
	for _, b := range list {
		found, err := s.newWalk(b).find(match)
		switch {
		case err == nil:
		case b.uid < 0:
			return nil, nil, fmt.Errorf("cannot read the runs: %w", err)
		default:
			unread = append(unread, Unread{uint32(b.uid), err})
		}
		maps.Copy(all, found)
	}
	return all, unread, nil
}

func (w *walk) find(match func(group) bool) (map[group][]Process, error) {
	var found map[group][]Process
	var vanished bool
	w.run = func(parent *cgroup.Dir, g group) error {
		if !match(g) {
			return nil
		}
		if w.runs--; w.runs < 0 {
			return errRuns
		}
		ps, err := w.processes(parent, g)
		if cgroup.Gone(err) {
			vanished = true
			return nil
		}
		if err != nil && g.session {
			ps, err = []Process{{UID: g.uid, Command: unreadCommand}}, nil
		}
		if len(ps) > 0 {
			found[g] = ps
		}
		return err
	}
	for ; w.tries > 0; w.tries-- {
		// The processes of a vanished group may be elsewhere. Found processes
		// are alive; only an empty result must be certain.
		err := w.read(func() { found, vanished = map[group][]Process{}, false })
		if err != nil || !vanished || len(found) > 0 {
			return found, err
		}
	}
	return nil, errRestless
}

// processes reads those of a run and of the groups below it. If one ends
// meanwhile, the run is re-read, so that the last exit is not missed. One
// process without a PID represents those that cannot be named.
func (w *walk) processes(parent *cgroup.Dir, g group) (ps []Process, err error) {
	d, err := parent.Open(filepath.Base(g.dir))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	for range 10 {
		if populated, err := d.Populated(); err != nil || !populated {
			return nil, err
		}
		budget := min(maxInRun, max(w.inRuns, 0))
		w.inRuns -= budget
		pids, complete, err := d.Procs(maxDepth, &budget)
		w.inRuns += max(budget, 0)
		if err != nil {
			return nil, err
		}
		slices.Sort(pids)
		ps = ps[:0]
		ended := len(pids) == 0
		for _, pid := range slices.Compact(pids) {
			p, err := describe(pid)
			if pid == 0 {
				p.UID = g.uid
			}
			ended = ended || err != nil
			ps = append(ps, p)
		}
		if !ended {
			return ps, nil
		}
		if !complete && len(ps) == 0 {
			break
		}
	}
	if len(ps) == 0 {
		ps = append(ps, Process{UID: g.uid, Command: unreadCommand})
	}
	return ps, nil
}
