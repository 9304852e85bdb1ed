package runs

import (
	"errors"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/cgroup"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/inotify"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/lib/runctl"
)

// markerEvents follows the run-control directory: the release agent removes
// .running, launchers release locks.
type markerEvents struct {
	w    *runctl.Watch
	done chan struct{}
}

func runctlEvents(o *ownedTracker) (*markerEvents, error) {
	w, err := o.ctl.Watch()
	if err != nil {
		return nil, err
	}
	m := &markerEvents{w: w, done: make(chan struct{})}
	go func() {
		defer close(m.done)
		for e := range w.Events() {
			switch e.Kind {
			case runctl.LookAtAll:
				if err := o.settleAll(); err != nil {
					o.log.Warn("cannot determine what runs", messages.Key, messages.RunsUnreadable, "error", err)
					o.hints.give("")
				}
			case runctl.LockReleased, runctl.RunningGone:
				o.settle(e.Instance)
				o.hints.give(e.Instance)
			}
		}
	}()
	return m, nil
}

func (m *markerEvents) placed(group) error { return nil }
func (m *markerEvents) removed(group)      {}

func (m *markerEvents) close() {
	m.w.Close()
	<-m.done
}

// populationEvents follows cgroup.events of each run in the unified hierarchy.
// Runs for which no watch is left are polled.
type populationEvents struct {
	markers *markerEvents
	in      *inotify.Watcher
	poller  *poller
	done    chan struct{}

	mu      sync.Mutex       // guards what follows
	runs    map[int]string   // watch → instance
	watches map[string]int   // directory of a run → watch
	blind   map[string]error // directory of a run without one → why
}

func cgroupEvents(o *ownedTracker) (*populationEvents, error) {
	in, err := inotify.New()
	if err != nil {
		return nil, err
	}
	markers, err := runctlEvents(o)
	if err != nil {
		in.Close()
		return nil, err
	}
	p := &populationEvents{
		markers: markers, in: in, done: make(chan struct{}),
		runs: map[int]string{}, watches: map[string]int{}, blind: map[string]error{},
	}
	p.poller = poll(o, func() ([]string, error) { return nil, nil }, nil)
	go p.run(o)
	return p, nil
}

func (p *populationEvents) placed(g group) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	wd, err := p.in.Add(g.dir+"/cgroup.events", unix.IN_MODIFY)
	if noWatchLeft(err) {
		p.blind[g.dir] = err
		return p.poller.placed(g)
	}
	if err != nil {
		return err
	}
	p.runs[wd], p.watches[g.dir] = g.instance, wd
	return nil
}

// noWatchLeft reports that this user has as many watches as the kernel allows
// (inotify_add_watch(2)).
func noWatchLeft(err error) bool { return errors.Is(err, unix.ENOSPC) }

// blindness returns why there are runs without a watch, nil if there are none.
func (p *populationEvents) blindness() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, err := range p.blind {
		return err
	}
	return nil
}

// removed ends the watch. cgroupfs sends no event for a watched file that is
// removed with its group, and inotify would keep the watch for ever.
func (p *populationEvents) removed(g group) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.blind, g.dir)
	if wd, ok := p.watches[g.dir]; ok {
		delete(p.watches, g.dir)
		delete(p.runs, wd)
		p.in.Remove(wd)
	}
}

func (p *populationEvents) run(o *ownedTracker) {
	defer close(p.done)
	for {
		events, err := p.in.Read()
		if err != nil {
			return
		}
		for _, e := range events {
			if e.Overflow() {
				if err := o.settleAll(); err != nil {
					o.log.Warn("cannot determine what runs", messages.Key, messages.RunsUnreadable, "error", err)
					o.hints.give("")
				}
				continue
			}
			p.mu.Lock()
			instance, ok := p.runs[e.Watch]
			p.mu.Unlock()
			if ok {
				o.settle(instance)
				o.hints.give(instance)
			}
		}
	}
}

func (p *populationEvents) close() {
	p.markers.close()
	p.poller.close()
	p.in.Close()
	<-p.done
}

// newSubtree tracks in the agent's own subtree of the unified hierarchy.
func newSubtree(ctl *runctl.Dir, l cgroup.Layout, opts Options) (*ownedTracker, error) {
	g, err := subtreeTop(l)
	if err != nil {
		return nil, err
	}
	o := newOwned("subtree", ctl, g, opts)
	o.after = func() error { return removeSubtree(g) }
	o.mu.Lock() // events come at once, and find everything in its place
	noWatch := errors.New("--tracker=" + opts.Want)
	if opts.Want != "poll-procs" && opts.Want != "poll" {
		var p *populationEvents
		if p, noWatch = cgroupEvents(o); noWatch == nil {
			o.manner = func() string { return "cgroup.events and inotify" }
			o.events, o.degraded = p, p.blindness
		}
	}
	if noWatch != nil {
		o.polls = true
		o.manner = func() string { return errkind.Text("reading cgroup.procs every second (no inotify: %v)", noWatch) }
		o.events = poll(o, o.instances, nil)
	}
	o.mu.Unlock()
	fail := func(err error) (*ownedTracker, error) {
		o.events.close()
		o.hints.close()
		return nil, err
	}
	groups, err := g.list()
	if err != nil {
		return fail(err)
	}
	for _, r := range groups { // left by an earlier agent
		if err := o.events.placed(r); err != nil && !cgroup.Gone(err) {
			return fail(err)
		}
	}
	if err := o.settleAll(); err != nil {
		return fail(err)
	}
	return o, nil
}
