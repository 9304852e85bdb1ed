// Package held holds locks rightly and wrongly, for the test of the check.
package held

import (
	"os"
	"sync"
)

type writer interface{ write() error }

type disk struct{}

func (disk) write() error { return os.Remove("x") }

type memory struct{ n int }

func (m *memory) count() { m.n++ }

type owner struct {
	told func()
	w    writer
	m    memory

	mu      sync.Mutex
	telling sync.Mutex
}

func (o *owner) direct() {
	o.mu.Lock()
	_ = os.Remove("x")
	o.mu.Unlock()
}

func (o *owner) deferred() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return disk{}.write()
}

func (o *owner) throughInterface() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.w.write(); err != nil {
		o.m.count()
	}
}

func (o *owner) fieldCall() {
	o.mu.Lock()
	o.told()
	o.mu.Unlock()
}

func (o *owner) branch(b bool) {
	o.mu.Lock()
	if b {
		o.mu.Unlock()
		return
	}
	_ = os.Remove("x")
	o.mu.Unlock()
}

func (o *owner) writeLocked() { _ = os.Remove("x") }

func (o *owner) rightAfter() {
	o.mu.Lock()
	o.m.count()
	o.mu.Unlock()
	_ = os.Remove("x")
}

func (o *owner) rightElsewhere() {
	o.mu.Lock()
	defer o.mu.Unlock()
	go func() { _ = os.Remove("x") }()
}

func (o *owner) rightOrder() {
	o.telling.Lock()
	defer o.telling.Unlock()
	_ = os.Remove("x")
}
