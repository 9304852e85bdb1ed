package schedule

import "sync"

// later is the set of instances whose new version was found during the critical section of a
// refresh, which cannot be replaced then. The repositories are rechecked when the refresh has
// ended.
type later struct {
	mu        sync.Mutex
	instances map[string]bool
	due       chan struct{} // capacity 1: recheck
}

func newLater() later { return later{instances: map[string]bool{}, due: make(chan struct{}, 1)} }

// Later has the repositories rechecked when the refresh of an instance has ended: it is in
// its critical section, so that a newer version cannot replace it. underWay reports whether
// it still is, because it may have ended meanwhile.
func (c *Checker) Later(instance string, underWay func(instance string) bool) {
	c.later.add(instance)
	if !underWay(instance) {
		c.later.ended(instance)
	}
}

// Ended reports the end of a refresh.
func (c *Checker) Ended(instance string) { c.later.ended(instance) }

func (l *later) add(instance string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.instances[instance] = true
}

// ended records the end of a refresh.
func (l *later) ended(instance string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.instances[instance] {
		return
	}
	delete(l.instances, instance)
	select {
	case l.due <- struct{}{}:
	default:
	}
}
