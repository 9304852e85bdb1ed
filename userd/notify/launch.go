package notify

import (
	"reflect"
	"slices"
	"time"
)

// maxLaunches bounds the launches that are kept count of.
const maxLaunches = 32

// launch is one that waits.
type launch struct {
	LaunchWaits
	known              bool // Progress has come: it can be shown
	closed             bool // the user has dismissed the notice
	Name               string
	DesktopEntry, Icon string
	percent            int
}

// launchOf is the oldest one of an instance, which represents all of them.
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

// showLaunches shows those that wait, each in the place of any other notice of
// its instance, which returns when they are over.
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
		n.Alert = true
		switch {
		case s.live == nil:
			if w.closed {
				continue // by hand: it is not re-shown for each step
			}
		case s.live.Kind == Wait:
			n.Serial, n.Alert = s.live.Serial, s.live.Alert
			if reflect.DeepEqual(n, *s.live) {
				continue
			}
			n.Alert = n.Summary != s.live.Summary
		case s.live.isNews():
			s.news, s.until = nil, time.Time{}
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
		// Shown even in a quiet time: the user has just switched the machine off.
		c.warned = true
		c.serial++
		n := c.goingDown(e)
		n.Serial, n.Alert = c.serial, true
		c.do(Show{n})
	}
}
