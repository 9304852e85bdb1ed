package manager

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lull/lull/agent/digest"
	"github.com/lull/lull/agent/gc"
	"github.com/lull/lull/agent/index"
	"github.com/lull/lull/agent/messages"
	"github.com/lull/lull/agent/meta"
	"github.com/lull/lull/agent/problem"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/store"
)

// space is when the collector last ran, and whether it should.
type space struct {
	collecting sync.Mutex // one collection at a time

	mu   sync.Mutex // guards what follows
	last gc.Result
	at   time.Time
	done bool   // the last collection took all there was
	left uint64 // of the indices, before it began

	wanted chan struct{} // capacity 1
}

func (s *space) want() {
	select {
	case s.wanted <- struct{}{}:
	default:
	}
}

// nothing says that a collection would find nothing to take, with what the
// indices say to Left.
func (s *space) nothing(left uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.done && s.left == left
}

// followSpace collects when somebody has said that there may be something to take.
func (m *Manager) followSpace() {
	refused := false
	for {
		select {
		case <-m.space.wanted:
			if err := m.system.MayCollect(); err != nil {
				if !refused {
					m.Log.Info("nothing is collected by itself", messages.Key, messages.CollectionRefused, "error", err)
				}
				refused = true
				continue
			}
			refused = false
			if err := m.tidy(); err != nil && m.ctx.Err() == nil {
				m.Log.Warn("cannot collect", messages.Key, messages.CollectFailed, "error", err)
			}
		case <-m.ctx.Done():
			return
		}
	}
}

// tidy collects if anything has lost its protection since that was done last, and
// what was in use lately if the disk is too full.
func (m *Manager) tidy() error {
	if !m.space.nothing(m.indices.Left()) {
		if _, err := m.Collect(m.ctx, 0); err != nil {
			return err
		}
	}
	if len(m.indices.Of(index.RecentIndex)) == 0 || !m.belowWatermark() {
		return nil
	}
	m.indices.Evict()
	_, err := m.Collect(m.ctx, 0)
	return err
}

// Plan says what Collect would take away now.
func (m *Manager) Plan(ctx context.Context) (*gc.Plan, error) {
	return gc.MakePlan(ctx, m.store, m.indices.Snapshot())
}

// Collect takes away what no index protects, or, with free above 0, enough of it
// to free so many bytes; if there is not enough, what was in use lately goes too.
func (m *Manager) Collect(ctx context.Context, free int64) (gc.Result, error) {
	if err := m.mayChange("collect"); err != nil {
		return gc.Result{}, err
	}
	if err := m.system.MayCollect(); err != nil {
		return gc.Result{}, err
	}
	m.space.collecting.Lock()
	defer m.space.collecting.Unlock()
	if free > 0 {
		if err := m.evictFor(ctx, free); err != nil {
			return gc.Result{}, err
		}
	}
	start := time.Now()
	left := m.indices.Left()
	result, err := gc.Collect(ctx, m.store, m.indices, gc.Options{Free: free})
	m.space.mu.Lock()
	m.space.last, m.space.at = result, time.Now()
	m.space.done, m.space.left = err == nil && free == 0 && result.Strays == 0, left
	m.space.mu.Unlock()
	m.countCollection(result, start, err)
	if result.Blobs+result.Packages > 0 || err != nil {
		m.Log.Info("collected", messages.Key, messages.Collected, "blobs", result.Blobs, "packages", result.Packages, "bytes", result.Bytes, "took", time.Since(start), "error", err)
	}
	if result.Strays > 0 {
		m.Log.Warn("processes use packages outside any run, which stay as long as they do", messages.Key, messages.Strays, "processes", result.Strays)
	}
	m.observer.SpaceChanged()
	return result, err
}

