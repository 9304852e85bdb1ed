package sessionjobs

import (
	"errors"
	"slices"
	"syscall"
	"time"

	"github.com/lull/lull/agent/lib/words"
)

// The phases.
const (
	Precopy = words.PhasePrecopy
	Enter   = words.PhaseEnter
	Undo    = words.PhaseUndo
	Abandon = words.PhaseAbandon
	Finish  = words.PhaseFinish
	Session = words.PhaseSession
)

// Service is one to start or stop.
type Service struct {
	Name        string
	StopSignal  string
	StopTimeout time.Duration
	Notifies    bool // it reports to systemd by itself when it is ready
}

// Order is one phase for one instance.
type Order struct {
	ID       string // of the refresh; "" with Session
	Phase    string
	Instance string
	Root     string // of the agent
	RunDir   string
	From, To uint32
	Data     bool      // there is data to bring over
	Services []Service // in their order
}

// Action is what a job does.
type Action int

// The actions.
const (
	Stop      Action = iota // the services
	Start                   // the services
	CopyAhead               // copy data ahead
	Migrate                 // bring data over, for good
	Discard                 // what was copied ahead
)

// Lane is where jobs run one after the other; the lanes run beside each other.
type Lane int

// The lanes.
const (
	ServicesLane Lane = iota
	DataLane
	lanes
)

func (a Action) lane() Lane {
	if a == Stop || a == Start {
		return ServicesLane
	}
	return DataLane
}

// Job is an action for an order.
type Job struct {
	Order
	Do      Action
	answers bool // its end is the end of the order
}

// Event is what a machine learns: Given or Ended.
type Event interface{ event() }

type (
	// Given is an order of the agent's.
	Given struct{ Order }
	// Ended is the job that ran in a lane.
	Ended struct {
		Lane Lane
		Err  error
	}
)

func (Given) event() {}
func (Ended) event() {}

// Effect is what a machine wants: Run, Cancel or Done.
type Effect interface{ effect() }

type (
	// Run has a job begun; Ended follows.
	Run struct{ Job }
	// Cancel has the job in a lane end soon; Ended follows all the same.
	Cancel struct{ Lane Lane }
	// Done answers an order.
	Done struct {
		Order
		Err error
	}
)

func (Run) effect()    {}
func (Cancel) effect() {}
func (Done) effect()   {}

// Machine is the state of one instance in this session. The zero value is an
// instance without any work.
type Machine struct {
	lanes [lanes]lane
	full  uint32 // a revision whose data did not fit: it is not copied ahead again
}

type lane struct {
	running   *Job
	cancelled bool
	queue     []Job
}

// Step is the whole logic: it touches nothing.
func (m *Machine) Step(ev Event) (effects []Effect) {
	switch ev := ev.(type) {
	case Given:
		effects = m.given(ev.Order)
	case Ended:
		effects = m.ended(ev)
	}
	for i := range m.lanes {
		l := &m.lanes[i]
		if l.running == nil && len(l.queue) > 0 {
			next := l.queue[0]
			l.running, l.cancelled, l.queue = &next, false, l.queue[1:]
			effects = append(effects, Run{*l.running})
		}
	}
	return effects
}

func (m *Machine) given(o Order) (effects []Effect) {
	switch o.Phase {
	case Precopy:
		m.full = 0
		return m.ahead(o, true)
	case Enter:
		// Whatever revision is current when launches are allowed, earlier orders no longer apply.
		effects = m.drop(ServicesLane, func(j Job) bool { return j.Do == Start })
		effects = append(effects, m.drop(DataLane, func(j Job) bool { return j.Do == Migrate || j.Do == CopyAhead && j.ID != o.ID })...)
		if len(o.Services) > 0 {
			m.put(Job{o, Stop, true})
			return effects
		}
		effects = append(effects, Done{Order: o})
		if o.Data {
			effects = append(effects, m.ahead(o, false)...)
		}
	case Undo:
		m.noMore(o.ID)
		m.put(Job{o, Start, true})
	case Abandon:
		m.noMore(o.ID)
		effects = m.drop(DataLane, func(Job) bool { return true })
		m.put(Job{o, Discard, true})
	case Finish, Session:
		m.noMore(o.ID)
		// A copy ahead that runs is let end: broken off it would be worth nothing.
		data := &m.lanes[DataLane]
		data.queue = slices.DeleteFunc(data.queue, func(j Job) bool { return j.Do == CopyAhead && j.ID == o.ID })
		if o.Data {
			m.put(Job{o, Migrate, len(o.Services) == 0})
		} else {
			m.put(Job{o, Start, true})
		}
	default:
		return []Effect{Done{o, errors.New("this helper does not support the phase " + o.Phase)}}
	}
	return effects
}

func (m *Machine) ended(ev Ended) (effects []Effect) {
	l := &m.lanes[ev.Lane]
	j, cancelled := *l.running, l.cancelled
	l.running = nil
	if cancelled {
		return nil // the agent has forgotten the order, too
	}
	if errors.Is(ev.Err, syscall.ENOSPC) || errors.Is(ev.Err, syscall.EDQUOT) {
		m.full = j.To
	}
	switch {
	case j.Do == Migrate && !j.answers && ev.Err == nil:
		m.put(Job{j.Order, Start, true})
	case j.answers || j.Do == Migrate:
		effects = append(effects, Done{j.Order, ev.Err})
	}
	if j.Do == Stop && j.Data {
		// Now that no process writes any more.
		effects = append(effects, m.ahead(j.Order, false)...)
	}
	return effects
}

// ahead queues a copy ahead, unless that has been seen not to fit.
func (m *Machine) ahead(o Order, answers bool) []Effect {
	if o.To == m.full {
		return nil
	}
	m.put(Job{o, CopyAhead, answers})
	return nil
}

// noMore has no copy ahead follow the stop that an earlier phase has ordered: the
// agent goes on when the services' processes are gone, which it sees before
// systemd reports them as stopped.
func (m *Machine) noMore(id string) {
	l := &m.lanes[ServicesLane]
	if l.running != nil && l.running.ID == id {
		l.running.Data = false
	}
	for i := range l.queue {
		l.queue[i].Data = l.queue[i].Data && l.queue[i].ID != id
	}
}

// put queues a job, once.
func (m *Machine) put(j Job) {
	l := &m.lanes[j.Do.lane()]
	same := func(k Job) bool { return k.ID == j.ID && k.Phase == j.Phase && k.Do == j.Do }
	if !slices.ContainsFunc(l.queue, same) {
		l.queue = append(l.queue, j)
	}
}

// drop takes the jobs that match out of a lane, the one that runs included.
func (m *Machine) drop(at Lane, match func(Job) bool) []Effect {
	l := &m.lanes[at]
	l.queue = slices.DeleteFunc(l.queue, match)
	if l.running == nil || l.cancelled || !match(*l.running) {
		return nil
	}
	l.cancelled = true
	return []Effect{Cancel{at}}
}
