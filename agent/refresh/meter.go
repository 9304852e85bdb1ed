package refresh

import (
	"sync"
	"time"
)

// progressEvery is how often the progress of a download is told at most.
const progressEvery = 100 * time.Millisecond

// meter passes the progress of a fetch on, not too often. It is called from the
// resolver's goroutines while the task's own waits for the step.
type meter struct {
	t    *task
	mu   sync.Mutex
	last time.Time
}

func newMeter(t *task) *meter { return &meter{t: t} }

func (m *meter) set(done, total int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now := time.Now(); done == total || now.Sub(m.last) >= progressEvery {
		m.last = now
		m.t.progress(done, total)
	}
}

// progress shows how far a fetch is, without touching the record.
func (t *task) progress(done, total int64) {
	t.mu.Lock()
	t.published.BytesDone, t.published.BytesTotal = done, total
	t.mu.Unlock()
	t.e.Changed(t.snapshot())
}
