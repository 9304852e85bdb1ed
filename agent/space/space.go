// Package space keeps the disk within its bounds: it collects garbage, on request and when
// content has lost its protection, measures the disk, and keeps the reserve. The
// indices decide what is protected.
package space

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/gc"
	"github.com/lull/lull/agent/store/index"
	"github.com/lull/lull/policy"
)

// Config has what a Keeper works with. The functions must be safe for concurrent use.
type Config struct {
	Store   *store.Store
	Indices *index.Indices
	Policy  func() *policy.Policy
	User    bool // a user's own agent: it cannot read the processes of others
	Log     *slog.Logger
	// MayCollect returns why nothing may be collected at all; nil means that it may.
	MayCollect func() error
	// Collected is called after each collection, also after one that failed.
	Collected func(ctx context.Context, result gc.Result, began time.Time, err error)
}

// Keeper keeps the disk of one store within its bounds. Its methods may be called from any
// goroutine; those that collect block until that is done.
type Keeper struct {
	Config
	collecting sync.Mutex // one collection at a time

	mu   sync.Mutex // guards the fields below
	last gc.Result
	at   time.Time
	done bool   // the last collection has removed all unprotected content
	left uint64 // of the indices, before it began

	wanted chan struct{} // capacity 1
}

// New returns a Keeper that has not collected yet.
func New(c Config) *Keeper { return &Keeper{Config: c, wanted: make(chan struct{}, 1)} }

// Want requests a collection by Follow, and returns at once.
func (k *Keeper) Want() {
	select {
	case k.wanted <- struct{}{}:
	default:
	}
}

