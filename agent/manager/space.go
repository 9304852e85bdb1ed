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

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/gc"
	"github.com/lull/lull/agent/store/index"
	"github.com/lull/lull/agent/vacancy"
)

// space records when the collector last ran, and whether it should run.
type space struct {
	collecting sync.Mutex // one collection at a time

	mu   sync.Mutex // guards the fields below
	last gc.Result
	at   time.Time
	done bool   // the last collection has removed all unprotected content
	left uint64 // of the indices, before it began

	wanted chan struct{} // capacity 1
}

func (s *space) want() {
	select {
	case s.wanted <- struct{}{}:
	default:
	}
}

// nothing reports whether a collection would find nothing to remove, given the Left of the
// indices.
func (s *space) nothing(left uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.done && s.left == left
}

// followSpace collects on request, when there may be something to remove.
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

// tidy collects if anything has lost its protection since the last collection. If the disk is
// too full it also removes recently used content.
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

// Plan returns what Collect would remove now.
func (m *Manager) Plan(ctx context.Context) (*gc.Plan, error) {
	return gc.MakePlan(ctx, m.store, m.indices.Snapshot())
}

// Collect removes unprotected content, or, with free above 0, enough of it to free that many
// bytes. If there is not enough, recently used content is removed too.
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
	m.metrics.Collected(result, start, err)
	if result.Blobs+result.Packages > 0 || err != nil {
		m.Log.Info("collected", messages.Key, messages.Collected, "blobs", result.Blobs, "packages", result.Packages, "bytes", result.Bytes, "took", time.Since(start), "error", err)
	}
	if result.Strays > 0 {
		m.Log.Warn("processes use packages outside any run, which stay as long as they do", messages.Key, messages.Strays, "processes", result.Strays)
	}
	if len(result.Unread) > 0 && !m.User {
		m.Log.Warn("processes cannot be read, and what they use is not kept by that", "processes", gc.UnreadNames(result.Unread))
	}
	m.observer.SpaceChanged()
	m.tidyLocal(ctx)
	return result, err
}

// evictFor removes from the recent index the entries that must go to free that many bytes. It
// begins with those released longest ago.
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

// collectForSpace collects for a resolve that has hit a full disk.
func (m *Manager) collectForSpace(ctx context.Context) error {
	if err := m.system.MayCollect(); err != nil {
		return errkind.New(errkind.Busy, "cannot make room on the disk: %w", err).WithHint("%s", errkind.HintOf(err))
	}
	m.indices.Evict()
	_, err := m.Collect(ctx, 0)
	return err
}

// Why lists the chains that keep something: an instance (its current package), a hash, the
// first 16 digits of a package's hash, or a path below the root.
func (m *Manager) Why(what string) ([]gc.Chain, error) {
	if manifest.ValidInstance(what) == nil {
		if _, pkg, err := m.links.Read(what); err == nil {
			what = pkg.String()
		}
	}
	return gc.Why(m.store, m.indices.Snapshot(), what)
}

// SpaceState is the state of the disk and the indices.
type SpaceState struct {
	Free, Total int64 // of the file system, as root sees it
	Used        int64 // by blobs
	Blobs       int
	Roots       []index.Root
	Last        gc.Result
	LastAt      time.Time
}

// Space measures the disk.
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

// Roots lists only the indices, which costs little.
func (m *Manager) Roots() []index.Root { return m.indices.Snapshot() }

// LastCollection returns the result of the last collection, and its time.
func (m *Manager) LastCollection() (gc.Result, time.Time) {
	m.space.mu.Lock()
	defer m.space.mu.Unlock()
	return m.space.last, m.space.at
}

