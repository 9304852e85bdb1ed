package refresh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/lib/runctl"
	"github.com/lull/lull/agent/lib/wallclock"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/vacancy"
)

// sealing is a task's state of leases. An instance is vacant when the kernel grants the
// leases of its tether and of the executable files of its current package. They are kept
// until the swap, so that nothing can begin meanwhile:
//
//	inhibit        under the exclusive lock: the tether, and the files that no service of
//	               the instance uses; if a service runs, or a hook will run before the
//	               data is copied, only the tether's lease is kept, because these execute
//	               files of the package
//	stop-services  at its end, when no service and no hook runs any more: all
//	link           checked, then the swap, then all are released: the next processes to
//	               start may use the same inodes
//
// While a service of the instance endures, none of the files is leased: the service goes
// on during the section, and each of its execs from the package would wait for the end of
// the section. /proc is read instead, as if leases were refused.
//
// Undoing releases the leases first. They end with the agent, too, and its successor
// undoes the section.
type sealing struct {
	seal    *vacancy.Seal          // with leases from inhibit to link; nil means none
	beside  []*vacancy.File        // files that are not leased because a service endures, which may execute them at any time
	out     map[vacancy.Inode]bool // files that were open for longer than the window and are ignored
	refused []*vacancy.File        // leases of them are refused
	scans   int                    // scans of /proc that found nothing, where leases are refused
	ghosts  int                    // denials in a row without a process found
	deaf    int                    // denials in a row whose end raises no event, for want of inotify
	breaks  int                    // sections in a row that were undone because it did not stay vacant
	after   time.Time              // no section begins before; zero means no limit
	watch   *vacancy.Watch         // of the files that were denied, while the refresh waits
	told    bool                   // it was logged that leases are refused
}

// denial is why the instance is not vacant although it has no run.
type denial struct {
	tether *vacancy.File // nil if it was granted, or there is none
	files  []*vacancy.File
	scan   bool // leases are refused: /proc must be read before the next try
}

func (d *denial) Error() string { return "the package is in use" }

// openSeal opens the files that must be leased; nil means that none need be.
func (t *task) openSeal() (*vacancy.Seal, error) {
	if t.e.Vacancy == nil || t.r.From == 0 || t.mayReplaceRunning(t.settings()) {
		return nil, nil
	}
	pkg, err := t.e.packageOf(t.r.Instance, t.r.From)
	if err != nil {
		return nil, err
	}
	if err := t.e.Runctl.CreateTether(t.r.Instance, pkg.Short()); err != nil {
		return nil, err
	}
	files, err := t.e.sealableFiles(t.r.Instance, pkg)
	if err != nil {
		return nil, fmt.Errorf("cannot list the executable files of %s: %w", t.r.Instance, err)
	}
	seal, err := t.e.Vacancy.Open(t.e.Runctl.TetherPath(t.r.Instance, pkg.Short()), files)
	if err == nil && len(t.out) > 0 {
		seal.Forget(func(f *vacancy.File) bool { return t.out[f.Inode] })
	}
	return seal, err
}

// serviceFiles returns the inodes that services of the instance use.
func (t *task) serviceFiles() (set map[vacancy.Inode]bool, err error) {
	procs, ofSessions, err := t.serviceProcs()
	if err != nil || len(procs) == 0 {
		return nil, err
	}
	set = map[vacancy.Inode]bool{}
	for _, p := range procs {
		files, err := vacancy.FilesOf(p.PID)
		if err != nil && !ofSessions[p.PID] {
			return nil, err
		}
		// Files in use by an unreadable process of a session are not left out of the seal.
		// Their leases are denied, and the denial names the user.
		for in := range files {
			set[in] = true
		}
	}
	return set, nil
}

