package notify

import (
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/lull/lull/agent/lib/texts"
)

// Pauses and patience.
const (
	// quitTime is how long an application may take to quit before a notice
	// reports that it is still open.
	quitTime = 15 * time.Second
	// returnTime is how long after the application has gone the refresh may
	// take to begin. After that the application is restarted, whatever the
	// state of the refresh: the launcher itself waits while one is in
	// progress.
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
	// newsTime is the age up to which an update is announced, and newsShown
	// how long its notice stays where the server supports that.
	newsTime  = time.Hour
	newsShown = time.Minute
	// undoneShown is how long it stays that an update did not work, or that it could not
	// bring all of the data over.
	undoneShown = 24 * time.Hour
	// forgetAfter is the least time for which an announcement is remembered.
	forgetAfter = 30 * 24 * time.Hour
)

// Core is the state of the notices of one session.
type Core struct {
	Schedule Schedule
	Zone     *time.Location // of the times in texts; nil leaves them as they come
	Texts    texts.Texts    // the language; zero: English

	agent     bool
	agentLost time.Time // zero: it is there, or its notices are down already
	disturb   bool      // the server reports "do not disturb", or nothing yet
	locked    bool
	filled    bool // a window fills the screen
	unused    bool // the user works in none of the sessions
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
	mayLogOut bool      // the desktop can be asked
	failing   []Failure
	owed      map[string]bool // failures that this user was not notified of when they came, by id
	failures  *Notice         // what is up about them
	// The same of large downloads.
	downloading   []Download
	owedDownloads map[string]bool
	downloads     *Notice
	wake          time.Time
	effects       []Effect
}

// slot is one instance.
type slot struct {
	pending Pending
	waiting bool      // the agent lists pending
	forced  bool      // shown at the first opportunity, regardless of the schedule
	news    *Notice   // of kind After, Undone or Lacks, until it can be shown
	until   time.Time // when the news is old; zero: there is none, shown or not
	live    *Notice   // what is up
}

// New makes a core with the memory that an earlier one has passed to Remember.
// It is quiet until Disturb ends that.
func New(s Schedule, zone *time.Location, memory map[string]Memory) *Core {
	c := &Core{Schedule: s, Zone: zone, disturb: true, slots: map[string]*slot{}, memory: maps.Clone(memory)}
	if c.memory == nil {
		c.memory = map[string]Memory{}
	}
	// The helper has withdrawn all notices at its exit.
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

// Step handles an event at time now and returns the actions, in order.
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
		c.background(now)
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
		c.undone(now, e)
		if r := c.memory[e.Instance].Restart; r != nil && e.Result != "done" && !r.Exited.IsZero() {
			c.launch(e.Instance)
		}
	case Closed:
		c.closed(e)
	case Invoked:
		c.invoked(now, e)
	case Language:
		c.Texts = texts.For("lull-userd", e.Names...)
		c.changed() // the notices that are up change with it
	case Disturb:
		c.disturb = e.No
	case Locked:
		c.locked = e.Yes
	case Unused:
		if e.Yes && !c.unused && c.mayRestart() {
			c.changed() // the processes may have changed
		}
		c.unused = e.Yes
	case Fullscreen:
		c.filled = e.Yes
	case LaunchWaits:
		c.launchWaits(e)
	case LaunchOver:
		c.launchOver(e)
	case DataIncomplete:
		c.dataIncomplete(now, e)
	case Progress:
		c.progress(e)
	case ShuttingDown:
		c.shuttingDown(e)
	case LogOutOffered:
		if c.mayLogOut != e.Yes { // the notices that are up change with it
			c.mayLogOut = e.Yes
			c.changed()
		}
	case Failing:
		c.nowFailing(e.List)
	case Downloads:
		c.nowDownloading(e.List)
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

// listed takes over the agent's list; all other refreshes are no longer pending.
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
		if p.PendingHook && m.Hooked != p.ToRevision {
			m.Hooked, m.HookedAt = p.ToRevision, now
			c.memory[p.Instance] = m
			c.do(RunHook{p})
		}
		if m.Restart != nil && !m.Restart.Exited.IsZero() {
			m.Restart = nil // the user was quicker: it runs again
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
		if instance != failuresKey && instance != downloadsKey && !seen[instance] && r == nil && !m.Up && now.Sub(m.Shown) > forgetAfter && now.Sub(m.HookedAt) > forgetAfter {
			delete(c.memory, instance)
		}
	}
}

