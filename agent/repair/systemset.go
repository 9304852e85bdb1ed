package repair

import (
	"context"
	"fmt"
	"sync"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/store/index"
)

// SystemSet fetches the packages of the system, those of the base and the cache index, that
// are not on the machine. The manager requests it at the start, after a reload or a change of
// the repositories, and when all of them have been read.
type SystemSet struct {
	*Repairer
	Indices *index.Indices
	Staging func() bool // whether an update of the system needs the disk for itself

	wanted chan struct{} // capacity 1

	mu     sync.Mutex
	failed error // of the last fetch; guarded by mu
}

// NewSystemSet returns one that fetches by a Repairer.
func NewSystemSet(indices *index.Indices, staging func() bool) *SystemSet {
	return &SystemSet{Indices: indices, Staging: staging, wanted: make(chan struct{}, 1)}
}

// Want requests a fetch, and returns at once.
func (s *SystemSet) Want() {
	select {
	case s.wanted <- struct{}{}:
	default:
	}
}

// Missing lists the packages of the system that are not resident. It returns the number of
// all, and why the last fetch of a missing one failed, or nil.
func (s *SystemSet) Missing() (missing []index.Root, total int, failed error) {
	seen := map[digest.Digest]bool{}
	for _, name := range []string{index.BaseIndex, index.CacheIndex} {
		for _, r := range s.Indices.Of(name) {
			if r.Package.IsZero() || seen[r.Package] {
				continue
			}
			seen[r.Package] = true
			if !s.Store.HasPackage(r.Package) {
				missing = append(missing, r)
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return missing, len(seen), s.failed
}

// Follow fetches on request until ctx is done.
func (s *SystemSet) Follow(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wanted:
			s.fetch(ctx)
		}
	}
}

func (s *SystemSet) fetch(ctx context.Context) {
	if s.Staging() || s.MayChange("fetch the system's packages") != nil {
		return
	}
	missing, _, before := s.Missing()
	var failed error
	for _, r := range missing {
		err := s.RepairPackage(repo.Unrequested(ctx, nil), r.Package)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			s.Log.Info("a missing package of the system was fetched", "index", r.Index, "package", r.Package.Short())
			continue
		}
		if failed == nil {
			failed = fmt.Errorf("cannot fetch package %s of the system: %w", r.Package.Short(), err)
		}
	}
	if failed != nil && (before == nil || before.Error() != failed.Error()) {
		s.Log.Warn("packages of the system are missing", "packages", len(missing), "error", failed)
	}
	s.mu.Lock()
	s.failed = failed
	s.mu.Unlock()
}