// evictFor takes out of the recent index what has to go to free so many bytes,
// what was left longest ago first.
func (m *Manager) evictFor(ctx context.Context, free int64) error {
	recent := m.indices.Of(index.RecentIndex)
	if len(recent) == 0 {
		return nil
	}
	plan, err := m.Plan(ctx)
	if err != nil {
		return err
	}
	own := map[digest.Digest]int64{}
	for _, u := range plan.Packages {
		own[u.Package] = u.Exclusive
	}
	lack := free - plan.Bytes
	for _, r := range recent {
		if lack <= 0 {
			return nil
		}
		m.indices.Evict(r.Package)
		lack -= own[r.Package]
	}
	return nil
}

// collectForSpace serves a resolve that has hit a full disk.
func (m *Manager) collectForSpace(ctx context.Context) error {
	if err := m.system.MayCollect(); err != nil {
		return problem.New(problem.Busy, "cannot make room on the disk: %w", err).WithHint("%s", problem.HintOf(err))
	}
	m.indices.Evict()
	_, err := m.Collect(ctx, 0)
	return err
}

// Why lists the chains that keep something: an instance (its current package), a
// hash, the first 16 digits of a package's, or a path below the root.
func (m *Manager) Why(what string) ([]gc.Chain, error) {
	if meta.ValidInstance(what) == nil {
		if _, pkg, err := m.links.Read(what); err == nil {
			what = pkg.String()
		}
	}
	return gc.Why(m.store, m.indices.Snapshot(), what)
}

// SpaceState is how the disk and the indices are.
type SpaceState struct {
	Free, Total int64 // of the file system, as root sees it
	Used        int64 // by blobs
	Blobs       int
	Roots       []index.Root
	Last        gc.Result
	LastAt      time.Time
}

// Space measures.
func (m *Manager) Space() (s SpaceState, err error) {
	disk, err := m.store.Space()
	if err != nil {
		return s, err
	}
	s.Free, s.Total = disk.Free, disk.Total
	s.Blobs, s.Used, err = m.store.Usage()
	s.Roots = m.indices.Snapshot()
	m.space.mu.Lock()
	s.Last, s.LastAt = m.space.last, m.space.at
	m.space.mu.Unlock()
	return s, err
}

// Roots lists the indices alone, which costs little.
func (m *Manager) Roots() []index.Root { return m.indices.Snapshot() }

// LastCollection is how the last collection went.
func (m *Manager) LastCollection() (gc.Result, time.Time) {
	m.space.mu.Lock()
	defer m.space.mu.Unlock()
	return m.space.last, m.space.at
}

// Open protects a package, by hash or as the current one of an instance, until
// the lease is closed. PACKAGE/NAME is a subpackage, also of a subpackage.
func (m *Manager) Open(what, holder string, pid int) (dir *os.File, lease *index.Lease, err error) {
	first, rest, more := strings.Cut(what, "/")
	if _, err := digest.Parse(first); err != nil && meta.ValidInstance(first) != nil {
		return nil, nil, problem.New(problem.Invalid, "cannot open %.160q: %.80q is neither a package hash nor an instance", what, first)
	}
	dir, lease, err = m.openPackage(first, holder, pid)
	for err == nil && more {
		var name string
		name, rest, more = strings.Cut(rest, "/")
		above := lease
		dir.Close()
		if dir, lease, err = m.openSub(above.Package(), name, holder, pid); err != nil {
			err = fmt.Errorf("cannot open %.160q: %w", what, err)
		}
		above.Close()
	}
	return dir, lease, err
}

// openSub opens a subpackage by its name. Whoever calls holds the package that
// contains it.
func (m *Manager) openSub(pkg digest.Digest, name, holder string, pid int) (dir *os.File, lease *index.Lease, err error) {
	l, err := m.store.Launch(pkg)
	if err != nil {
		return nil, nil, err
	}
	sub, there := l.Subpackages[name]
	if !there {
		e := problem.New(problem.NotFound, "%s has no subpackage %.80q", l.Name, name)
		if len(l.Subpackages) > 0 {
			e = e.WithHint("it has %s", strings.Join(slices.Sorted(maps.Keys(l.Subpackages)), ", "))
		}
		return nil, nil, e
	}
	return m.openPackage(sub.String(), holder, pid)
}

