// Package metricsfile keeps the file that the textfile collector of Prometheus' node exporter
// reads. It counts refreshes and collections, and rewrites the file after a change of its
// values.
//
// Words: the file is the one that metrics.textfile in the policy names. A walk counts the
// blobs that an index reaches, or those of the store.
//
// Concurrency: the methods of a File that count or touch may be called from any goroutine.
// They do not block, and hold one mutex over memory only. Follow is one goroutine. It alone
// reads the disk and writes the file.
package metricsfile

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/metrics"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/gc"
	"github.com/lull/lull/agent/store/index"
)

// delay is the time between a change and the write of it, together with all other changes
// until then. It is shorter than the time after which an idle process releases its memory.
const delay = 3 * time.Second

// Sources are the sources of the values of a write.
type Sources struct {
	Path         func() string // of the file; "" means that the policy names none
	Store        *store.Store
	Indices      *index.Indices
	State        *state.DB
	Repositories func() map[string]time.Time                   // by name, the time of the last read without error
	Current      func(instance string) (rev uint32)            // 0 if none is
	Refreshes    func() ([]metrics.Trouble, []metrics.Pending) // the stuck ones, and the waiting ones
	Runs         func() *metrics.Runs                          // nil means that they cannot be read
	Services     func() []metrics.Services                     // of the instances that have some
	Worked       func()                                        // is called after each write; may be nil
	Log          *slog.Logger
}

// File is the file of metrics and the counters in it.
type File struct {
	metrics *metrics.Metrics
	dirty   chan struct{} // capacity 1: a value of the file may have changed
	stored  atomic.Uint64 // grows when blobs may have been added or removed

	mu          sync.Mutex // guards the fields below
	lastRefresh time.Time
	failure     string // of the last write; "" means that it succeeded
}

// New returns a File whose counters are zero. The lists are the label values of ended
// refreshes: kinds and results.
func New(version string, kinds, results []string) *File {
	return &File{metrics: metrics.New(version, time.Now(), kinds, results), dirty: make(chan struct{}, 1)}
}

// Touch reports that a value of the file may have changed.
func (f *File) Touch() {
	select {
	case f.dirty <- struct{}{}:
	default:
	}
}

// StoreChanged reports that blobs may have been added or removed.
func (f *File) StoreChanged() { f.stored.Add(1) }

// RefreshEnded counts a refresh that has ended; replaced means that it has made a new
// revision current.
func (f *File) RefreshEnded(kind, result string, at time.Time, replaced bool) {
	f.metrics.Refreshed(kind, result)
	if replaced {
		f.mu.Lock()
		f.lastRefresh = at
		f.mu.Unlock()
	}
}

// SectionEnded counts a critical section that has ended.
func (f *File) SectionEnded(kind string, d time.Duration) { f.metrics.HeldOff(kind, d) }

// DeltaUsed counts a delta pack that was used, or that failed.
func (f *File) DeltaUsed(failed bool) {
	f.metrics.DeltaUsed(failed)
	f.Touch()
}

// Collected counts a collection that began at start.
func (f *File) Collected(r gc.Result, start time.Time, err error) {
	f.StoreChanged()
	if errkind.Is(err, errkind.Interrupted) {
		return // it did not fail; the next one continues
	}
	f.metrics.Collected(metrics.Collection{Ended: time.Now(), Took: time.Since(start),
		Blobs: r.Blobs, Bytes: r.Bytes, Strays: r.Strays, Failed: err != nil})
}

// Seed takes the time of the last refresh from the state of an earlier agent.
func (f *File) Seed(db *state.DB) error {
	instances, err := db.Instances()
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, i := range instances {
		for _, r := range i.Revisions {
			if r.Made.After(f.lastRefresh) {
				f.lastRefresh = r.Made
			}
		}
	}
	return nil
}

// Failure returns the error text of the last write; "" means that it succeeded.
func (f *File) Failure() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failure
}

// Follow writes the file at the start and after each change, until the context ends. A timer
// runs only between a change and its write. At the end it removes the file, whose values are
// not updated any more.
func (f *File) Follow(ctx context.Context, s Sources) {
	w := newWriter(ctx, f, s)
	var due <-chan time.Time
	later := func(d time.Duration) {
		if due = nil; d > 0 {
			due = time.After(d)
		}
	}
	later(w.write())
	for {
		select {
		case <-f.dirty:
			if due == nil {
				later(delay)
			}
		case <-due:
			later(w.write())
		case <-ctx.Done():
			w.remove()
			return
		}
	}
}
