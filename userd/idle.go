package userd

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/lull/lull/userd/notify"
	"github.com/lull/lull/userd/sessionjobs"
)

// errIdle is why a helper ends that has nothing to do.
var errIdle = errors.New("nothing is pending")

// idler ends a helper that has had nothing to do for a while: no notice is on
// the screen or waits for the user to return, no order of the agent is under
// way, and the files do not exist by which the agents announce that work may
// come. It checks when something has happened, and once after that, so that it
// costs nothing at rest.
//
// The files start the helper, through the path unit: while one exists the
// helper would be restarted at once, and without them the helper is not needed.
// So it never matters whether an agent has changed its mind meanwhile.
//
// Its methods may be called from several goroutines and do not block.
type idler struct {
	files []string // none means that it never ends, because nothing would restart it
	after time.Duration
	end   func()
	// server looks up whether there is a notification server, and calls then
	// if there is none: notices that no server shows need no withdrawal.
	server func(none func())

	mu    sync.Mutex // guards what follows
	timer *time.Timer
	shown map[[2]string]bool // agents and instances with a notice
	owed  map[[2]string]bool // the same, whose update may still have to be announced
	away  bool
	quiet bool // do not disturb
	full  bool // a window fills the screen
	jobs  int  // of the agent's orders, under way
}

func newIdler(files []string, after time.Duration, server func(none func()), end func()) *idler {
	i := &idler{files: files, after: after, server: server, end: end, shown: map[[2]string]bool{}, owed: map[[2]string]bool{}}
	if len(files) > 0 {
		i.timer = time.AfterFunc(after, i.look)
	}
	return i
}

// note counts the events that change the amount of work, and restarts the idle time.
func (i *idler) note(change func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	change()
	if i.timer != nil {
		i.timer.Reset(i.after)
	}
}

// event sees an event of the desktop or the session, or one of an agent.
func (i *idler) event(agent string, e notify.Event) {
	i.note(func() {
		switch e := e.(type) {
		case notify.Closed:
			delete(i.shown, [2]string{e.Agent, e.Instance})
		case notify.Invoked:
			delete(i.shown, [2]string{e.Agent, e.Instance})
		case notify.Updated:
			i.owed[[2]string{agent, e.Done.Instance}] = true
		case notify.Locked:
			i.away = e.Yes
		case notify.Disturb:
			i.quiet = e.No
		case notify.Fullscreen:
			i.full = e.Yes
		}
	})
}

// desktop sees what is shown and taken down.
func (i *idler) desktop(command any) {
	i.note(func() {
		switch c := command.(type) {
		case notify.Show:
			k := [2]string{c.Notice.Agent, c.Notice.Instance}
			i.shown[k] = true
			delete(i.owed, k)
		case notify.Close:
			delete(i.shown, [2]string{c.Agent, c.Instance})
		}
	})
}

// ordered sees that there is an order of the agent.
func (i *idler) ordered() { i.note(func() {}) }

// counted are hands whose jobs keep the helper from ending.
type counted struct {
	sessionjobs.Runner
	idle *idler
}

func (c counted) Do(ctx context.Context, j sessionjobs.Job) error {
	c.idle.note(func() { c.idle.jobs++ })
	defer c.idle.note(func() { c.idle.jobs-- })
	return c.Runner.Do(ctx, j)
}

// look ends the helper if there is nothing to do.
func (i *idler) look() {
	i.mu.Lock()
	if !i.away && !i.quiet && !i.full {
		clear(i.owed) // there was time enough to show it
	}
	shown := len(i.shown) > 0
	busy := len(i.owed) > 0 || i.jobs > 0
	i.mu.Unlock()
	switch {
	case busy:
	case shown:
		i.server(i.leave)
	default:
		i.leave()
	}
}

// leave ends the helper, unless it would be back at once.
func (i *idler) leave() {
	for _, file := range i.files {
		if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
			return
		}
	}
	i.end()
}

// close stops the time.
func (i *idler) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.timer != nil {
		i.timer.Stop()
		i.timer = nil
	}
}
