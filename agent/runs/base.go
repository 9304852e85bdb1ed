package runs

import (
	"cmp"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/cgroup"
	"github.com/lull/lull/agent/runctl"
)

// base answers questions about runs from the groups that a lister finds.
type base struct {
	ctl    *runctl.Dir
	log    *slog.Logger
	all    lister
	of     func(instance string, svc bool) ([]group, error)
	hints  *hints
	known  map[string]bool // instances that this tracker has put a run of, guarded by the tracker's mutex
	manner string          // Events
	polls  bool            // from the start
	blind  func() error    // why there are runs without a watch; nil: there are none
}

// Events implements Tracker.
func (b *base) Events() string {
	if err := b.blindness(); err != nil {
		return fmt.Sprintf("%s; what could not be watched is read every %v (%v)", b.manner, pollEvery, err)
	}
	return b.manner
}

// Polls implements Tracker.
func (b *base) Polls() bool { return b.polls || b.blindness() != nil }

func (b *base) blindness() error {
	if b.blind == nil {
		return nil
	}
	return b.blind()
}

// Changes implements Tracker.
func (b *base) Changes() <-chan string { return b.hints.out }

// Runs implements Tracker.
func (b *base) Runs() ([]Run, error) {
	found, err := processes(b.all, func(group) bool { return true })
	if err != nil {
		return nil, err
	}
	list := make([]Run, 0, len(found))
	for g, ps := range found {
		list = append(list, Run{Instance: g.instance, PackagePrefix: g.prefix, Service: g.service, Cgroup: g.cgroup, Processes: ps})
	}
	slices.SortFunc(list, func(a, b Run) int { return cmp.Compare(a.Cgroup, b.Cgroup) })
	return list, nil
}

// busy is Busy without what an owned tracker does beyond reading.
func (b *base) busy(instance string) ([]Process, error) {
	return b.collect(instance, func(g group) bool { return !g.isSvc }, false)
}

// ServiceProcs implements Tracker.
func (b *base) ServiceProcs(instance, service string) ([]Process, error) {
	return b.collect(instance, func(g group) bool { return g.isSvc && (service == "" || g.service == service) }, true)
}

func (b *base) collect(instance string, match func(group) bool, svc bool) ([]Process, error) {
	if err := valid(instance); err != nil {
		return nil, err
	}
	found, err := processes(func() ([]group, error) { return b.of(instance, svc) },
		func(g group) bool { return g.instance == instance && match(g) })
	if err != nil {
		return nil, fmt.Errorf("cannot tell what runs of %s: %w", instance, err)
	}
	var list []Process
	for _, ps := range found {
		list = append(list, ps...)
	}
	slices.SortFunc(list, func(a, b Process) int { return cmp.Compare(a.PID, b.PID) })
	return slices.CompactFunc(list, func(a, b Process) bool { return a.PID == b.PID && a.PID != 0 }), nil
}

// KillService implements Tracker.
func (b *base) KillService(instance, service string) error {
	if err := valid(instance); err != nil {
		return err
	}
	groups, err := b.of(instance, true)
	if err != nil {
		return err
	}
	for _, g := range groups {
		if !g.isSvc || g.instance != instance || service != "" && g.service != service {
			continue
		}
		if err := killCgroup(g.dir); err != nil {
			return fmt.Errorf("cannot kill service %s of %s: %w", g.service, instance, err)
		}
	}
	return nil
}

// killCgroup kills what is in a group and below.
func killCgroup(dir string) error {
	// Since Linux 5.14 the kernel does it for v2 groups, forks included; the
	// loop then only waits.
	_ = writeFile(filepath.Join(dir, "cgroup.kill"), "1")
	thaw(dir)
	return killGroup(func() ([]int, error) { return cgroup.Procs(dir) })
}

// thaw lets a v1 group go on, and each below it, which may have been frozen on
// its own: a frozen process there dies only then.
func thaw(dir string) {
	_ = writeFile(filepath.Join(dir, "freezer.state"), "THAWED")
	groups, err := cgroup.Groups(dir)
	if err != nil {
		return // gone; if it is not, the processes that do not die are told of
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
