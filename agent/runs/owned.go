package runs

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/cgroup"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/faultpoint"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/lib/runctl"
	"github.com/lull/lull/agent/lib/runname"
)

// ownedTracker is a tracker that makes the groups itself: freezer and subtree.
// They differ in where the groups are and in how an empty one is noticed.
type ownedTracker struct {
	base
	name   string
	groups owned
	notify bool // groups call the release agent
	events eventSource
	after  func() error // of Close, once no event comes any more; may be nil

	mu     sync.Mutex // makes a change of groups or of .running and its reason one
	closed bool
}

// eventSource delivers hints to its tracker from goroutines of its own.
type eventSource interface {
	// placed is called for each new run before a process is in it.
	placed(g group) error
	// removed is called when the group of a run is gone.
	removed(g group)
	close()
}

// Name implements Tracker.
func (o *ownedTracker) Name() string { return o.name }

// Busy implements Tracker. Vacancy is proved by removing the groups,
// which the kernel refuses while a process is in one.
func (o *ownedTracker) Busy(instance string) ([]Process, error) {
	if err := valid(instance); err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.settleLocked(instance)
}

// Unread implements Tracker: only root makes groups here.
func (o *ownedTracker) Unread() ([]Unread, error) { return nil, nil }

// settle re-reads an instance after an event: groups that have emptied go, and
// .running with the last of them.
func (o *ownedTracker) settle(instance string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, err := o.settleLocked(instance)
	if err == nil {
		_, err = o.reapLocked(instance, true)
	}
	if err != nil {
		o.log.Warn("cannot determine what runs, so it counts as running", messages.Key, messages.RunsUnreadable, "instance", instance, "error", err)
	}
}

func (o *ownedTracker) settleLocked(instance string) ([]Process, error) {
	for range rounds {
		ps, err := o.busy(instance)
		if err != nil {
			return nil, err
		}
		vacant, err := o.reapLocked(instance, false)
		if err != nil {
			return nil, fmt.Errorf("cannot determine what runs of %s: %w", instance, err)
		}
		if vacant {
			return nil, o.ctl.ClearRunning(instance)
		}
		if len(ps) > 0 {
			return ps, o.markLocked(instance)
		}
	}
	return nil, fmt.Errorf("cannot determine what runs of %s: %w", instance, errRestless)
}

// markLocked makes .running, which another process may have removed under a live run.
func (o *ownedTracker) markLocked(instance string) error {
	if there, err := o.ctl.Running(instance); err != nil || there {
		return err
	}
	if _, err := os.Lstat(o.ctl.LockPath(instance)); err != nil {
		return nil // of an instance that was removed, or is another agent's
	}
	return o.ctl.SetRunning(instance)
}

// reapLocked removes the groups of runs that have ended, and that of the
// instance after the last; gone reports that none is left.
func (o *ownedTracker) reapLocked(instance string, svc bool) (gone bool, err error) {
	groups, err := o.groups.of(instance, svc)
	if err != nil {
		return false, err
	}
	gone = true
	for _, g := range groups {
		pids, err := cgroup.Procs(g.dir)
		if err != nil {
			return false, err
		}
		if len(pids) == 0 {
			err = cgroup.RemoveTree(g.dir)
		}
		switch {
		case len(pids) > 0, errors.Is(err, unix.EBUSY):
			gone = false
		case err != nil:
			return false, err
		default:
			// Removing a group removes the event of its end, and the waiters
			// for that have not made this query: so they are notified here.
			o.events.removed(g)
			o.hints.give(instance)
		}
	}
	if !gone {
		return false, nil
	}
	path := o.groups.apps(instance)
	if svc {
		path = o.groups.svcs(instance)
	}
	err = unix.Rmdir(filepath.Join(o.groups.top, path))
	switch {
	case err == nil, cgroup.Gone(err):
		return true, nil
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.ENOTEMPTY):
		// Something is in the group itself, or has come to be below it.
		return false, o.strayLocked(filepath.Join(o.groups.top, path))
	}
	return false, err
}

// strayLocked handles a process that is in an instance's group itself, where
// no run belongs: it cannot be attributed, so the answer is unknown.
func (o *ownedTracker) strayLocked(dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err == nil && len(strings.TrimSpace(string(b))) > 0 {
		return fmt.Errorf("process %s is in %s, which is no run", strings.Fields(string(b))[0], dir)
	}
	return nil
}