// Open protects a package, by hash or as the current one of an instance, until
// the lease is closed. PACKAGE/NAME is a subpackage, also of a subpackage.
func (m *Manager) Open(what, holder string, pid int) (dir *os.File, lease *index.Lease, err error) {
	first, rest, more := strings.Cut(what, "/")
	if _, err := digest.Parse(first); err != nil && manifest.ValidInstance(first) != nil {
		return nil, nil, errkind.New(errkind.Invalid, "cannot open %.160q: %.80q is neither a package hash nor an instance", what, first)
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

// openSub opens a subpackage by its name. The caller holds the package that contains it.
func (m *Manager) openSub(pkg digest.Digest, name, holder string, pid int) (dir *os.File, lease *index.Lease, err error) {
	l, err := m.store.Launch(pkg)
	if err != nil {
		return nil, nil, err
	}
	sub, there := l.Subpackages[name]
	if !there {
		e := errkind.New(errkind.NotFound, "%s has no subpackage %.80q", l.Name, name)
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
	lease = m.indices.Lease(pkg, holder, pid) // before residency is checked
	dir, err = m.store.OpenPackage(pkg)
	if err != nil {
		lease.Close()
		return nil, nil, err
	}
	return dir, lease, nil
}

// Finding is a problem in the store, and whether it was repaired.
type Finding struct {
	store.Finding
	Repaired bool
}

// Verify re-reads the whole store and, with repair, fetches broken content. The first error
// of a repair is returned beside all findings.
func (m *Manager) Verify(ctx context.Context, repair bool, progress func(done, total int64)) (list []Finding, checked int, err error) {
	if repair {
		if err := m.mayChange("repair the store"); err != nil {
			return nil, 0, err
		}
	}
	m.space.collecting.Lock() // content that is being removed is not broken
	found, checked, err := m.store.Verify(ctx, progress, m.sealed)
	m.space.collecting.Unlock() // a repair may need a collection
	for _, f := range found {
		list = append(list, Finding{Finding: f})
	}
	defer func() {
		// After the repair of the store, which may have been enough for an instance.
		more, ierr := m.verifyInstances(ctx, repair)
		list, err = append(list, more...), errors.Join(err, ierr)
	}()
	if err != nil || !repair || len(list) == 0 {
		return list, checked, err
	}
	// All broken content is removed before anything is fetched. After that it is also known
	// what a package lacks beyond its findings, because its meta could not be read.
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

// sealed reads an inode whose lease a refresh has.
func (m *Manager) sealed(dev, ino uint64, read func(io.ReaderAt)) bool {
	return m.engine.Vacancy != nil && m.engine.Vacancy.Read(vacancy.Inode{Dev: dev, Ino: ino}, read)
}

// needing lists the packages that a finding concerns.
func (f *Finding) needing() []digest.Digest {
	if len(f.Packages) > 0 || f.Package.IsZero() {
		return f.Packages
	}
	return []digest.Digest{f.Package}
}

// repairPackage rebuilds the package's tree, with missing content from the first repository
// that has it.
func (m *Manager) repairPackage(ctx context.Context, pkg digest.Digest) error {
	err := m.resolver.Repair(ctx, pkg, nowhere{}, "repair", nil)
	for _, a := range m.repos.State().Addresses {
		if err == nil || ctx.Err() != nil {
			return err
		}
		var client *repo.Client
		if client, err = m.repos.Client(a[0]); err == nil {
			err = m.resolver.Repair(ctx, pkg, client, "repair", nil)
		}
	}
	return err
}

// nowhere is the source for packages that lack nothing.
type nowhere struct{}

func (nowhere) Blob(_ context.Context, d digest.Digest, _ int64) (io.ReadCloser, error) {
	return nil, errkind.New(errkind.NotFound, "cannot fetch blob %s: no repository has it", d.Short())
}

// belowWatermark reports whether less is free than policy wants.
func (m *Manager) belowWatermark() bool {
	s, err := m.store.Space()
	if err != nil {
		m.Log.Error("cannot measure the disk", "error", err)
		return false
	}
	return s.Free < m.Policy().GC.Watermark.Of(s.Total)
}
