// Package footprint keeps a process small that mostly waits.
//
// A burst of work leaves behind garbage, and free memory that the Go runtime keeps
// for the next burst. A Resting gives both back when nothing has been done for a
// while: once after each burst, so that an idle process does not wake up for it.
//
// Touch may be called from any goroutine, often, and never blocks. The work is
// done in a goroutine of the timer's; Close waits for it.
package footprint

import (
	"sync"
	"time"
)

// Resting notices that a process rests.
type Resting struct {
	after time.Duration
	trim  func()

	mu     sync.Mutex // guards what follows; held while trim runs
	last   time.Time
	timer  *time.Timer // nil: nothing has been done since the last trim
	closed bool
}

// New has trim called when Touch was not for the time after.
func New(after time.Duration, trim func()) *Resting { return &Resting{after: after, trim: trim} }

// Touch says that something is done.
func (r *Resting) Touch() {
	if !r.mu.TryLock() {
		return // another Touch of this moment; or what is done now is trimmed with the next
	}
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	r.last = time.Now()
	if r.timer == nil {
		r.timer = time.AfterFunc(r.after, r.look)
	}
}

func (r *Resting) look() {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch rest := r.after - time.Since(r.last); {
	case r.closed:
	case rest > 0:
		r.timer.Reset(rest)
	default:
		r.timer = nil
		r.trim()
	}
}

// Close ends it.
func (r *Resting) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	if r.timer != nil {
		r.timer.Stop()
	}
}
