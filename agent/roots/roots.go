// Package roots passes to the indices what the installed and the open index protect: the
// revisions that instances keep, and the packages of what runs. Doubt protects: while the runs
// are unknown, a root without a package means any package.
//
// Roots has the lock that orders changes of what is installed. Its methods may be called from
// any goroutine; Published is called under the lock, and must not publish.
package roots

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"

	"github.com/lull/lull/agent/current"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/refresh"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/index"
)

// Roots passes on what the installed and the open index protect.
type Roots struct {
	State   *state.DB
	Store   *store.Store
	Links   current.Links
	Indices *index.Indices
	Engine  *refresh.Engine
	Log     *slog.Logger
	// Published is called with the names of the installed instances after each change of
	// them, in the order of the changes, and under the lock.
	Published func(instances []string) error

	// publishing is held from reading the state until its content is passed on: a slower goroutine
	// must not pass on an older state.
	publishing sync.Mutex
	installed  map[string][]index.Root // by instance; guarded by publishing; nil until all are read
}

// Publish passes the installed revisions to their index, after a change of one instance, or of
// all with "", whose record is re-read. Of two callers, the second must read what the first
// has not seen, and publish it after the first.
func (rs *Roots) Publish(instance string) error {
	rs.publishing.Lock()
	defer rs.publishing.Unlock()
	if err := rs.readLocked(instance); err != nil {
		return err
	}
	rs.Indices.SetInstalled(slices.Concat(slices.Collect(maps.Values(rs.installed))...))
	return rs.Published(slices.Sorted(maps.Keys(rs.installed)))
}

// Shown lists what the indices protect. The runs among them may be those that were read a
// short time ago (refresh.Engine.Shown).
func (rs *Roots) Shown() []index.Root {
	return rs.Indices.SnapshotWith(rs.in(rs.Engine.Shown()))
}

// readLocked reads which packages an instance keeps, or all instances with "".
func (rs *Roots) readLocked(instance string) error {
	var instances []state.Instance
	if instance == "" || rs.installed == nil {
		all, err := rs.State.Instances()
		if err != nil {
			return err
		}
		instances, rs.installed = all, map[string][]index.Root{}
	} else {
		one, err := rs.State.Instance(instance)
		if err != nil && !errkind.Is(err, errkind.NotFound) {
			return err
		}
		delete(rs.installed, instance)
		if err == nil {
			instances = append(instances, one)
		}
	}
	for _, i := range instances {
		var roots []index.Root
		for _, v := range i.Revisions {
			roots = append(roots, index.Root{Package: v.Package, Holder: revisionName(i.Instance, v.Number)})
		}
		rs.installed[i.Instance] = roots
	}
	return nil
}

// OfRuns returns the packages of live runs, for the open index. If the runs are unknown,
// any package may run: a root without a package represents that doubt.
func (rs *Roots) OfRuns() []index.Root { return rs.in(rs.Engine.Snapshot()) }

// in is OfRuns of a snapshot.
func (rs *Roots) in(s *refresh.Snapshot, err error) (roots []index.Root) {
	if err != nil {
		rs.Log.Error("cannot determine what runs, so nothing can be collected", messages.Key, messages.RunsUnreadable, "error", err)
		return []index.Root{{Holder: "perhaps a run, which cannot be determined"}}
	}
	list, tied := s.Runs()
	for _, r := range list {
		root := index.Root{Holder: "run of " + r.Instance}
		if r.Service != "" {
			root.Holder = "service " + r.Service + " of " + r.Instance
		}
		if r.Session { // the names come from that user, and protect the package for that user alone
			root.Holder += fmt.Sprintf(" by user %d", r.UID)
		}
		var ok bool
		if root.Package, ok = rs.Store.Find(r.PackagePrefix); !ok {
			// A systemd unit does not carry the hash: it runs the package that was current
			// when it started.
			if _, root.Package, err = rs.Links.Read(r.Instance); err != nil {
				continue // the instance is not ours either: another agent's
			}
		}
		if len(r.Processes) > 0 {
			root.PID = r.Processes[0].PID
		}
		roots = append(roots, root)
	}
	// Processes that have a tether, wherever they were moved.
	for instance, procs := range tied {
		for _, p := range procs {
			if inRun(list, instance, p) {
				continue // the root of the run protects the same package
			}
			if pkg, ok := rs.Store.Find(p.PackagePrefix); ok {
				roots = append(roots, index.Root{Package: pkg, Holder: "application " + instance, PID: p.PID})
			}
		}
	}
	return roots
}

// inRun reports whether a process is in one of the runs of the package of its tether.
func inRun(list []runs.Run, instance string, p refresh.Tied) bool {
	return slices.ContainsFunc(list, func(r runs.Run) bool {
		return r.Instance == instance && r.PackagePrefix == p.PackagePrefix &&
			slices.ContainsFunc(r.Processes, func(q runs.Process) bool { return q.PID == p.PID })
	})
}

// revisionName returns the name of a holder in the installed index.
func revisionName(instance string, n uint32) string {
	return instance + " revision " + strconv.FormatUint(uint64(n), 10)
}
