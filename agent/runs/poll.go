package runs

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/lull/lull/agent/lib/messages"
)

// pollEvery is the interval of polling where there are no events. Events has it in words.
const pollEvery = time.Second

// poller polls the instances that source names, as long as there are any.
// It sleeps until the next Attach otherwise.
type poller struct {
	also eventSource // additional events; nil if none
	wake chan struct{}
	stop chan struct{}
	done chan struct{}

	mu    sync.Mutex // guards what follows
	fresh []string   // instances that got a run since the last look
}

func poll(o *ownedTracker, source func() ([]string, error), also eventSource) *poller {
	p := &poller{also: also, wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	p.wake <- struct{}{} // for what an earlier agent has left
	go p.run(o, source)
	return p
}

func (p *poller) placed(g group) error {
	p.mu.Lock()
	p.fresh = append(p.fresh, g.instance)
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
	if p.also != nil {
		return p.also.placed(g)
	}
	return nil
}

func (p *poller) removed(g group) {
	if p.also != nil {
		p.also.removed(g)
	}
}

func (p *poller) run(o *ownedTracker, source func() ([]string, error)) {
	defer close(p.done)
	timer := time.NewTimer(pollEvery)
	timer.Stop()
	defer timer.Stop()
	before := map[string]string{}
	for {
		select {
		case <-p.stop:
			return
		case <-p.wake:
		case <-timer.C:
		}
		names, err := source()
		if err != nil {
			o.log.Warn("cannot determine what runs", messages.Key, messages.RunsUnreadable, "error", err)
			timer.Reset(pollEvery)
			continue
		}
		// A run may begin and end between two polls; its end is reported all the same.
		for _, i := range p.takeFresh() {
			before[i] += "new"
		}
		names = append(names, slices.Collect(maps.Keys(before))...)
		slices.Sort(names)
		for _, i := range slices.Compact(names) {
			o.settle(i)
			now := o.picture(i)
			if now != before[i] {
				o.hints.give(i)
			}
			if before[i] = now; now == "" {
				delete(before, i)
			}
		}
		if len(before) > 0 {
			timer.Reset(pollEvery)
		}
	}
}

func (p *poller) takeFresh() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.fresh
	p.fresh = nil
	return list
}

// picture is a text that changes when runs of the instance begin or end.
func (o *ownedTracker) picture(instance string) string {
	text := ""
	for _, svc := range []bool{false, true} {
		groups, err := o.groups.of(instance, svc)
		if err != nil {
			return "unknown"
		}
		for _, g := range groups {
			text += g.cgroup + "\n"
		}
	}
	return text
}

func (p *poller) close() {
	close(p.stop)
	<-p.done
	if p.also != nil {
		p.also.close()
	}
}
