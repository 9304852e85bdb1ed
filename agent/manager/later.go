package manager

import (
	"sync"

	"github.com/lull/lull/agent/refresh/plan"
)

// later is the set of instances whose new version was found during the critical section of a
// refresh, which cannot be replaced then. The repositories are rechecked when the refresh has
// ended.
type later struct {
	mu        sync.Mutex
	instances map[string]bool
	due       chan struct{} // capacity 1: recheck
}

func newLater() later { return later{instances: map[string]bool{}, due: make(chan struct{}, 1)} }

// add records an instance; current returns its refresh, which may have ended meanwhile.
func (l *later) add(instance string, current func(string) (plan.Refresh, bool)) {
	l.mu.Lock()
	l.instances[instance] = true
	l.mu.Unlock()
	if r, ok := current(instance); !ok || r.End != "" {
		l.ended(instance)
	}
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
