// Package schedule decides when the repositories are checked: by the interval of the policy,
// early after a failure, when the network comes up, as soon as a local repository changes, and
// when a refresh has ended that a newer version could not replace.
package schedule

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"github.com/lull/lull/agent/lib/wallclock"
	"github.com/lull/lull/agent/repositories"
)

// Config has what a Checker works with.
type Config struct {
	Repositories *repositories.Set
	Every        func() time.Duration // between checks; 0 means that there are none
	Installed    func(instance string) bool
	// Check reads the repositories and starts refreshes: of all instances with automatic
	// refreshes, or with instances of these, regardless of conditions, because a user has
	// requested it.
	Check func(ctx context.Context, instances []string) error
	Log   *slog.Logger
	// Alarm and Network replace the kernel's clock and network in simulations; nil
	// means these. Network reports when the network comes up.
	Alarm   func() wallclock.Alarm
	Network func() (came <-chan struct{}, stop func(), err error)
}

// Checker checks the repositories in time.
type Checker struct {
	Config
	changed chan struct{} // capacity 1: see Changed
	later   later
	shown   string // the last error in the journal, which is not repeated by each check
}

// New returns a Checker that does nothing before Follow.
func New(c Config) *Checker {
	if c.Alarm == nil {
		c.Alarm = wallclock.New
	}
	if c.Network == nil {
		c.Network = defaultRoutes
	}
	return &Checker{Config: c, changed: make(chan struct{}, 1), later: newLater()}
}

// Changed reports that the set of repositories or the interval may have changed.
func (c *Checker) Changed() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// Follow checks until ctx ends.
func (c *Checker) Follow(ctx context.Context) {
	var stop func()
	defer func() {
		if stop != nil {
			stop()
		}
	}()
	changed, moved := make(chan struct{}, 1), make(chan struct{}, 1)
	network, leave := c.watchNetwork()
	defer leave()
	clock := c.Alarm()
	defer clock.Close()
	var due alarm
	failures := 0
	set := func(a alarm) { due = a; clock.Set(due.at) }
	watch := func() {
		var w func()
		if c.Every() > 0 {
			w = c.Repositories.WatchLocal(changed, moved) // before the old watches are closed, so that no event is lost
		}
		if stop != nil {
			stop()
		}
		stop = w
	}
	check := func() {
		if c.check(ctx, nil); ctx.Err() != nil {
			return
		}
		if failed, wait := c.Repositories.Unread(); failed {
			failures++
			set(afterFailure(wallclock.Now(), failures, c.Every(), wait))
			return
		}
		failures = 0
		set(after(wallclock.Now(), c.Every()))
	}
	watch()
	set(next(wallclock.Now(), c.Repositories.State().LastCheck, c.Every()))
	for {
		select {
		case <-c.changed:
			watch()
			set(next(wallclock.Now(), c.Repositories.State().LastCheck, c.Every()))
		case <-ctx.Done():
			return
		case <-moved:
			watch()
			if c.Every() > 0 {
				check()
			}
		case <-changed:
			if c.Every() > 0 { // else the event came before the reload that set it to 0
				check()
			}
		case <-c.later.due:
			if c.Every() > 0 {
				check()
			}
		case <-network:
			if names := c.takeWanted(); len(names) > 0 {
				c.Log.Info("network is up: retrying requested refreshes", "instances", strings.Join(names, ", "))
				c.check(ctx, names)
			}
			unreachable, _ := c.Repositories.Unreachable()
			set(onNetwork(wallclock.Now(), c.Repositories.State().LastCheck, c.Every(), unreachable, due))
		case <-clock.C():
			if now := wallclock.Now(); !due.over(now) {
				clock.Set(due.at)
				continue
			}
			check()
		}
	}
}

// check checks once, and logs what is wrong if that has changed.
func (c *Checker) check(ctx context.Context, instances []string) {
	err := c.Check(ctx, instances)
	if ctx.Err() != nil {
		return
	}
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != c.shown && text != "" {
		c.Log.Warn("cannot check all repositories", "error", err)
	}
	c.shown = text
}

// wantedFor limits how long the agent remembers a refresh that a user requested without
// a network. The agent retries the request when the network comes up.
const wantedFor = 24 * time.Hour

// takeWanted returns the wanted instances that are still installed, and clears the list.
func (c *Checker) takeWanted() (names []string) {
	for n, since := range c.Repositories.TakeWanted() {
		if c.Installed(n) && time.Since(since) < wantedFor {
			names = append(names, n)
		}
	}
	return names
}