// Follow collects on request, when there may be something to remove, until ctx ends.
func (k *Keeper) Follow(ctx context.Context) {
	refused := false
	for {
		select {
		case <-k.wanted:
			if err := k.MayCollect(); err != nil {
				if !refused {
					k.Log.Info("nothing is collected by itself", messages.Key, messages.CollectionRefused, "error", err)
				}
				refused = true
				continue
			}
			refused = false
			if err := k.tidy(ctx); err != nil && ctx.Err() == nil {
				k.Log.Warn("cannot collect", messages.Key, messages.CollectFailed, "error", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// tidy collects if anything has lost its protection since the last collection. If the disk is
// too full it also removes recently used content.
func (k *Keeper) tidy(ctx context.Context) error {
	if !k.clean(k.Indices.ReleaseCount()) {
		if _, err := k.Collect(ctx, 0); err != nil {
			return err
		}
	}
	if len(k.Indices.Of(index.RecentIndex)) == 0 || !k.BelowWatermark() {
		return nil
	}
	k.Indices.Evict()
	_, err := k.Collect(ctx, 0)
	return err
}

// clean reports whether a collection would find nothing to remove, given the Left of the
// indices.
func (k *Keeper) clean(left uint64) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.done && k.left == left
}

// Plan returns what Collect would remove now.
func (k *Keeper) Plan(ctx context.Context) (*gc.Plan, error) {
	return gc.MakePlan(ctx, k.Store, k.Indices.Snapshot())
}

// Collect removes unprotected content, or, with free above 0, enough of it to free that many
// bytes. If there is not enough, recently used content is removed too.
func (k *Keeper) Collect(ctx context.Context, free int64) (gc.Result, error) {
	if err := k.MayCollect(); err != nil {
		return gc.Result{}, err
	}
	k.collecting.Lock()
	defer k.collecting.Unlock()
	if free > 0 {
		if err := k.evictFor(ctx, free); err != nil {
			return gc.Result{}, err
		}
	}
	began := time.Now()
	left := k.Indices.ReleaseCount()
	result, err := gc.Collect(ctx, k.Store, k.Indices, gc.Options{Free: free})
	k.mu.Lock()
	k.last, k.at = result, time.Now()
	k.done, k.left = err == nil && free == 0 && result.Strays == 0, left
	k.mu.Unlock()
	if result.Blobs+result.Packages > 0 || err != nil {
		log := k.Log
		if err != nil {
			log = log.With("error", err)
		}
		log.Info("collected", messages.Key, messages.Collected, "blobs", result.Blobs, "packages", result.Packages, "bytes", result.Bytes, "took", time.Since(began))
	}
	if result.Strays > 0 {
		k.Log.Warn("processes use packages outside any run, which stay as long as they do", messages.Key, messages.Strays, "processes", result.Strays)
	}
	if len(result.Unread) > 0 && !k.User {
		k.Log.Warn("processes cannot be read, and packages that nothing else uses are not protected", "processes", gc.UnreadNames(result.Unread))
	}
	k.Collected(ctx, result, began, err)
	return result, err
}

// evictFor removes from the recent index the entries that must go to free that many bytes. It
// begins with those released longest ago.
func (k *Keeper) evictFor(ctx context.Context, free int64) error {
	recent := k.Indices.Of(index.RecentIndex)
	if len(recent) == 0 {
		return nil
	}
	plan, err := k.Plan(ctx)
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
		k.Indices.Evict(r.Package)
		lack -= own[r.Package]
	}
	return nil
}

// Undisturbed calls f while no collection is under way.
func (k *Keeper) Undisturbed(f func()) {
	k.collecting.Lock()
	defer k.collecting.Unlock()
	f()
}

// Last returns the result of the last collection, and its time.
func (k *Keeper) Last() (gc.Result, time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.last, k.at
}

// StrayUse is a package that a process outside any run uses.
type StrayUse struct {
	index.Root
	Name, Version string
}

// StrayUses returns the uses that were the only reason for the last collection to keep
// packages, at most limit.
func (k *Keeper) StrayUses(limit int) (list []StrayUse) {
	result, _ := k.Last()
	for _, r := range result.StrayUses {
		if r.PID == 0 || r.Package.IsZero() {
			continue
		}
		if len(list) == limit {
			break
		}
		u := StrayUse{Root: r}
		if l, err := k.Store.Launch(r.Package); err == nil {
			u.Name, u.Version = l.Name, l.Version
		}
		list = append(list, u)
	}
	return list
}

// Measure is the state of the disk.
type Measure struct {
	Free, Total int64 // bytes of the file system, as root sees it
	Used        int64 // bytes of blobs
	Blobs       int
}

// Measure measures the disk and the store.
func (k *Keeper) Measure() (m Measure, err error) {
	disk, err := k.Store.Space()
	if err != nil {
		return m, err
	}
	m.Free, m.Total = disk.Free, disk.Total
	m.Blobs, m.Used, err = k.Store.Usage()
	return m, err
}

// BelowWatermark reports whether less is free than policy wants.
func (k *Keeper) BelowWatermark() bool {
	s, err := k.Store.Space()
	if err != nil {
		k.Log.Error("cannot measure the disk", "error", err)
		return false
	}
	return s.Free < k.Policy().GC.Watermark.Of(s.Total)
}

// A reserve is small beside its file system, and smaller yet in a user's own home.
const (
	reserveShare   = 20  // at most one part in this many of the file system
	ownReserveMost = 8e6 // bytes, for a user's own agent
)

// SetReserve makes the reserve as large as policy requires, if the store can be written.
func (k *Keeper) SetReserve() error {
	if err := k.Store.SetReserve(k.reserve()); !errors.Is(err, unix.EROFS) {
		return err
	}
	return nil
}

// reserve returns how large the reserve should be, in bytes: as policy wants it, bounded by
// the size of the file system.
func (k *Keeper) reserve() int64 {
	bytes := k.Policy().GC.Reserve
	if k.User {
		bytes = min(bytes, ownReserveMost)
	}
	if s, err := k.Store.Space(); err == nil && s.Total > 0 {
		bytes = min(bytes, s.Total/reserveShare)
	}
	return bytes
}
