package runs

import "sync"

// hints hands names on to a slow reader: each waits once, however often it is
// given.
type hints struct {
	out  chan string
	wake chan struct{}
	stop chan struct{}
	done chan struct{}

	mu      sync.Mutex // guards what follows
	pending map[string]bool
	order   []string
}

func newHints() *hints {
	h := &hints{
		out: make(chan string), wake: make(chan struct{}, 1),
		stop: make(chan struct{}), done: make(chan struct{}),
		pending: map[string]bool{},
	}
	go h.run()
	return h
}

// give never blocks. The empty name takes the place of all others.
func (h *hints) give(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pending[name] || h.pending[""] {
		return
	}
	if name == "" {
		clear(h.pending)
		h.order = nil
	}
	h.pending[name] = true
	h.order = append(h.order, name)
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

func (h *hints) run() {
	defer close(h.done)
	defer close(h.out)
	for {
		select {
		case <-h.stop:
			return
		case <-h.wake:
		}
		for {
			name, ok := h.take()
			if !ok {
				break
			}
			select {
			case h.out <- name:
			case <-h.stop:
				return
			}
		}
	}
}

// take removes the oldest hint. From here on the same name is new: a hint that
// is given while the reader still works on it is delivered, too.
func (h *hints) take() (string, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.order) == 0 {
		return "", false
	}
	name := h.order[0]
	h.order = h.order[1:]
	delete(h.pending, name)
	return name, true
}

func (h *hints) close() {
	close(h.stop)
	<-h.done
}
