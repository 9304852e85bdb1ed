package notify

import "time"

// closed handles a notice that has left the screen.
func (c *Core) closed(e Closed) {
	if e.Instance == failuresKey {
		c.failuresClosed(e.Serial)
		return
	}
	if e.Instance == downloadsKey {
		if c.downloads != nil && c.downloads.Serial == e.Serial {
			c.downloads = nil
		}
		return
	}
	s := c.slots[e.Instance]
	if s == nil || s.live == nil || s.live.Serial != e.Serial {
		return
	}
	if s.live.Kind == Wait {
		for _, w := range c.launches {
			w.closed = w.closed || w.Instance == e.Instance
		}
	}
	if s.live.isNews() {
		s.until = time.Time{}
	}
	s.live = nil
	c.down(e.Instance)
}

// down records that the notice of an instance is not on the screen.
func (c *Core) down(instance string) {
	if m, ok := c.memory[instance]; ok && m.Up {
		m.Up = false
		c.memory[instance] = m
	}
}

// invoked handles a button.
func (c *Core) invoked(now time.Time, e Invoked) {
	if e.Instance == "" { // of a machine that goes off
		if c.warned && e.Action == NextStart {
			c.do(Answer{"", NextStart})
		}
		c.do(Close{Instance: ""})
		return
	}
	if e.Instance == failuresKey {
		c.takeFailures()
		return
	}
	if e.Instance == downloadsKey {
		c.answerDownloads(now, e.Action)
		return
	}
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
		c.changed() // the processes may have changed
	case WhenClosed, Default:
		m.Answer = WhenClosed
		if e.Action == WhenClosed && m.Restart != nil {
			m.Restart = nil
			c.do(Forget{e.Instance})
		}
		c.do(Answer{s.pending.ID, WhenClosed})
	case LogOut: // which the desktop asks about: until then the answer is the default one
		m.Answer = WhenClosed
		c.do(Answer{s.pending.ID, WhenClosed})
		c.do(AskToLogOut{})
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
