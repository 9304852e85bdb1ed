package notify

import (
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/lull/lull/userd/texts"
)

// Pauses and patience.
const (
	// quitTime is how long an application may take to quit before the person
	// hears that it is still open.
	quitTime = 15 * time.Second
	// returnTime is how long after the application has gone the refresh may
	// take to begin. After that it is started again whatever has become of the
	// refresh: the launcher itself waits while one is in progress.
	returnTime = time.Minute
	// agentGrace is how long the agent may be away, as when it is updated
	// itself, before notices about it are taken down.
	agentGrace = 30 * time.Second
	// askAgain is the pause after the agent did not answer, doubled each time
	// up to askSeldom.
	askAgain  = time.Minute
	askSeldom = time.Hour
	// maxDiscarded is how many outdated answers in a row do not count, so that
	// an agent that changes its mind all the time is heard all the same.
	maxDiscarded = 3
	// forgetAfter is how long it is remembered that somebody was told
	// something, at least.
	forgetAfter = 30 * 24 * time.Hour
)

// Core is the state of the notices of one session.
type Core struct {
	Schedule Schedule
	Zone     *time.Location // of the times in texts; nil: as they come
	Texts    texts.Texts    // the language; zero: English

	agent     bool
	agentLost time.Time // zero: it is there, or its notices are down already
	disturb   bool      // the server says "do not disturb", or nothing yet
	locked    bool
	filled    bool // a window fills the screen
	asking    bool
	outdated  bool // something has changed since the question left
	discarded int  // answers in a row that were outdated
	fresh     bool // this step has brought an answer
	mustAsk   bool
	retry     time.Time     // no question before
	pause     time.Duration // after the next question that is not answered
	serial    uint64
	slots     map[string]*slot
	memory    map[string]Memory
	launches  []*launch // that wait, the oldest first
	warned    bool      // that the machine goes off
	wake      time.Time
	effects   []Effect
}

// slot is one instance.
type slot struct {
	pending Pending
	waiting bool    // the agent says that pending is pending
	forced  bool    // to be shown at the first opportunity, whatever the schedule says
	news    *Notice // of kind After, until it can be shown
	live    *Notice // what is up
}

// New makes a core that remembers what an earlier one has given to Remember.
// It is quiet until Disturb tells it otherwise.
func New(s Schedule, zone *time.Location, memory map[string]Memory) *Core {
	c := &Core{Schedule: s, Zone: zone, disturb: true, slots: map[string]*slot{}, memory: maps.Clone(memory)}
	if c.memory == nil {
		c.memory = map[string]Memory{}
	}
	// What was up when the helper ended was taken down by that.
	for instance, m := range c.memory {
		if m.Up {
			c.slot(instance).forced = true
		}
	}
	return c
}

func (c *Core) slot(instance string) *slot {
	s := c.slots[instance]
	if s == nil {
		s = &slot{}
		c.slots[instance] = s
	}
	return s
}

// Step takes an event at time now and says what to do, in order.
func (c *Core) Step(now time.Time, e Event) []Effect {
	now = now.Round(0) // wall-clock time: a suspended machine ages, too
	c.effects, c.fresh = nil, false
	before := maps.Clone(c.memory)
	c.clamp(now)
	c.handle(now, e)
	c.timeouts(now)
	if c.fresh {
		c.showDue(now)
		c.keepTrue(now)
	}
	c.ask(now)
	if !reflect.DeepEqual(before, c.memory) {
		c.do(Remember{maps.Clone(c.memory)})
	}
	if at := c.nextWake(now); !at.Equal(c.wake) {
		c.wake = at
		c.do(Wake{at})
	}
	return c.effects
}

// clamp takes back what is remembered from a future: the clock was put back.
func (c *Core) clamp(now time.Time) {
	for instance, m := range c.memory {
		if m.Shown.After(now) {
			m.Shown = now
		}
		if r := m.Restart; r != nil && (r.Asked.After(now) || r.Exited.After(now)) {
			r = new(*r)
			r.Asked = now
			if !r.Exited.IsZero() {
				r.Exited = now
			}
			m.Restart = r
		}
		c.memory[instance] = m
	}
}

