package runs

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/cgroup"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/runctl"
)

// base answers questions about runs from the groups that a lister finds.
type base struct {
	ctl      *runctl.Dir
	log      *slog.Logger
	find     finder
	hints    *hints
	known    map[string]bool // instances that this tracker has put a run of, guarded by the tracker's mutex
	manner   func() string   // Events
	polls    bool            // from the start
	degraded func() error    // why there are runs without a watch; nil if there are none
}

// Events implements Tracker.
func (b *base) Events() string {
	if err := b.blindness(); err != nil {
		return errkind.Text("%s; what could not be watched is read every second (%v)", b.manner(), err)
	}
	return b.manner()
}

// Polls implements Tracker.
func (b *base) Polls() bool { return b.polls || b.blindness() != nil }

func (b *base) blindness() error {
	if b.degraded == nil {
		return nil
	}
	return b.degraded()
}

// Changes implements Tracker.
func (b *base) Changes() <-chan string { return b.hints.out }

// finder reads the runs that match, with their processes, and the users whose
// groups cannot be read. A finder may read only those of an instance and of its
// applications or services, unless instance is "".
type finder func(instance string, svc bool, match func(group) bool) (map[group][]Process, []Unread, error)

// Runs implements Tracker.
func (b *base) Runs() ([]Run, error) {
	found, _, err := b.find("", false, func(group) bool { return true })
	if err != nil {
		return nil, err
	}
	return newSnapshot(found, nil).Runs(), nil
}

// Snapshot implements Tracker.
func (b *base) Snapshot() (*Snapshot, error) {
	found, unread, err := b.find("", false, func(group) bool { return true })
	if err != nil {
		return nil, fmt.Errorf("cannot determine what runs: %w", err)
	}
	return newSnapshot(found, unread), nil
}

func newSnapshot(found map[group][]Process, unread []Unread) *Snapshot {
	s := &Snapshot{found: map[string]map[group][]Process{}, unread: unread}
	for g, ps := range found {
		if s.found[g.instance] == nil {
			s.found[g.instance] = map[group][]Process{}
		}
		s.found[g.instance][g] = ps
	}
	return s
}

// Runs is what Tracker.Runs would have returned.
func (s *Snapshot) Runs() []Run {
	list := []Run{}
	for _, groups := range s.found {
		for g, ps := range groups {
			list = append(list, Run{Instance: g.instance, PackagePrefix: g.prefix, Service: g.service, Session: g.session, UID: g.uid, Cgroup: g.cgroup, Processes: ps})
		}
	}
	slices.SortFunc(list, func(a, b Run) int { return cmp.Compare(a.Cgroup, b.Cgroup) })
	return list
}

// Unread implements Tracker.
func (b *base) Unread() ([]Unread, error) {
	_, unread, err := b.find("", false, func(group) bool { return false })
	return unread, err
}

// busy is Busy without what an owned tracker does beyond reading. A user who
// cannot be read may run anything.
func (b *base) busy(instance string) ([]Process, error) {
	list, unread, err := b.collect(instance, false, func(g group) bool { return !g.isSvc })
	return withUnread(list, unread), err
}

func withUnread(list []Process, unread []Unread) []Process {
	for _, u := range unread {
		list = append(list, Process{UID: u.UID, Command: unreadCommand})
	}
	return list
}

// ServiceProcs implements Tracker.
func (b *base) ServiceProcs(instance, service string) ([]Process, error) {
	list, _, err := b.collect(instance, true, ofService(service, false))
	return list, err
}

// Services implements Tracker.
func (b *base) Services(instance string) (*Snapshot, error) {
	if err := valid(instance); err != nil {
		return nil, err
	}
	found, unread, err := b.find(instance, true, func(g group) bool { return g.isSvc && g.instance == instance })
	if err != nil {
		return nil, fmt.Errorf("cannot determine which services of %s run: %w", instance, err)
	}
	return newSnapshot(found, unread), nil
}

