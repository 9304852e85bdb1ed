package refresh

import (
	"sync"
	"time"

	"github.com/lull/lull/agent/store/resolve"
)

// progressEvery is the shortest time between two progress reports of a download.
const progressEvery = 100 * time.Millisecond

// meter passes on the progress of a fetch, not too often. It is called from the resolver's
// goroutines while the task's own goroutine waits for the step.
type meter struct {
	t            *task
	size         func(bytes int64) // receives how much is fetched, before the first byte of it
	mu           sync.Mutex
	last         time.Time
	done         int64
	fetch, write int64
}

func newMeter(t *task, size func(bytes int64)) *meter { return &meter{t: t, size: size} }

func (m *meter) set(p resolve.Progress) {
	m.mu.Lock()
	now := time.Now()
	sized := p.Fetch != m.fetch || p.Write != m.write // before the first byte of it
	due := sized || p.Done >= m.done && (p.Done == p.Total || now.Sub(m.last) >= progressEvery)
	if due {
		m.last, m.done, m.fetch, m.write = now, p.Done, p.Fetch, p.Write
		m.t.progress(p)
	}
	m.mu.Unlock()
	if sized {
		m.size(p.Fetch)
	}
	if due {
		m.t.e.Changed(m.t.snapshot())
	}
}

// progress publishes how far a fetch is, without changing the record.
func (t *task) progress(p resolve.Progress) {
	t.mu.Lock()
	r := &t.published
	r.BytesDone, r.BytesTotal, r.ToFetch, r.ToWrite, r.Speed = p.Done, p.Total, p.Fetch, p.Write, p.Speed
	t.mu.Unlock()
}