// serviceProcs returns the processes of all services of the instance, including those in
// users' sessions, which are stopped in the section as well.
func (t *task) serviceProcs() (procs []runs.Process, ofSessions map[int]bool, err error) {
	running, err := t.e.Tracker.Services(t.r.Instance)
	if err != nil {
		return nil, nil, err
	}
	procs = running.Service(t.r.Instance, "")
	list, _, err := t.oldSessionServices()
	if err != nil {
		return nil, nil, err
	}
	ofSessions = map[int]bool{}
	for _, run := range sessionRunsIn(running, list) {
		procs = append(procs, run.processes...)
		for _, p := range run.processes {
			ofSessions[p.PID] = true
		}
	}
	for _, p := range t.enduringIn(running) {
		if !slices.Contains(procs, p) {
			procs = append(procs, p)
			ofSessions[p.PID] = true
		}
	}
	return procs, ofSessions, nil
}

// enduringProcs returns the processes of the services that go on during the section.
func (t *task) enduringProcs() (procs []runs.Process, err error) {
	if len(t.enduringServices()) == 0 {
		return nil, nil
	}
	running, err := t.e.Tracker.Services(t.r.Instance)
	if err != nil {
		return nil, err
	}
	return t.enduringIn(running), nil
}

func (t *task) enduringIn(running *runs.Snapshot) (procs []runs.Process) {
	for _, name := range t.enduringServices() {
		procs = append(procs, running.Service(t.r.Instance, name)...)
		procs = append(procs, running.Session(t.r.Instance, name)...)
	}
	return procs
}

// scan reads /proc for processes that use files, or the tether. It leaves out the processes
// of services, because new ones may come at any time. A process that has ended uses nothing.
func (t *task) scan(budget time.Duration, files []*vacancy.File, deep bool, services func() ([]runs.Process, error)) (vacancy.Outcome, error) {
	q := t.query(files, deep)
	own := map[int]bool{}
	list := func() error {
		procs, err := services()
		for _, p := range procs {
			own[p.PID] = true
		}
		return err
	}
	if err := list(); err != nil {
		return vacancy.Outcome{}, err
	}
	q.Skip = func(pid int) bool { return own[pid] }
	o, err := vacancy.Scan(context.Background(), budget, q)
	if err != nil || len(o.Holders) == 0 || len(own) == 0 {
		return o, err
	}
	clear(own)
	err = list()
	o.Holders = slices.DeleteFunc(o.Holders, func(h vacancy.Holder) bool { return own[h.PID] || len(runs.Describe([]int{h.PID})) == 0 })
	return o, err
}

// allServices returns the processes of all services, for scan.
func (t *task) allServices() ([]runs.Process, error) {
	procs, _, err := t.serviceProcs()
	return procs, err
}

// enduringServices returns the names of services that go on during the section.
func (t *task) enduringServices() (names []string) {
	pkg, err := t.e.packageOf(t.r.Instance, t.r.From)
	if err != nil {
		return nil
	}
	m, err := t.e.Store.Launch(pkg)
	if err != nil {
		return nil
	}
	for _, s := range m.Services {
		if s.RefreshMode == manifest.ModeEndure {
			names = append(names, s.Name)
		}
	}
	return names
}

// hasHook reports whether a hook of the old revision runs in the section before the swap.
func (t *task) hasHook() bool {
	if t.r.Kind != plan.Update {
		return false
	}
	pkg, err := t.e.packageOf(t.r.Instance, t.r.From)
	if err != nil {
		return true
	}
	m, err := t.e.Store.Launch(pkg)
	return err != nil || len(m.Hooks[manifest.HookPreRefresh]) > 0
}

// takeSeal is the check under the exclusive lock. services holds the files of running
// services. The leases that it has taken are kept if it returns nil.
func (t *task) takeSeal(seal *vacancy.Seal, services map[vacancy.Inode]bool) *denial {
	r := seal.Take()
	r.Refused = append(r.Refused, t.beside...)
	denied := slices.DeleteFunc(r.Denied, func(f *vacancy.File) bool { return services[f.Inode] })
	t.refused = r.Refused
	switch {
	case r.Tether, len(denied) > 0:
		seal.Release(true)
		d := &denial{files: denied}
		if r.Tether {
			d.tether = seal.Tether()
		}
		return d
	case len(r.Refused) == 0:
		return nil
	}
	if r.Cause != nil {
		t.sayRefused(r.Cause)
	}
	// Two checks without the lock come first, so that this one only finds new processes.
	if t.scans < scansBefore {
		seal.Release(true)
		return &denial{scan: true, files: r.Refused}
	}
	if o, err := t.scan(scanUnderLock, r.Refused, false, t.allServices); err != nil || o.Runs() || !o.Complete {
		t.scans = 0
		seal.Release(true)
		return &denial{files: r.Refused}
	}
	return nil
}

