package refresh

import (
	"context"
	"time"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/logind"
	"github.com/lull/lull/agent/refresh/plan"
)

// The operations that the lock of a refresh inhibits. Sleep does no harm to a waiting
// refresh. A refresh in its critical section keeps launches inhibited as long as the machine
// sleeps.
const (
	offWhileWaiting = "shutdown"
	offInSection    = "shutdown:sleep"
)

// Shutdown notifies the engine that the machine is about to go down, or that the shutdown was
// cancelled. Waiting refreshes release their locks at once, unless their applications are
// closed already and logind still waits long enough: these use this last moment. Refreshes
// that are prepared later, or do not fit, are left to the next boot.
func (e *Engine) Shutdown(down bool) {
	e.mu.Lock()
	switch {
	case !down:
		e.downSince, e.leaving = time.Time{}, false
	case e.downSince.IsZero():
		e.downSince = time.Now()
	}
	e.mu.Unlock()
	e.Wake("")
}

// errLeft ends a step of the critical section that is left to the next boot.
var errLeft = errkind.New(errkind.Interrupted, "cannot go on: the rest is left to the next start of the machine")

// LeaveToBoot lets the machine go down without waiting for the refreshes in their critical
// section, because a person does not want to wait. They are interrupted as by the end of the
// agent, and the next boot handles them in the same way. It reports whether a shutdown was
// announced; without one no refresh is left.
func (e *Engine) LeaveToBoot() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.downSince.IsZero() {
		return false
	}
	if !e.leaving {
		e.leaving = true
		if e.left != nil {
			close(e.left)
			e.left = nil
		}
	}
	return true
}

// leavingNow reports whether the critical sections are left to the next boot, and
// otherwise returns a channel that is closed when they are.
func (e *Engine) leavingNow() (bool, <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.left == nil && !e.leaving {
		e.left = make(chan struct{})
	}
	return e.leaving, e.left
}

// mayLeave reports whether the next step can be left to the next boot. The last step only
// allows launches.
func (t *task) mayLeave(effect plan.Effect) bool {
	return effect == plan.DoStep && t.r.Step.InSection() && t.r.Step != plan.Uninhibit
}

// down returns when a shutdown was announced; zero means that none was.
func (e *Engine) down() time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.downSince
}

// goingDown reports whether the machine goes down, also where logind is not asked.
func (e *Engine) goingDown() bool { return !e.down().IsZero() || e.Services.GoingDown() }

// fits reports whether a critical section may begin. It always may, unless a shutdown has
// begun: then the section must end before logind stops waiting for the agent's lock.
func (t *task) fits() bool {
	since := t.e.down()
	if left, _ := t.e.leavingNow(); left {
		return false
	}
	return since.IsZero() || len(t.locks) > 0 && time.Since(since)+t.estimate() <= t.e.Logind.MaxDelay()
}

// leave parks a refresh without a lock, because it may not go on now, or so that a shutdown
// proceeds and the refresh waits for the next boot.
func (t *task) leave(busy *busyError) error {
	if len(t.locks) > 0 && !t.e.down().IsZero() {
		t.e.Log.Info("leaving a refresh to the next boot", messages.Key, messages.LeftToBoot, "refresh", t.id, "instance", t.instance)
	}
	t.releaseLock()
	return busy
}

// takeLock replaces the logind lock of the refresh. A refresh does not need one: the commit
// is one rename. It reports whether a lock was available: false means that the machine goes
// down without waiting.
//
// A user who may overrule a blocking lock is not delayed by it, so a delaying lock is taken
// with it.
func (t *task) takeLock(why, what string, block bool) bool {
	if t.lockWhy == why || t.e.Logind == nil {
		return true
	}
	lock, err := t.oneLock(why, what, false)
	if err != nil {
		t.e.Log.Debug("no inhibitor lock", "instance", t.r.Instance, "error", err)
		if errkind.Is(err, errkind.NotPermitted) {
			t.lockWhy = why // not requested twice for the same reason
		}
		return !errkind.Is(err, errkind.Interrupted)
	}
	locks := []*logind.Lock{lock}
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

// oneLock falls back to a lock against shutdown alone. A user may inhibit shutdown and sleep
// separately, but logind authorizes a lock of both differently. While the machine is about to
// sleep, sleep cannot be inhibited any more.
func (t *task) oneLock(why, what string, block bool) (*logind.Lock, error) {
	lock, _, err := t.e.Logind.Take(what, "lull", why, block)
	if what != offWhileWaiting && (errkind.Is(err, errkind.NotPermitted) || errkind.Is(err, errkind.Interrupted)) {
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

// leftToBoot waits for the end of the agent after a step of the critical section has failed
// during a shutdown. Services cannot be started then, and those that systemd has stopped are
// not unhealthy. The next agent decides by the link. So does this agent if the shutdown is
// cancelled.
func (t *task) leftToBoot(ctx context.Context) (plan.Event, bool) {
	t.e.Log.Info("leaving the rest of a refresh to the next boot", messages.Key, messages.LeftToBoot, "refresh", t.id, "instance", t.instance, "step", t.r.Step)
	t.releaseLock()
	for t.e.goingDown() {
		select {
		case <-t.wake:
		case l := <-t.letters:
			t.r, _ = plan.Next(t.r, l.Event)
			l.answer() // the event has no effect before the agent ends
		case <-ctx.Done():
			return plan.Event{}, false
		}
	}
	return plan.Event{Type: plan.Restarted, Linked: t.e.linked(&t.r)}, true
}
