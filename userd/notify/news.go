package notify

import (
	"time"
)

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
	if s.news != nil && s.news.Kind == Lacks || s.live != nil && s.live.Kind == Lacks {
		return // it announces a new version, and more
	}
	n := c.after(d, restarted)
	s.news, s.until = &n, now.Add(newsTime)
	c.showNews(now, d.Instance, s)
}

// undone makes news of an update that did not work, once for each revision,
// for users who were notified of it.
func (c *Core) undone(now time.Time, e Finished) {
	s := c.slots[e.Instance]
	m, told := c.memory[e.Instance]
	if e.Result != "undone" || s == nil || s.pending.ID == "" || !told || m.Undone == s.pending.ToRevision {
		return
	}
	m.Undone = s.pending.ToRevision
	c.memory[e.Instance] = m
	if s.waiting {
		c.withdrawn(now, e.Instance, s, "failed")
	}
	n := c.failed(s.pending)
	s.news, s.until = &n, now.Add(undoneShown)
	c.showNews(now, e.Instance, s)
}

// dataIncomplete makes news of data that an update could not bring over.
func (c *Core) dataIncomplete(now time.Time, e DataIncomplete) {
	s := c.slot(e.Instance)
	n := c.lacks(e, s.pending)
	s.news, s.until = &n, now.Add(undoneShown)
	c.showNews(now, e.Instance, s)
}

// showNews shows that an update is done as soon as that may be shown, and takes it
// down when it is no news any more.
func (c *Core) showNews(now time.Time, instance string, s *slot) {
	if !s.until.IsZero() && !now.Before(s.until) {
		s.news, s.until = nil, time.Time{}
		if s.live != nil && s.live.isNews() {
			c.take(instance, s, false)
		}
	}
	if s.news == nil || c.quiet() || s.waiting || c.launchOf(instance) != nil {
		return
	}
	n := *s.news
	s.news, s.until = nil, now.Add(newsShown)
	if n.Kind != After {
		s.until = now.Add(undoneShown)
	}
	c.alert(s, n)
}