func (c *Core) do(e Effect) { c.effects = append(c.effects, e) }

func (c *Core) handle(now time.Time, e Event) {
	switch e := e.(type) {
	case AgentUp:
		c.agent, c.agentLost, c.retry, c.pause = true, time.Time{}, time.Time{}, askAgain
		c.asking, c.outdated, c.mustAsk = false, false, true
	case AgentDown:
		if c.agent {
			c.agentLost = now
		}
		c.agent, c.asking = false, false
	case Listed:
		c.asking, c.retry, c.pause = false, time.Time{}, askAgain
		c.mustAsk, c.outdated = c.outdated, false
		if c.mustAsk && c.discarded < maxDiscarded {
			c.discarded++
			return
		}
		c.discarded, c.fresh = 0, true
		c.listed(now, e.List)
		c.quit()
	case AskFailed:
		c.asking, c.outdated, c.mustAsk = false, false, true
		c.retry = now.Add(c.pause)
		c.pause = min(2*c.pause, askSeldom)
		c.quit()
	case Changed:
		c.changed()
	case Withdrawn:
		for instance, s := range c.slots {
			if s.waiting && s.pending.ID == e.ID {
				c.withdrawn(now, instance, s, e.Reason)
			}
		}
		c.changed()
	case Updated:
		c.updated(now, e.Done)
		c.changed()
	case Finished:
		if r := c.memory[e.Instance].Restart; r != nil && e.Result != "done" && !r.Exited.IsZero() {
			c.launch(e.Instance)
		}
	case Closed:
		c.closed(e)
	case Invoked:
		c.invoked(now, e)
	case Disturb:
		c.disturb = e.No
	case Locked:
		c.locked = e.Yes
	case Fullscreen:
		c.filled = e.Yes
	case LaunchWaits:
		c.launchWaits(e)
	case LaunchOver:
		c.launchOver(e)
	case Progress:
		c.progress(e)
	case ShuttingDown:
		c.shuttingDown(e)
	case ShowAll:
		c.mustAsk = true
		for _, s := range c.slots {
			s.forced = s.forced || s.waiting
		}
	case Tick:
		c.wake = time.Time{} // it has been used up
	}
}

func (c *Core) quiet() bool { return c.disturb || c.locked || c.filled }

// changed makes a question due. The answer to one that is under way may be
// from before: it does not count.
func (c *Core) changed() {
	if c.asking {
		c.outdated = true
	} else {
		c.mustAsk = true
	}
	c.retry = time.Time{} // it talks
}

// listed takes over what the agent says is pending, and nothing else is.
func (c *Core) listed(now time.Time, list []Pending) {
	seen := map[string]bool{}
	for _, p := range list {
		if seen[p.Instance] || p.Instance == "" || p.ID == "" {
			continue
		}
		seen[p.Instance] = true
		s := c.slot(p.Instance)
		s.pending, s.waiting = p, true
		m := c.memory[p.Instance]
		if m.Restart != nil && !m.Restart.Exited.IsZero() {
			m.Restart = nil // somebody was quicker: it runs again
			c.memory[p.Instance] = m
			c.do(Forget{p.Instance})
		}
	}
	for instance, s := range c.slots {
		if s.waiting && !seen[instance] {
			c.withdrawn(now, instance, s, "exited")
		}
		if !s.waiting {
			s.forced = false
		}
	}
	for instance, m := range c.memory {
		r := m.Restart
		if r != nil && !seen[instance] && r.Exited.IsZero() {
			r = new(*r)
			r.Exited = now // from before this process
			m.Restart = r
			c.memory[instance] = m
		}
		if !seen[instance] && r == nil && !m.Up && now.Sub(m.Shown) > forgetAfter {
			delete(c.memory, instance)
		}
	}
}