// Where leases are refused, /proc is read scansBefore times without the lock, and once
// under it, without mappings and for no longer than scanUnderLock.
const (
	scansBefore   = 2
	scanUnderLock = 250 * time.Millisecond
	scanForNames  = 5 * time.Second
)

func (t *task) sayRefused(cause error) {
	if t.told {
		return
	}
	t.told = true
	t.e.Log.Warn("the kernel gives no proof that nothing runs, so /proc is read instead", messages.Key, messages.LeasesRefused, "instance", t.r.Instance, "error", cause)
}

// query returns a query for processes that use files, or the tether of the old revision.
func (t *task) query(files []*vacancy.File, deep bool) vacancy.Query {
	q := vacancy.Query{Files: map[vacancy.Inode]bool{}, Tethers: map[vacancy.Inode]bool{}, TetherFD: runctl.TetherFD, Deep: deep}
	for _, f := range files {
		q.Files[f.Inode] = true
	}
	if pkg, err := t.e.packageOf(t.r.Instance, t.r.From); err == nil {
		if in := inode(t.e.Runctl.TetherPath(t.r.Instance, pkg.Short())); in != (vacancy.Inode{}) {
			q.Tethers[in] = true
			delete(q.Files, in)
		}
	}
	return q
}

// occupied parks the refresh, and names the processes that hold the package.
func (t *task) occupied(d *denial) error {
	watched := d.files
	if d.tether != nil {
		watched = []*vacancy.File{d.tether}
	}
	w, err := vacancy.WatchClosed(watched, t.nudge)
	if err != nil {
		t.e.Log.Debug("cannot watch the files of a package, so it is looked at again and again", "instance", t.r.Instance, "error", err)
	}
	t.watch = w
	o, err := t.scan(scanForNames, d.files, true, t.allServices)
	if err != nil {
		t.e.Log.Warn("cannot read which processes use a package", "instance", t.r.Instance, "error", err)
	}
	s := t.settings()
	if d.tether == nil && o.Complete && len(o.Holders) > 0 && !o.Runs() && t.window(s).Over(wallclock.Now()) {
		// The file was only open, for the whole window. An open file is
		// not collected, and postpones the refresh no longer.
		if t.out == nil {
			t.out = map[vacancy.Inode]bool{}
		}
		for _, f := range d.files {
			t.out[f.Inode] = true
		}
		return t.leave(&busyError{until: wallclock.Now()})
	}
	var pids, readers []int
	for _, h := range o.Holders {
		pids = append(pids, h.PID)
		if !h.Use.Runs() {
			readers = append(readers, h.PID)
		}
	}
	procs := runs.Describe(pids)
	if len(procs) > 0 {
		t.ghosts = 0
	} else if t.ghosts < maxGhosts {
		// It has ended, or is a service that has just executed its program.
		t.ghosts++
		return t.leave(&busyError{until: wallclock.Now().Add(ghostPause)})
	}
	if len(procs) == 0 {
		procs = []runs.Process{runs.Unseen}
	}
	err = t.postpone(s, procs, time.Time{})
	var busy *busyError
	if errors.As(err, &busy) {
		busy.readers = slices.DeleteFunc(slices.Clone(procs), func(p runs.Process) bool { return !slices.Contains(readers, p.PID) })
	}
	if t.watch != nil {
		t.deaf = 0
	} else {
		t.deaf++
	}
	if errors.As(err, &busy) && (d.tether == nil || t.deaf > 0) {
		busy.until = earlier(busy.until, wallclock.Now().Add(t.closePause()))
	}
	return err
}

// closePause is the time after which a denial is rechecked whose end may raise no event: that
// of a use through an overlay, and without inotify of any use.
func (t *task) closePause() time.Duration {
	if t.deaf == 0 {
		return unreadablePause
	}
	return min(deafPause<<min(t.deaf-1, 20), unreadablePause)
}

