package refresh

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/runctl"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/vacancy"
)

// tie creates the tether that launches of a package need.
func (e *Engine) tie(instance string, pkg digest.Digest) error {
	return e.Runctl.CreateTether(instance, pkg.Short())
}

// Tie creates the tether of the current package, at the start and after links were repaired.
// An instance without a current package has none.
func (e *Engine) Tie(instance string) error {
	_, pkg, err := e.Links.Read(instance)
	if err != nil {
		return nil // its links are repaired first
	}
	return e.tie(instance, pkg)
}

// dropTethers removes the tethers of packages that are not current and that no process has
// open. A launcher that opens one meanwhile notices that another package is current.
func (e *Engine) dropTethers(instance string, current digest.Digest) error {
	if e.Vacancy == nil {
		return nil
	}
	list, err := e.Runctl.Tethers(instance)
	for _, tether := range list {
		if tether.Prefix == current.Short() {
			continue
		}
		seal, oerr := e.Vacancy.Open(e.Runctl.TetherPath(instance, tether.Prefix), nil)
		if errors.Is(oerr, os.ErrNotExist) {
			continue
		}
		if oerr != nil {
			err = errors.Join(err, oerr)
			continue
		}
		if seal.Take().Granted() {
			err = errors.Join(err, e.Runctl.RemoveTether(instance, tether.Prefix))
		}
		seal.Close()
	}
	return err
}

// Tethered lists, by instance, the processes that have a tether open at the usual descriptor.
// It finds them wherever they were moved. It takes some five microseconds for each process of
// the machine.
//
// The result may be as old as tiedFor, unless ForgetTied was called since: many callers ask
// at a time, each for one instance.
func (e *Engine) Tethered() (map[string][]Tied, error) {
	e.tied.mu.Lock()
	found, at, count := e.tied.found, e.tied.at, e.tied.forgotten
	e.tied.mu.Unlock()
	if time.Since(at) < tiedFor {
		return found, nil
	}
	found, err := e.readTied()
	if err != nil {
		return nil, err
	}
	e.tied.mu.Lock()
	defer e.tied.mu.Unlock()
	if e.tied.forgotten == count {
		e.tied.found, e.tied.at = found, time.Now()
	}
	return found, nil
}

// tiedFor is how long a result of Tethered is valid.
const tiedFor = 50 * time.Millisecond

// tiedCache is the last result of Tethered, which is immutable.
type tiedCache struct {
	mu        sync.Mutex // guards the fields below; held for memory access only
	found     map[string][]Tied
	at        time.Time
	shown     *Snapshot // the last one without an error
	shownAt   time.Time
	forgotten int
}

// ForgetTied drops the cached results of Tethered and Shown, because a process has started or
// ended.
func (e *Engine) ForgetTied() {
	e.tied.mu.Lock()
	defer e.tied.mu.Unlock()
	e.tied.at, e.tied.shownAt = time.Time{}, time.Time{}
	e.tied.forgotten++
}

func (e *Engine) readTied() (map[string][]Tied, error) {
	list, err := e.Runctl.Tethers("")
	if err != nil {
		return nil, err
	}
	q := vacancy.Query{Tethers: map[vacancy.Inode]bool{}, TetherFD: runctl.TetherFD}
	of := map[vacancy.Inode]runctl.Tether{}
	for _, tether := range list {
		in := vacancy.Inode{Dev: tether.Dev, Ino: tether.Ino}
		q.Tethers[in], of[in] = true, tether
	}
	if len(of) == 0 {
		return map[string][]Tied{}, nil
	}
	o, err := vacancy.Scan(context.Background(), scanForNames, q)
	if err != nil {
		return nil, err
	}
	found := map[string][]Tied{}
	for _, h := range o.Holders {
		tether := of[h.Inode]
		for _, p := range runs.Describe([]int{h.PID}) {
			found[tether.Instance] = append(found[tether.Instance], Tied{p, tether.Prefix})
		}
	}
	return found, nil
}