// withdrawn takes down a notice that is no longer true, also where it stands in
// a history only.
func (c *Core) withdrawn(now time.Time, instance string, s *slot, reason string) {
	s.waiting, s.forced = false, false
	if s.live == nil || s.live.Kind != After && s.live.Kind != Wait {
		c.take(instance, s, false)
	}
	m := c.memory[instance]
	m.Up = false
	c.memory[instance] = m
	r := m.Restart
	if r == nil {
		return
	}
	switch {
	case reason == "exited", reason == "updated":
		if r.Exited.IsZero() {
			r = new(*r)
			r.Exited = now
			m.Restart = r
			c.memory[instance] = m
		}
	default: // it will not be updated now, but it may have quit for that
		c.launch(instance)
	}
}

func (c *Core) updated(now time.Time, d Done) {
	_, told := c.memory[d.Instance]
	if c.slots[d.Instance] == nil && !told {
		return // it concerns another session of this user
	}
	s := c.slot(d.Instance)
	if s.waiting {
		c.withdrawn(now, d.Instance, s, "updated")
	}
	restarted := c.memory[d.Instance].Restart != nil
	if restarted {
		c.launch(d.Instance)
	}
	n := c.after(d, restarted)
	s.news = &n
	c.showNews(d.Instance, s)
}

func (c *Core) showNews(instance string, s *slot) {
	if s.news == nil || c.quiet() || s.waiting || c.launchOf(instance) != nil {
		return
	}
	n := *s.news
	s.news = nil
	c.put(s, n)
}

// launch fulfils the last part of "Restart now".
func (c *Core) launch(instance string) {
	m := c.memory[instance]
	m.Restart = nil
	c.memory[instance] = m
	c.do(Launch{instance})
}

func (c *Core) closed(e Closed) {
	s := c.slots[e.Instance]
	if s == nil || s.live == nil || s.live.Serial != e.Serial {
		return
	}
	if s.live.Kind == Wait {
		for _, w := range c.launches {
			w.closed = w.closed || w.Instance == e.Instance
		}
	}
	s.live = nil
	c.down(e.Instance)
}

func (c *Core) down(instance string) {
	if m, ok := c.memory[instance]; ok && m.Up {
		m.Up = false
		c.memory[instance] = m
	}
}

func (c *Core) invoked(now time.Time, e Invoked) {
	s := c.slots[e.Instance]
	if s == nil || !s.waiting {
		// A button in the notification history, of a notice that is no
		// longer true; or the news of an update.
		if s != nil && s.live != nil {
			c.take(e.Instance, s, false)
		}
		return
	}
	m := c.memory[e.Instance]
	switch e.Action {
	case RestartNow:
		m.Restart = &Restart{ID: s.pending.ID, Asked: now}
		c.do(Answer{s.pending.ID, RestartNow})
		c.changed() // with whom the application runs by now
	case WhenClosed, Default:
		m.Answer = WhenClosed
		if e.Action == WhenClosed && m.Restart != nil {
			m.Restart = nil
			c.do(Forget{e.Instance})
		}
		c.do(Answer{s.pending.ID, WhenClosed})
	case Later:
		m.Answer = Later
		c.do(Answer{s.pending.ID, Later})
	default:
		return
	}
	s.forced = false
	c.memory[e.Instance] = m
	c.take(e.Instance, s, true)
}

// quit asks the applications to quit that are to be restarted, once it is
// known which processes they have.
func (c *Core) quit() {
	for _, instance := range c.instances() {
		s, m := c.slots[instance], c.memory[instance]
		if r := m.Restart; s.waiting && r != nil && !r.Quit {
			r = new(*r)
			r.Quit = true
			m.Restart = r
			c.memory[instance] = m
			c.do(Quit{s.pending})
		}
	}
}

// instances are all, in an order that does not change.
func (c *Core) instances() []string { return slices.Sorted(maps.Keys(c.slots)) }

// put shows a notice.
func (c *Core) put(s *slot, n Notice) {
	c.serial++
	n.Serial = c.serial
	s.live = &n
	c.do(Show{n})
}

// take takes the instance's notice down.
func (c *Core) take(instance string, s *slot, keep bool) {
	s.live = nil
	c.down(instance)
	c.do(Close{instance, keep})
}