func (m *Manager) openPackage(what, holder string, pid int) (dir *os.File, lease *index.Lease, err error) {
	pkg, err := digest.Parse(what)
	if err != nil {
		if _, pkg, err = m.links.Read(what); err != nil {
			return nil, nil, err
		}
	}
	lease = m.indices.Lease(pkg, holder, pid) // before residency is looked at
	dir, err = m.store.OpenPackage(pkg)
	if err != nil {
		lease.Close()
		return nil, nil, err
	}
	return dir, lease, nil
}

// Finding is something wrong in the store, and whether it was put right.
type Finding struct {
	store.Finding
	Repaired bool
}

// Verify reads everything again and, with repair, fetches what is broken. The
// first error of a repair is returned beside all findings.
func (m *Manager) Verify(ctx context.Context, repair bool) (list []Finding, checked int, err error) {
	if repair {
		if err := m.mayChange("repair the store"); err != nil {
			return nil, 0, err
		}
	}
	m.space.collecting.Lock() // what is being taken away is not broken
	found, checked, err := m.store.Verify(ctx, nil)
	m.space.collecting.Unlock() // a repair may need a collection
	for _, f := range found {
		list = append(list, Finding{Finding: f})
	}
	defer func() {
		// Behind the repair of the store, which may be all that an instance lacked.
		more, ierr := m.verifyInstances(ctx, repair)
		list, err = append(list, more...), errors.Join(err, ierr)
	}()
	if err != nil || !repair || len(list) == 0 {
		return list, checked, err
	}
	// All that is broken goes before anything is fetched. What a package lacks beyond
	// what was found for it, because its meta could not be read, is known then too.
	condemned := make([]error, len(list))
	for i, f := range list {
		condemned[i] = m.store.Condemn(f.Finding)
	}
	mended := map[digest.Digest]error{} // by package
	for i := range list {
		f := &list[i]
		ferr := condemned[i]
		for _, pkg := range f.needing() {
			if _, done := mended[pkg]; !done {
				mended[pkg] = m.repairPackage(ctx, pkg)
				err = errors.Join(err, mended[pkg])
			}
			ferr = errors.Join(ferr, mended[pkg])
		}
		f.Repaired = ferr == nil
		err = errors.Join(err, condemned[i])
	}
	return list, checked, err
}

// needing lists the packages that a finding concerns.
func (f *Finding) needing() []digest.Digest {
	if len(f.Packages) > 0 || f.Package.IsZero() {
		return f.Packages
	}
	return []digest.Digest{f.Package}
}

// repairPackage builds the package's tree again, with what it lacks from the first
// repository that has it.
func (m *Manager) repairPackage(ctx context.Context, pkg digest.Digest) error {
	err := m.resolver.Repair(ctx, pkg, nowhere{}, "repair", nil)
	for _, a := range m.Repositories().Addresses {
		if err == nil || ctx.Err() != nil {
			return err
		}
		var client *repo.Client
		if client, err = m.client(a[0]); err == nil {
			err = m.resolver.Repair(ctx, pkg, client, "repair", nil)
		}
	}
	return err
}

// nowhere is the source for packages that lack nothing.
type nowhere struct{}

func (nowhere) Blob(_ context.Context, d digest.Digest, _ int64) (io.ReadCloser, error) {
	return nil, problem.New(problem.NotFound, "cannot fetch blob %s: no repository has it", d.Short())
}

// belowWatermark says whether less is free than policy wants.
func (m *Manager) belowWatermark() bool {
	s, err := m.store.Space()
	if err != nil {
		m.Log.Error("cannot measure the disk", "error", err)
		return false
	}
	return s.Free < m.Policy().GC.Watermark.Of(s.Total)
}