// instances are those that have groups.
func (o *ownedTracker) instances() ([]string, error) {
	found := map[string]bool{}
	for _, parent := range o.groups.scan {
		names, err := cgroup.Groups(filepath.Join(o.groups.top, parent))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			if i, _, ok := o.groups.parse(parent, n); ok {
				found[i] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// settleAll re-reads everything: at the start, and when events were lost.
func (o *ownedTracker) settleAll() error {
	grouped, err := o.instances()
	if err != nil {
		return err
	}
	installed, err1 := o.ctl.Instances()
	marked, err2 := o.ctl.AllRunning()
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	all := slices.Concat(grouped, installed, marked)
	slices.Sort(all)
	for _, i := range slices.Compact(all) {
		o.settle(i)
	}
	o.hints.give("")
	return nil
}

// Attach implements Tracker.
func (o *ownedTracker) Attach(instance string, pkg digest.Digest, service string, pid, pidfd int) (string, error) {
	if err := validRun(instance, service); err != nil {
		return "", err
	}
	who, err := identify(pid, pidfd)
	if err != nil {
		return "", fmt.Errorf("cannot put process %d into a run of %s: %w", pid, instance, err)
	}
	defer who.close()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return "", errkind.New(errkind.Unavailable, "cannot put process %d into a run of %s: the agent is stopping", pid, instance)
	}
	g, err := o.placeLocked(instance, pkg, service, who)
	if err != nil {
		if _, serr := o.settleLocked(instance); serr != nil {
			o.log.Warn("cannot clean up after a launch that failed", "instance", instance, "error", serr)
		}
		if _, serr := o.reapLocked(instance, true); serr != nil {
			o.log.Warn("cannot clean up after a launch that failed", "instance", instance, "error", serr)
		}
		return "", errkind.New(errkind.KindOf(err), "cannot put process %d into a run of %s: %w", pid, instance, err)
	}
	o.hints.give(instance)
	return g.cgroup, nil
}

func (o *ownedTracker) placeLocked(instance string, pkg digest.Digest, service string, who *caller) (group, error) {
	o.known[instance] = true
	if service == "" {
		// Before the process is in: its end must find the marker.
		if err := o.ctl.SetRunning(instance); err != nil {
			return group{}, err
		}
	}
	if err := faultpoint.Hit("runs.place.marked"); err != nil {
		return group{}, err
	}
	for range rounds {
		g, err := o.makeLocked(instance, pkg, service)
		if err == nil {
			err = who.join(g.dir)
		}
		switch {
		case err == nil:
			return g, nil
		case cgroup.Gone(err):
			// A release agent, still busy with an earlier run, has removed the
			// instance's group before ours was in it.
			o.events.removed(g)
		default:
			return group{}, err
		}
	}
	return group{}, errRestless
}

// makeLocked makes the group of a new run.
func (o *ownedTracker) makeLocked(instance string, pkg digest.Digest, service string) (group, error) {
	path := o.groups.apps(instance)
	if service != "" {
		path = o.groups.svcs(instance)
	}
	parent := filepath.Join(o.groups.top, path)
	g := group{instance: instance, prefix: pkg.Short(), service: service, isSvc: service != ""}
	name := runname.Run(pkg, service, runname.Random())
	g.dir, g.cgroup = filepath.Join(parent, name), "/"+filepath.Join(path, name)
	// Other processes may remove empty directories, another agent among them.
	if err := os.MkdirAll(filepath.Dir(parent), 0o755); err != nil {
		return g, err
	}
	for _, dir := range []string{parent, g.dir} {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return g, err
		}
		if o.notify {
			if err := writeFile(filepath.Join(dir, "notify_on_release"), "1"); err != nil {
				return g, err
			}
		}
	}
	if err := faultpoint.Hit("runs.place.made"); err != nil {
		return g, err
	}
	return g, o.events.placed(g)
}

// Close implements Tracker. Groups that are empty go; live runs stay and are
// found by the next tracker.
func (o *ownedTracker) Close() error {
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		return nil
	}
	o.closed = true
	o.mu.Unlock()
	o.events.close()
	o.hints.close()
	o.mu.Lock()
	defer o.mu.Unlock()
	installed, err := o.ctl.Instances()
	errs := []error{err}
	for _, i := range installed {
		o.known[i] = true
	}
	for i := range o.known {
		_, err1 := o.settleLocked(i)
		_, err2 := o.reapLocked(i, true)
		errs = append(errs, err1, err2)
	}
	if o.after != nil {
		errs = append(errs, o.after())
	}
	return errors.Join(errs...)
}

// valid refuses names that would lead out of the hierarchy.
func valid(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > 200 || strings.ContainsAny(name, "/\x00\n") {
		return errkind.New(errkind.Invalid, "cannot use %.80q as the name of an instance or a service", name)
	}
	return nil
}

func validRun(instance, service string) error {
	if err := valid(instance); err != nil || service == "" {
		return err
	}
	return valid(service)
}

// newOwned makes what freezer and subtree have in common; events come later.
func newOwned(name string, ctl *runctl.Dir, g owned, opts Options) *ownedTracker {
	o := &ownedTracker{name: name, groups: g}
	o.base = base{ctl: ctl, log: opts.Log, find: g.find, hints: newHints(), known: map[string]bool{}}
	return o
}
