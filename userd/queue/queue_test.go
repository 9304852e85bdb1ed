package queue

import (
	"sync"
	"testing"
)

func TestNothingIsLostAndOrderIsKept(t *testing.T) {
	b := New[int]()
	var wg sync.WaitGroup
	const n = 1000
	wg.Go(func() {
		for i := range n {
			b.Put(i)
		}
	})
	next := 0
	for next < n {
		<-b.C()
		for _, v := range b.Take() {
			if v != next {
				t.Fatalf("got %d, want %d", v, next)
			}
			next++
		}
	}
	wg.Wait()
	if left := b.Take(); left != nil {
		t.Errorf("left: %v", left)
	}
}