// deafPause is the first pause without inotify; each is twice as long as the previous one.
const deafPause = time.Second

// A denial without a process found is rechecked after ghostPause, maxGhosts times. Then the
// package is held by something invisible from here.
const (
	ghostPause = 200 * time.Millisecond
	maxGhosts  = 5
)

// besideServices finds other processes that use the files of running services. These leases
// cannot be requested before the services are stopped, and a refresh that has to wait must
// not stop them.
func (t *task) besideServices() (*denial, error) {
	seal, err := t.openSeal()
	if seal == nil || err != nil {
		return nil, err
	}
	defer seal.Close()
	inService, err := t.serviceFiles()
	if err != nil || len(inService) == 0 {
		return nil, err
	}
	var files []*vacancy.File
	for _, f := range append(seal.Files(), seal.Denied()...) {
		if inService[f.Inode] {
			files = append(files, f)
		}
	}
	if len(files) == 0 {
		return nil, nil
	}
	o, err := t.scan(scanForNames, files, true, t.allServices)
	if err != nil {
		return nil, err
	}
	used := map[vacancy.Inode]bool{}
	for _, h := range o.Holders {
		used[h.Inode] = true
	}
	files = slices.DeleteFunc(files, func(f *vacancy.File) bool { return !used[f.Inode] })
	if len(files) == 0 {
		return nil, nil
	}
	return &denial{files: files}, nil
}

// scanRefused is a check without the lock, where leases are refused.
func (t *task) scanRefused(d *denial) (vacant bool) {
	o, err := t.scan(scanForNames, d.files, true, t.allServices)
	if err != nil || !o.Complete || o.Runs() {
		t.scans = 0
		return false
	}
	t.scans++
	return true
}

// sealRest takes all leases when no service and no hook runs any more.
func (t *task) sealRest() error {
	if t.seal == nil {
		return nil
	}
	var r vacancy.Result
	done := vacancy.Retry(func() bool {
		r = t.seal.Take()
		return !r.Tether && len(r.Denied) == 0
	})
	if r.Refused = append(r.Refused, t.beside...); done && len(r.Refused) > 0 {
		o, err := t.scan(scanForNames, r.Refused, true, t.enduringProcs)
		done = err == nil && o.Complete && !o.Runs()
		r.Denied = r.Refused
	}
	if done {
		return nil
	}
	return t.broken(fmt.Errorf("%d files of its package are in use outside of its services", max(len(r.Denied), 1)))
}

// intact is the last check before the swap.
func (t *task) intact() error {
	if t.seal == nil {
		return nil
	}
	if err := t.seal.Intact(); err != nil {
		return t.broken(err)
	}
	if len(t.refused) > 0 {
		o, err := t.scan(scanForNames, t.refused, true, t.enduringProcs)
		if err != nil || !o.Complete || o.Runs() {
			return t.broken(errors.Join(errors.New("something of it has started meanwhile"), err))
		}
	}
	return nil
}

// broken makes the task undo and retry the section. In a group it fails instead, because the
// other members wait with launches inhibited.
func (t *task) broken(cause error) error {
	t.e.Log.Warn("undoing a refresh because the package did not stay vacant", messages.Key, messages.SealBroken, "refresh", t.r.ID, "instance", t.r.Instance, "error", cause)
	if t.group != nil {
		return errkind.New(errkind.Busy, "cannot refresh %s: %w", t.r.Instance, cause)
	}
	t.after = wallclock.Now().Add(min(firstPause<<min(t.breaks, 20), lastPause))
	t.breaks++
	return &busyError{}
}

// A section that was undone because the package did not stay vacant is retried after
// firstPause, and each time after twice as long, up to lastPause: its services were stopped
// in vain.
const (
	firstPause = time.Second
	lastPause  = 10 * time.Minute
)

// unseal releases all leases.
func (t *task) unseal() {
	if t.seal != nil {
		t.seal.Close()
		t.seal = nil
	}
}

func (t *task) dropWatch() {
	t.watch.Close()
	t.watch = nil
}