// withdrawn withdraws a notice that is no longer true, also one that is in a
// history only.
func (c *Core) withdrawn(now time.Time, instance string, s *slot, reason string) {
	s.waiting, s.forced = false, false
	if s.live == nil || !s.live.isNews() && s.live.Kind != Wait {
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

// launch fulfils the last part of "Restart now".
func (c *Core) launch(instance string) {
	m := c.memory[instance]
	m.Restart = nil
	c.memory[instance] = m
	c.do(Launch{instance})
}

// restartable reports whether a refresh waits for a background program that may be
// restarted without a person, and that was not for this revision.
func (c *Core) restartable(instance string) bool {
	s, m := c.slots[instance], c.memory[instance]
	p := s.pending
	return s.waiting && p.Background && p.RestartBackground && len(p.Conditions) == 0 && m.Restart == nil && m.Tried != p.ToRevision
}

func (c *Core) mayRestart() bool { return slices.ContainsFunc(c.instances(), c.restartable) }

// background has background programs restarted while the user does not work. It is tried
// once for each revision: a program that does not quit is left to its user.
func (c *Core) background(now time.Time) {
	if !c.unused {
		return
	}
	for _, instance := range c.instances() {
		if !c.restartable(instance) {
			continue
		}
		s, m := c.slots[instance], c.memory[instance]
		m.Restart, m.Tried = &Restart{ID: s.pending.ID, Asked: now}, s.pending.ToRevision
		c.memory[instance] = m
	}
}

// quit asks the applications that will be restarted to quit, once their
// processes are known.
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

// alert shows a notice that needs attention.
func (c *Core) alert(s *slot, n Notice) {
	n.Alert = true
	c.put(s, n)
}

// put shows a notice. Without Alert it takes the place of the one that is up.
func (c *Core) put(s *slot, n Notice) {
	c.serial++
	n.Serial = c.serial
	s.live = &n
	c.do(Show{n})
}

// take takes the instance's notice down.
func (c *Core) take(instance string, s *slot, keep bool) {
	if s.live != nil && s.live.isNews() {
		s.until = time.Time{}
	}
	s.live = nil
	c.down(instance)
	c.do(Close{Instance: instance, Keep: keep})
}

// timeouts does the work that is due by now.
func (c *Core) timeouts(now time.Time) {
	if !c.agentLost.IsZero() && !now.Before(c.agentLost.Add(agentGrace)) {
		c.agentLost = time.Time{}
		c.failing, c.downloading = nil, nil
		for _, instance := range c.instances() {
			s := c.slots[instance]
			s.forced = s.live != nil && !s.live.isNews() && s.live.Kind != Wait
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
		c.showNews(now, instance, c.slots[instance])
	}
	c.showLaunches()
	c.showFailures(now)
	c.showDownloads(now)
}

// due is the time of the instance's next notice; zero means never.
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
		s.forced, s.news, s.until = false, nil, time.Time{}
		c.alert(s, n)
	}
}

// keepTrue replaces shown notices in place that are no longer true.
func (c *Core) keepTrue(now time.Time) {
	for _, instance := range c.instances() {
		s := c.slots[instance]
		if s.live == nil || s.live.isNews() || s.live.Kind == Wait || !s.waiting {
			continue
		}
		fresh := c.ready(s.pending, now)
		if s.live.Kind == Open {
			fresh = c.open(s.pending, now)
		}
		if fresh.Serial, fresh.Alert = s.live.Serial, s.live.Alert; !reflect.DeepEqual(fresh, *s.live) {
			fresh.Alert = fresh.Urgency > s.live.Urgency
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

// nextWake is the next time at which something is due.
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
	for _, s := range c.slots {
		consider(s.until)
	}
	if c.downloads != nil {
		for _, d := range c.downloading {
			consider(d.Begins)
		}
	}
	for _, m := range c.memory {
		if m.Restart != nil && !m.Restart.Exited.IsZero() {
			consider(m.Restart.Exited.Add(returnTime))
		}
	}
	return at
}