// timeouts does what was to be done by now.
func (c *Core) timeouts(now time.Time) {
	if !c.agentLost.IsZero() && !now.Before(c.agentLost.Add(agentGrace)) {
		c.agentLost = time.Time{}
		for _, instance := range c.instances() {
			s := c.slots[instance]
			s.forced = s.live != nil && s.live.Kind != After && s.live.Kind != Wait
			if s.forced {
				c.take(instance, s, false)
			}
			s.waiting = false
		}
	}
	for _, instance := range slices.Sorted(maps.Keys(c.memory)) {
		if r := c.memory[instance].Restart; r != nil && !r.Exited.IsZero() && !now.Before(r.Exited.Add(returnTime)) {
			c.launch(instance)
		}
	}
	for _, instance := range c.instances() {
		c.showNews(instance, c.slots[instance])
	}
	c.showLaunches()
}

// due is when the instance's next notice is to be shown; zero: never.
func (c *Core) due(instance string, now time.Time) time.Time {
	s, m := c.slots[instance], c.memory[instance]
	switch {
	case !s.waiting, c.launchOf(instance) != nil: // which has the one notice that there is
		return time.Time{}
	case m.Restart != nil:
		if m.Restart.Warned {
			return time.Time{}
		}
		return m.Restart.Asked.Add(quitTime)
	case s.forced:
		return now
	}
	return c.Schedule.next(s.pending, m, now)
}

// showDue shows what is due; what is pending was heard this moment.
func (c *Core) showDue(now time.Time) {
	if c.quiet() {
		return
	}
	for _, instance := range c.instances() {
		at := c.due(instance, now)
		if at.IsZero() || at.After(now) {
			continue
		}
		s, m := c.slots[instance], c.memory[instance]
		n := c.ready(s.pending, now)
		if m.Restart != nil {
			r := new(*m.Restart)
			r.Warned = true
			m.Restart = r
			n = c.open(s.pending, now)
		}
		if m.Revision != s.pending.ToRevision {
			m.Answer = ""
		}
		m.Revision, m.Shown, m.Up = s.pending.ToRevision, now, true
		c.memory[instance] = m
		s.forced, s.news = false, nil
		c.put(s, n)
	}
}

// keepTrue replaces in place what is up and no longer says what is so.
func (c *Core) keepTrue(now time.Time) {
	for _, instance := range c.instances() {
		s := c.slots[instance]
		if s.live == nil || s.live.Kind == After || s.live.Kind == Wait || !s.waiting {
			continue
		}
		fresh := c.ready(s.pending, now)
		if s.live.Kind == Open {
			fresh = c.open(s.pending, now)
		}
		if fresh.Serial = s.live.Serial; !reflect.DeepEqual(fresh, *s.live) {
			c.put(s, fresh)
			m := c.memory[instance]
			m.Revision, m.Up = s.pending.ToRevision, true
			c.memory[instance] = m
		}
	}
}

// ask asks the agent when there is a reason to.
func (c *Core) ask(now time.Time) {
	if !c.agent || c.asking || now.Before(c.retry) {
		return
	}
	reason := c.mustAsk
	if !c.quiet() {
		for instance := range c.slots {
			at := c.due(instance, now)
			reason = reason || !at.IsZero() && !at.After(now)
		}
	}
	if reason {
		c.asking, c.mustAsk = true, false
		c.do(Ask{})
	}
}

// nextWake is the next time at which something is to be done.
func (c *Core) nextWake(now time.Time) time.Time {
	var at time.Time
	consider := func(t time.Time) {
		if !t.IsZero() && t.After(now) && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	if !c.agentLost.IsZero() {
		consider(c.agentLost.Add(agentGrace))
	}
	if c.mustAsk && c.agent {
		consider(c.retry)
	}
	if !c.quiet() && c.agent {
		for instance := range c.slots {
			consider(c.due(instance, now))
		}
	}
	for _, m := range c.memory {
		if m.Restart != nil && !m.Restart.Exited.IsZero() {
			consider(m.Restart.Exited.Add(returnTime))
		}
	}
	return at
}
