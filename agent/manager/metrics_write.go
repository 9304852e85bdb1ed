package manager

import (
	"crypto/sha256"
	"time"

	"github.com/lull/lull/agent/gc"
	"github.com/lull/lull/agent/index"
	"github.com/lull/lull/agent/metrics"
	"github.com/lull/lull/agent/problem"
	"github.com/lull/lull/agent/refresh"
)

// walkShare bounds what it costs to count blobs: for each second that it took
// nothing is counted again for so many. What has changed meanwhile is shown then.
const walkShare = 100

// metricsWriter belongs to the goroutine of followMetrics.
type metricsWriter struct {
	m    *Manager
	path string            // of the file that is there; "": none
	text [sha256.Size]byte // hash of what is in it

	reached   map[string]reached // by index
	store     metrics.Amount
	stored    uint64    // figures.stored, when the store was counted
	counted   bool      // it was
	walkAfter time.Time // when blobs may be counted again
}

// reached is what an index reached when it held certain packages.
type reached struct {
	packages [sha256.Size]byte // hash of their hashes
	gc.Reached
}

// write writes them down if they say anything new, and returns when that should
// be tried again without any change; 0: not.
func (w *metricsWriter) write() time.Duration {
	path := w.m.Policy().Metrics.Textfile
	if w.path != "" && w.path != path {
		w.remove()
	}
	if path == "" {
		w.failed(nil)
		return 0
	}
	if w.m.Worked != nil {
		defer w.m.Worked()
	}
	state, again, err := w.state()
	var text []byte
	if err == nil {
		text, err = w.m.figures.metrics.Text(state)
	}
	if hash := sha256.Sum256(text); err == nil && (w.path == "" || hash != w.text) {
		if err = metrics.Replace(path, text); err == nil {
			w.path, w.text = path, hash
		}
	}
	w.failed(err)
	return again
}

func (w *metricsWriter) remove() {
	if w.path == "" {
		return
	}
	if err := metrics.Remove(w.path); err != nil {
		w.m.Log.Error("old metrics stay", "file", w.path, "error", err)
	}
	w.path = ""
}

// failed says once what is wrong.
func (w *metricsWriter) failed(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	f := w.m.figures
	f.mu.Lock()
	news := text != f.failure
	f.failure = text
	f.mu.Unlock()
	if news && err != nil && w.m.ctx.Err() == nil {
		w.m.Log.Error("metrics are not written", "error", err, "hint", problem.HintOf(err))
	}
}

// state asks for everything. What costs a walk through metas or the store is
// taken from the last time if nothing there has changed, or if it is too early for
// another walk: then again says when it will not be.
func (w *metricsWriter) state() (s metrics.State, again time.Duration, err error) {
	m := w.m
	if again, err = w.walk(); err != nil {
		return s, again, err
	}
	s.Store, s.Indices = w.store, map[string]metrics.Amount{}
	for name, r := range w.reached {
		s.Indices[name] = metrics.Amount{Packages: r.Packages, Blobs: r.Blobs, Bytes: r.Bytes}
	}
	disk, err := m.store.Space()
	if err != nil {
		return s, again, err
	}
	s.Free = max(disk.Free, 0)
	s.Repositories = m.Repositories().Read
	for _, r := range m.engine.All() {
		if r.State() == refresh.Waiting {
			s.Pending = append(s.Pending, metrics.Pending{Instance: r.Instance, Version: r.ToVersion, Urgency: r.Urgency, WaitsFor: waitsFor(r), Since: r.Since})
		}
	}
	if list, err := m.Tracker.Runs(); err == nil { // what cannot be told is left out, and shown by the doctor
		s.Runs = &metrics.Runs{}
		for _, r := range list {
			if r.Service != "" {
				s.Runs.Services++
			} else {
				s.Runs.Applications++
			}
		}
	}
	m.figures.mu.Lock()
	s.LastRefresh = m.figures.lastRefresh
	m.figures.mu.Unlock()
	return s, again, nil
}

func waitsFor(r refresh.Refresh) string {
	switch {
	case r.Held:
		return metrics.ForHold
	case len(r.WaitingFor) > 0:
		return metrics.ForApplications
	}
	return metrics.ForOther
}

// walk counts again what has changed.
func (w *metricsWriter) walk() (again time.Duration, err error) {
	lists, hashes := map[string][]index.Root{}, map[string][sha256.Size]byte{}
	for _, name := range index.Names {
		lists[name] = nil
	}
	for _, r := range w.m.indices.Snapshot() {
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
	stored := w.m.figures.stored.Load()
	if len(lists) == 0 && w.counted && w.stored == stored {
		return 0, nil
	}
	start := time.Now()
	if early := w.walkAfter.Sub(start); early > 0 {
		return early, nil
	}
	found, err := gc.Reach(w.m.ctx, w.m.store, lists)
	if err != nil {
		return 0, err
	}
	for name, r := range found {
		w.reached[name] = reached{hashes[name], r}
	}
	if !w.counted || w.stored != stored {
		if w.store.Blobs, w.store.Bytes, err = w.m.store.Usage(); err != nil {
			return 0, err
		}
		w.counted, w.stored = true, stored
	}
	now := time.Now()
	w.walkAfter = now.Add(walkShare * now.Sub(start))
	return 0, nil
}
