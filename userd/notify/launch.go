package notify

import (
	"reflect"
	"slices"
)

// maxLaunches bounds the launches that are kept count of.
const maxLaunches = 32

// launch is one that waits.
type launch struct {
	LaunchWaits
	known              bool // Progress has come: it can be shown
	closed             bool // somebody has taken the notice away
	Name               string
	DesktopEntry, Icon string
	percent            int
}

// launchOf is the oldest one of an instance, which stands for all of them.
func (c *Core) launchOf(instance string) *launch {
	for _, w := range c.launches {
		if w.Instance == instance {
			return w
		}
	}
	return nil
}

func (c *Core) launchWaits(e LaunchWaits) {
	for _, w := range c.launches {
		if w.Launch == e.Launch && w.Instance == e.Instance {
			w.Why = e.Why // it waits for another thing by now
			return
		}
	}
	if len(c.launches) == maxLaunches {
		return
	}
	first := c.launchOf(e.Instance)
	w := &launch{LaunchWaits: e, percent: -1}
	if first != nil {
		w.known, w.Name, w.DesktopEntry, w.Icon, w.percent = first.known, first.Name, first.DesktopEntry, first.Icon, first.percent
	}
	c.launches = append(c.launches, w)
	c.slot(e.Instance)
	if first == nil {
		c.do(Follow{e.Instance, true})
	}
}

func (c *Core) launchOver(e LaunchOver) {
	i := slices.IndexFunc(c.launches, func(w *launch) bool { return w.Launch == e.Launch })
	if i < 0 {
		return
	}
	instance := c.launches[i].Instance
	c.launches = slices.Delete(c.launches, i, i+1)
	if c.launchOf(instance) != nil {
		return
	}
	c.do(Follow{instance, false})
	if s := c.slots[instance]; s.live != nil && s.live.Kind == Wait {
		c.take(instance, s, false)
	}
}

func (c *Core) progress(e Progress) {
	for _, w := range c.launches {
		if w.Instance == e.Instance {
			w.known, w.Name, w.DesktopEntry, w.Icon, w.percent = true, e.Name, e.DesktopEntry, e.Icon, e.Percent
		}
	}
}

// showLaunches shows those that wait, each in the place of whatever else there
// is of its instance, which comes back when they are over.
func (c *Core) showLaunches() {
	if c.quiet() {
		return
	}
	for _, instance := range c.instances() {
		w, s := c.launchOf(instance), c.slots[instance]
		if w == nil || !w.known {
			continue
		}
		n := c.wait(w)
		switch {
		case s.live == nil:
			if w.closed {
				continue // by hand: it is not shown for each step again
			}
		case s.live.Kind == Wait:
			n.Serial = s.live.Serial
			if reflect.DeepEqual(n, *s.live) {
				continue
			}
		case s.live.Kind == After:
			s.news = nil
		default:
			s.forced = true
			c.down(instance)
		}
		c.put(s, n)
	}
}

// shuttingDown warns once.
func (c *Core) shuttingDown(e ShuttingDown) {
	switch {
	case len(e.Names) == 0 && c.warned:
		c.warned = false
		c.do(Close{Instance: ""})
	case len(e.Names) > 0 && !c.warned:
		// Whatever else is quiet: somebody has just switched the machine off.
		c.warned = true
		c.serial++
		n := c.goingDown(e)
		n.Serial = c.serial
		c.do(Show{n})
	}
}