// Tied is a process that has a tether open.
type Tied struct {
	runs.Process
	PackagePrefix string // the first 16 digits of the package hash
}

// Running lists the processes of an instance's application: those in its runs, and those that
// have its tether. An error means that they are unknown.
func (e *Engine) Running(instance string) ([]runs.Process, error) {
	procs, err := e.Tracker.Busy(instance)
	if err != nil || e.Vacancy == nil {
		return procs, err
	}
	tied, err := e.Tethered()
	if err != nil {
		return nil, err
	}
	return Join(procs, tied[instance]), nil
}

// Snapshot is what Running would return of each instance, read in one pass. It is not for
// decisions.
type Snapshot struct {
	runs *runs.Snapshot
	tied map[string][]Tied
	err  error
}

// Snapshot reads what runs of all instances. Beside an error, the methods of the snapshot
// return that error.
func (e *Engine) Snapshot() (*Snapshot, error) {
	s := &Snapshot{}
	if s.runs, s.err = e.Tracker.Snapshot(); s.err == nil && e.Vacancy != nil {
		s.tied, s.err = e.Tethered()
	}
	return s, s.err
}

// Shown is Snapshot for callers that bring many objects up to date one after the other: the
// result may be as old as tiedFor, unless ForgetTied was called since.
func (e *Engine) Shown() (*Snapshot, error) {
	e.tied.mu.Lock()
	s, at, count := e.tied.shown, e.tied.shownAt, e.tied.forgotten
	e.tied.mu.Unlock()
	if time.Since(at) < tiedFor {
		return s, nil
	}
	s, err := e.Snapshot()
	if err != nil {
		return s, err
	}
	e.tied.mu.Lock()
	defer e.tied.mu.Unlock()
	if e.tied.forgotten == count {
		e.tied.shown, e.tied.shownAt = s, time.Now()
	}
	return s, nil
}

// Runs lists the runs, and by instance the processes that have a tether. The snapshot must
// have been made without an error.
func (s *Snapshot) Runs() ([]runs.Run, map[string][]Tied) { return s.runs.Runs(), s.tied }

// Of lists the processes of an instance's application, as Running does.
func (s *Snapshot) Of(instance string) ([]runs.Process, error) {
	if s.err != nil {
		return nil, s.err
	}
	return Join(s.runs.Of(instance), s.tied[instance]), nil
}

// Session lists the processes of a service in users' sessions.
func (s *Snapshot) Session(instance, service string) ([]runs.Process, error) {
	if s.err != nil {
		return nil, s.err
	}
	return s.runs.Session(instance, service), nil
}

// Join adds the processes with a tether to those of runs.
func Join(procs []runs.Process, tied []Tied) []runs.Process {
	for _, p := range tied {
		if !slices.ContainsFunc(procs, func(q runs.Process) bool { return q.PID == p.PID }) {
			procs = append(procs, p.Process)
		}
	}
	return procs
}

// andTied adds to the processes of runs those elsewhere that have the tether of the old
// revision, so that all awaited processes are named. Unreadable ones are left out: the
// refresh waits in any case, and rechecks at the end of those in runs.
func (t *task) andTied(procs []runs.Process) []runs.Process {
	if t.e.Vacancy == nil {
		return procs
	}
	pkg, err := t.e.packageOf(t.r.Instance, t.r.From)
	if err != nil {
		return procs
	}
	t.e.ForgetTied() // one of them may just have ended, which may be the reason for this check
	tied, err := t.e.Tethered()
	if err != nil {
		t.e.Log.Warn("cannot read which processes have the tether of a package", "instance", t.r.Instance, "error", err)
		return procs
	}
	return Join(slices.Clone(procs), slices.DeleteFunc(slices.Clone(tied[t.r.Instance]), func(p Tied) bool { return p.PackagePrefix != pkg.Short() }))
}
