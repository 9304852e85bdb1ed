package metricsfile

import (
	"context"
	"crypto/sha256"
	"time"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/metrics"
	"github.com/lull/lull/agent/store/gc"
	"github.com/lull/lull/agent/store/index"
)

// walkShare bounds the cost of counting blobs: after each second of counting, blobs are not
// counted for that many seconds. Changes in between are shown by the next count.
const walkShare = 20

// writer belongs to the goroutine of Follow.
type writer struct {
	Sources
	ctx  context.Context
	file *File
	path string            // of the last written file; "" means none
	text [sha256.Size]byte // hash of its content

	reached   map[string]reached // by index
	store     metrics.Amount
	stored    uint64    // File.stored, when the store was counted
	counted   bool      // the store has been counted
	walkAfter time.Time // the earliest time of the next walk
}

func newWriter(ctx context.Context, f *File, s Sources) *writer {
	return &writer{Sources: s, ctx: ctx, file: f, reached: map[string]reached{}}
}

// reached is the content that an index reached while it held certain packages.
type reached struct {
	packages [sha256.Size]byte // hash of their hashes
	gc.Reached
}

// write writes the file if its content has changed. It returns the time after which it must
// be called even without a change; zero means never.
func (w *writer) write() time.Duration {
	path := w.Path()
	if w.path != "" && w.path != path {
		w.remove()
	}
	if path == "" {
		w.failed(nil)
		return 0
	}
	if w.Worked != nil {
		defer w.Worked()
	}
	state, again, err := w.state()
	var text []byte
	if err == nil {
		text, err = w.file.metrics.Text(state)
	}
	if hash := sha256.Sum256(text); err == nil && (w.path == "" || hash != w.text) {
		if err = metrics.Replace(path, text); err == nil {
			w.path, w.text = path, hash
		}
	}
	w.failed(err)
	return again
}

func (w *writer) remove() {
	if w.path == "" {
		return
	}
	if err := metrics.Remove(w.path); err != nil {
		w.Log.Error("old metrics stay", "file", w.path, "error", err)
	}
	w.path = ""
}

// failed logs an error once, and keeps its text.
func (w *writer) failed(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	f := w.file
	f.mu.Lock()
	changed := text != f.failure
	f.failure = text
	f.mu.Unlock()
	if changed && err != nil && w.ctx.Err() == nil {
		w.Log.Error("metrics are not written", "error", err, "hint", errkind.HintOf(err))
	}
}

// state reads all values. Those that need a walk through manifests or the store are taken
// from the last walk if they are unchanged, or if it is too early for another one. In that
// case again is the time until the next walk.
func (w *writer) state() (s metrics.State, again time.Duration, err error) {
	if again, err = w.walk(); err != nil {
		return s, again, err
	}
	s.Store, s.Indices = w.store, map[string]metrics.Amount{}
	for name, r := range w.reached {
		s.Indices[name] = metrics.Amount{Packages: r.Packages, Blobs: r.Blobs, Bytes: r.Bytes}
	}
	disk, err := w.Store.Space()
	if err != nil {
		return s, again, err
	}
	s.Free = max(disk.Free, 0)
	s.Repositories = w.Repositories()
	s.Stuck, s.Pending = w.Refreshes()
	instances, err := w.State.Instances()
	if err != nil {
		return s, again, err
	}
	for _, i := range instances {
		if r, known := i.Revision(w.Current(i.Instance)); known {
			s.Installed = append(s.Installed, metrics.Version{Instance: i.Instance, Version: r.Version})
		}
		if b := i.Backoff; b != nil && b.Reason != "" && len(i.Revisions) > 0 {
			s.Undone = append(s.Undone, metrics.Trouble{Instance: i.Instance, Version: b.Version, At: b.At})
		}
	}
	s.Runs = w.Runs() // runs that cannot be read are left out, and shown by the doctor
	s.Services = w.Services()
	w.file.mu.Lock()
	s.LastRefresh = w.file.lastRefresh
	w.file.mu.Unlock()
	return s, again, nil
}

// walk counts the changed indices and the store.
func (w *writer) walk() (again time.Duration, err error) {
	lists, hashes := map[string][]index.Root{}, map[string][sha256.Size]byte{}
	for _, name := range index.Names {
		lists[name] = nil
	}
	for _, r := range w.Indices.Snapshot() {
		lists[r.Index] = append(lists[r.Index], r)
	}
	for name, roots := range lists {
		h := sha256.New()
		for _, r := range roots { // sorted by package
			h.Write(r.Package[:])
		}
		hashes[name] = [sha256.Size]byte(h.Sum(nil))
		if old, known := w.reached[name]; known && old.Whole && old.packages == hashes[name] {
			delete(lists, name)
		}
	}
	stored := w.file.stored.Load()
	if len(lists) == 0 && w.counted && w.stored == stored {
		return 0, nil
	}
	start := time.Now()
	if early := w.walkAfter.Sub(start); early > 0 {
		return early, nil
	}
	found, err := gc.Reach(w.ctx, w.Store, lists)
	if err != nil {
		return 0, err
	}
	for name, r := range found {
		w.reached[name] = reached{hashes[name], r}
	}
	if !w.counted || w.stored != stored {
		if w.store.Blobs, w.store.Bytes, err = w.Store.Usage(); err != nil {
			return 0, err
		}
		w.counted, w.stored = true, stored
	}
	now := time.Now()
	w.walkAfter = now.Add(walkShare * now.Sub(start))
	return 0, nil
}
