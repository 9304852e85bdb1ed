package manager

import (
	"fmt"
	"sync"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/store/index"
	"github.com/lull/lull/agent/sysupdate"
)

// systemSet fetches the packages of the system, those of the base and the cache index, that
// are not on the machine. One goroutine does it: at the start, after a reload or a change of
// the repositories, and when all of them have been read.
type systemSet struct {
	wanted chan struct{} // capacity 1

	mu     sync.Mutex
	failed error // of the last fetch; guarded by mu
}

// want requests a fetch, and returns at once.
func (s *systemSet) want() {
	select {
	case s.wanted <- struct{}{}:
	default:
	}
}

// SystemPackages lists the packages of the system that are not resident. It returns the number
// of all, and why the last fetch of a missing one failed, or nil.
func (m *Manager) SystemPackages() (missing []index.Root, total int, failed error) {
	seen := map[digest.Digest]bool{}
	for _, name := range []string{index.BaseIndex, index.CacheIndex} {
		for _, r := range m.indices.Of(name) {
			if r.Package.IsZero() || seen[r.Package] {
				continue
			}
			seen[r.Package] = true
			if !m.store.HasPackage(r.Package) {
				missing = append(missing, r)
			}
		}
	}
	m.systemSet.mu.Lock()
	defer m.systemSet.mu.Unlock()
	return missing, len(seen), m.systemSet.failed
}

// followSystemSet fetches on request until the manager is closed.
func (m *Manager) followSystemSet() {
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-m.systemSet.wanted:
			m.fetchSystemSet()
		}
	}
}

// fetchSystemSet fetches what is missing. While an update of the system is being staged, the
// disk is left to that.
func (m *Manager) fetchSystemSet() {
	if s := m.system.Status().State; s == sysupdate.Staging || s == sysupdate.Interrupted || m.root.MayChange("fetch the system's packages") != nil {
		return
	}
	missing, _, before := m.SystemPackages()
	var failed error
	for _, r := range missing {
		err := m.repairer.RepairPackage(repo.Unrequested(m.ctx, nil), r.Package)
		if m.ctx.Err() != nil {
			return
		}
		if err == nil {
			m.Log.Info("a missing package of the system was fetched", "index", r.Index, "package", r.Package.Short())
			continue
		}
		if failed == nil {
			failed = fmt.Errorf("cannot fetch package %s of the system: %w", r.Package.Short(), err)
		}
	}
	if failed != nil && (before == nil || before.Error() != failed.Error()) {
		m.Log.Warn("packages of the system are missing", "packages", len(missing), "error", failed)
	}
	m.systemSet.mu.Lock()
	m.systemSet.failed = failed
	m.systemSet.mu.Unlock()
}
