package refresh

import (
	"sync"
	"time"
)

// progressEvery is the shortest time between two progress reports of a download.
const progressEvery = 100 * time.Millisecond

// meter passes on the progress of a fetch, not too often. It is called from the resolver's
// goroutines while the task's own goroutine waits for the step.
type meter struct {
	t    *task
	mu   sync.Mutex
	last time.Time
	done int64
}

func newMeter(t *task) *meter { return &meter{t: t} }

func (m *meter) set(done, total int64) {
	m.mu.Lock()
	now := time.Now()
	due := done >= m.done && (done == total || now.Sub(m.last) >= progressEvery)
	if due {
		m.last, m.done = now, done
		m.t.progress(done, total)
	}
	m.mu.Unlock()
	if due {
		m.t.e.Changed(m.t.snapshot())
	}
}

// progress publishes how far a fetch is, without changing the record.
func (t *task) progress(done, total int64) {
	t.mu.Lock()
	t.published.BytesDone, t.published.BytesTotal = done, total
	t.mu.Unlock()
}
