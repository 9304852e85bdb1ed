package refresh

import (
	"context"
	"time"

	"github.com/lull/lull/agent/inhibit"
	"github.com/lull/lull/agent/messages"
	"github.com/lull/lull/agent/problem"
	"github.com/lull/lull/agent/services"
)

// What is held off while a refresh has a lock. Sleeping does no harm to one that
// waits; one in its critical section keeps launches out as long as the machine sleeps.
const (
	offWhileWaiting = "shutdown"
	offInSection    = "shutdown:sleep"
)

// Shutdown tells the engine that the machine is about to go down, or that this was
// given up. Those that wait let go of their locks at once, except where everything
// is closed already and logind still waits long enough: they take this last moment.
// What is prepared later, and what does not fit, is left to the next boot.
func (e *Engine) Shutdown(down bool) {
	e.mu.Lock()
	switch {
	case !down:
		e.downSince = time.Time{}
	case e.downSince.IsZero():
		e.downSince = time.Now()
	}
	e.mu.Unlock()
	e.Wake("")
}

// down is when a shutdown was announced; zero: none was.
func (e *Engine) down() time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.downSince
}

// goingDown says whether the machine goes down, also where logind is not asked.
func (e *Engine) goingDown() bool { return !e.down().IsZero() || e.Services.GoingDown() }

// fits says whether a critical section may begin: always, but for a shutdown that has
// begun. Then the section has to be over before logind stops to wait for our lock.
func (t *task) fits() bool {
	since := t.e.down()
	return since.IsZero() || len(t.locks) > 0 && time.Since(since)+t.estimate() <= t.e.Logind.MaxDelay()
}

// leave parks a refresh without a lock: because it may not go on now, or so that a
// shutdown does and the refresh waits for the next boot.
func (t *task) leave(busy *busyError) error {
	if len(t.locks) > 0 && !t.e.down().IsZero() {
		t.e.Log.Info("leaving a refresh to the next boot", messages.Key, messages.LeftToBoot, "refresh", t.id, "instance", t.instance)
	}
	t.releaseLock()
	return busy
}

// estimate is how long the critical section may last.
func (t *task) estimate() time.Duration {
	d := time.Second
	units, _ := t.oldUnits()
	list, _, _ := t.oldSessionServices()
	d += services.StopBudget(append(units, t.unitsOf(list)...)) / 4 // most services stop long before they have to
	return d.Round(time.Second)
}

// takeLock replaces the logind lock that the refresh holds. Going without one is no
// reason not to refresh: the commit is one rename. It says whether there was one to
// have: false means that the machine goes down, and nobody will wait.
//
// Whoever may overrule a lock that blocks is not delayed by it, so that one that
// delays is taken with it.
func (t *task) takeLock(why, what string, block bool) bool {
	if t.lockWhy == why || t.e.Logind == nil {
		return true
	}
	lock, err := t.oneLock(why, what, false)
	if err != nil {
		t.e.Log.Debug("no inhibitor lock", "instance", t.r.Instance, "error", err)
		if problem.Is(err, problem.NotPermitted) {
			t.lockWhy = why // not asked again for the same
		}
		return !problem.Is(err, problem.Interrupted)
	}
	locks := []*inhibit.Lock{lock}
	if block {
		lock, err := t.oneLock(why, what, true)
		if err == nil {
			locks = append(locks, lock)
		} else {
			t.e.Log.Debug("a shutdown is delayed only", "instance", t.r.Instance, "error", err)
		}
	}
	t.releaseLock()
	t.locks, t.lockWhy = locks, why
	return true
}

// oneLock falls back to a lock against shutdown alone. A user may hold off shutdown
// and sleep, but logind judges the two together as something else; and while the
// machine is about to sleep, sleeping cannot be held off any more.
func (t *task) oneLock(why, what string, block bool) (*inhibit.Lock, error) {
	lock, _, err := t.e.Logind.Take(what, "lull", why, block)
	if what != offWhileWaiting && (problem.Is(err, problem.NotPermitted) || problem.Is(err, problem.Interrupted)) {
		lock, _, err = t.e.Logind.Take(offWhileWaiting, "lull", why, block)
	}
	return lock, err
}

func (t *task) releaseLock() {
	for _, k := range t.locks {
		k.Close()
	}
	t.locks, t.lockWhy = nil, ""
}

// leftToBoot waits for the end of the agent after a step of the critical section has
// failed while the machine went down: services cannot be started then, and those that
// systemd has stopped are not sick. The next agent decides by what the link says. So
// does this one if the shutdown is given up.
func (t *task) leftToBoot(ctx context.Context) (Event, bool) {
	t.e.Log.Info("leaving the rest of a refresh to the next boot", messages.Key, messages.LeftToBoot, "refresh", t.id, "instance", t.instance, "step", t.r.Step)
	t.releaseLock()
	for t.e.goingDown() {
		select {
		case <-t.wake:
		case ev := <-t.mail:
			t.r, _ = Next(t.r, ev)
		case <-ctx.Done():
			return Event{}, false
		}
	}
	return Event{Type: Restarted, Linked: t.e.linked(&t.r)}, true
}
