// Package queue is a queue between goroutines into which putting never
// blocks, so that two of them that send to each other cannot wait for each
// other.
//
// Concurrency: Put may be called from anywhere; one goroutine receives from C
// and then calls Take.
package queue

import "sync"

// Box is a queue without a bound.
type Box[T any] struct {
	ready chan struct{}

	mu    sync.Mutex
	queue []T
}

// New makes an empty box.
func New[T any]() *Box[T] { return &Box[T]{ready: make(chan struct{}, 1)} }

// Put adds v.
func (b *Box[T]) Put(v T) {
	b.mu.Lock()
	b.queue = append(b.queue, v)
	b.mu.Unlock()
	select {
	case b.ready <- struct{}{}:
	default:
	}
}

// C yields when there may be something to take.
func (b *Box[T]) C() <-chan struct{} { return b.ready }

// Take returns the queued elements in their order.
func (b *Box[T]) Take() []T {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := b.queue
	b.queue = nil
	return q
}
