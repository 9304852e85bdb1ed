package manager

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/lull/lull/agent/gc"
	"github.com/lull/lull/agent/metrics"
	"github.com/lull/lull/agent/problem"
	"github.com/lull/lull/agent/refresh"
)

// metricsDelay is how long after a change the metrics are written, with whatever
// else has changed meanwhile. It is less than the time after which a process that
// rests gives its memory back.
const metricsDelay = 3 * time.Second

// figures is what the metrics show, as far as it is not asked for when they are written.
type figures struct {
	metrics *metrics.Metrics
	dirty   chan struct{} // capacity 1: something that they show may have changed
	stored  atomic.Uint64 // grows when blobs may have come or gone

	mu          sync.Mutex // guards what follows
	lastRefresh time.Time
	failure     string // of the last write; "": it went well
}

// newFigures begins to count.
func newFigures(version string) *figures {
	var kinds, results []string
	for _, k := range []refresh.Kind{refresh.Install, refresh.Update, refresh.Revert, refresh.Remove} {
		kinds = append(kinds, string(k))
	}
	for _, r := range []refresh.State{refresh.Done, refresh.Undone, refresh.FailedEnd, refresh.Cancelled} {
		results = append(results, string(r))
	}
	return &figures{metrics: metrics.New(version, time.Now(), kinds, results), dirty: make(chan struct{}, 1)}
}

// shown passes on what the manager observes, and notes that metrics are out of
// date. The progress of transfers is none of them.
type shown struct {
	Observer
	m *Manager
}

func (s shown) RefreshChanged(r refresh.Refresh) { s.Observer.RefreshChanged(r); s.m.touchMetrics() }
func (s shown) PackageChanged(instance string) {
	s.Observer.PackageChanged(instance)
	s.m.touchMetrics()
}
func (s shown) SpaceChanged()        { s.Observer.SpaceChanged(); s.m.touchMetrics() }
func (s shown) RepositoriesChanged() { s.Observer.RepositoriesChanged(); s.m.touchMetrics() }

// touchMetrics has the metrics written soon, if policy wants them.
func (m *Manager) touchMetrics() {
	if m.Policy().Metrics.Textfile != "" {
		m.dirtyMetrics()
	}
}

func (m *Manager) dirtyMetrics() {
	select {
	case m.figures.dirty <- struct{}{}:
	default:
	}
}

// countEnd counts a refresh that has ended.
func (m *Manager) countEnd(r refresh.Refresh) {
	m.figures.metrics.Refreshed(string(r.Kind), string(r.End))
	if r.End == refresh.Done && (r.Kind == refresh.Install || r.Kind == refresh.Update) {
		m.figures.mu.Lock()
		m.figures.lastRefresh = r.Ended
		m.figures.mu.Unlock()
	}
}

// countSection counts a critical section that has ended.
func (m *Manager) countSection(k refresh.Kind, d time.Duration) {
	m.figures.metrics.HeldOff(string(k), d)
}

// countCollection counts a collection that began at start.
func (m *Manager) countCollection(r gc.Result, start time.Time, err error) {
	m.figures.stored.Add(1)
	if problem.Is(err, problem.Interrupted) {
		return // it was not its fault; the next one goes on
	}
	m.figures.metrics.Collected(metrics.Collection{Ended: time.Now(), Took: time.Since(start),
		Blobs: r.Blobs, Bytes: r.Bytes, Strays: r.Strays, Failed: err != nil})
}

// seedMetrics takes over what an earlier agent has done and the state remembers.
func (m *Manager) seedMetrics() error {
	instances, err := m.state.Instances()
	if err != nil {
		return err
	}
	m.figures.mu.Lock()
	defer m.figures.mu.Unlock()
	for _, i := range instances {
		for _, r := range i.Revisions {
			if r.Made.After(m.figures.lastRefresh) {
				m.figures.lastRefresh = r.Made
			}
		}
	}
	return nil
}

// followMetrics writes them: at the start, and when something has changed. There
// is a timer only between a change and the writing of it. At the end the file
// goes, because nobody keeps true any more what it says.
func (m *Manager) followMetrics() {
	w := &metricsWriter{m: m, reached: map[string]reached{}}
	var due <-chan time.Time
	later := func(d time.Duration) {
		if due = nil; d > 0 {
			due = time.After(d)
		}
	}
	later(w.write())
	for {
		select {
		case <-m.figures.dirty:
			if due == nil {
				later(metricsDelay)
			}
		case <-due:
			later(w.write())
		case <-m.ctx.Done():
			w.remove()
			return
		}
	}
}

// checkMetrics is the doctor's look.
func (m *Manager) checkMetrics(add func(name, state, seen, advice string)) {
	path := m.Policy().Metrics.Textfile
	m.figures.mu.Lock()
	failure := m.figures.failure
	m.figures.mu.Unlock()
	switch {
	case path == "":
	case failure != "":
		add("metrics", checkWarn, failure, "metrics.textfile in the policy names the file; its folder has to be there, and no symbolic link on the way to it")
	default:
		add("metrics", checkOK, "written to "+path, "")
	}
}