// SessionProcs implements Tracker.
func (b *base) SessionProcs(instance, service string) ([]Process, error) {
	list, _, err := b.collect(instance, true, ofService(service, true))
	return list, err
}

func ofService(service string, session bool) func(group) bool {
	return func(g group) bool { return g.isSvc && g.session == session && (service == "" || g.service == service) }
}

func (b *base) collect(instance string, svc bool, match func(group) bool) ([]Process, []Unread, error) {
	if err := valid(instance); err != nil {
		return nil, nil, err
	}
	found, unread, err := b.find(instance, svc, func(g group) bool { return g.instance == instance && match(g) })
	if err != nil {
		return nil, nil, fmt.Errorf("cannot determine what runs of %s: %w", instance, err)
	}
	return flatten(found, match), unread, nil
}

// flatten lists the processes of groups that match, each once.
func flatten(found map[group][]Process, match func(group) bool) (list []Process) {
	for g, ps := range found {
		if match(g) {
			list = append(list, ps...)
		}
	}
	slices.SortFunc(list, func(a, b Process) int { return cmp.Compare(a.PID, b.PID) })
	return slices.CompactFunc(list, func(a, b Process) bool { return a.PID == b.PID && a.PID != 0 })
}

// KillService implements Tracker.
func (b *base) KillService(instance, service string) error {
	return b.kill(instance, ofService(service, false))
}

// KillSession implements Tracker.
func (b *base) KillSession(instance, service string) error {
	return b.kill(instance, ofService(service, true))
}

// kill goes on with the other groups when one cannot be killed.
func (b *base) kill(instance string, match func(group) bool) error {
	if err := valid(instance); err != nil {
		return err
	}
	found, _, err := b.find(instance, true, func(g group) bool { return g.instance == instance && match(g) })
	if err != nil {
		return err
	}
	var errs []error
	for g := range found {
		if err := killCgroup(g.dir); err != nil {
			errs = append(errs, fmt.Errorf("cannot kill service %s of %s: %w", g.service, instance, err))
		}
	}
	return errors.Join(errs...)
}

// killCgroup kills what is in a group and below.
func killCgroup(dir string) error {
	// Since Linux 5.14 the kernel does it for v2 groups, forks and frozen
	// processes included, however many groups there are; the loop then only waits.
	if err := writeFile(filepath.Join(dir, "cgroup.kill"), "1"); err == nil {
		return killGroup(func() ([]int, error) { return populatedBy(dir) })
	}
	thaw(dir)
	return killGroup(func() ([]int, error) { return cgroup.Procs(dir) })
}

// populatedBy returns processes of a v2 group, at least one if there are any.
func populatedBy(dir string) ([]int, error) {
	d, err := cgroup.OpenDir(dir)
	if cgroup.Gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.Close()
	for range rounds {
		populated, err := d.Populated()
		if cgroup.Gone(err) || err == nil && !populated {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		budget := maxInRun
		pids, complete, err := d.Procs(maxDepth, &budget)
		if len(pids) > 0 {
			return pids, nil
		}
		if err != nil && !cgroup.Gone(err) {
			return nil, err
		}
		if err == nil && !complete && budget <= 0 {
			return nil, fmt.Errorf("cannot name the processes of cgroup %s: it has too many groups", dir)
		}
	}
	return nil, errRestless
}

// thaw lets a v1 group go on, and each below it, which may have been frozen on
// its own: a frozen process there dies only then.
func thaw(dir string) {
	_ = writeFile(filepath.Join(dir, "freezer.state"), "THAWED")
	groups, err := cgroup.Groups(dir)
	if err != nil {
		return // gone; otherwise the processes that do not die are reported
	}
	for _, g := range groups {
		thaw(filepath.Join(dir, g))
	}
}

// writeFile writes to a file of cgroupfs in one write(2), and makes none.
func writeFile(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(text)
	return err
}
