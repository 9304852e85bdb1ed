package refresh

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/lib/units"
	"github.com/lull/lull/agent/lib/words"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/services"
	"github.com/lull/lull/policy"
)

// Phase is a part of a refresh that happens in users' sessions. dbus/org.lull.Agent1.xml
// describes each phase at Helper.Work.
type Phase string

// The phases.
const (
	SessionPrecopy Phase = words.PhasePrecopy
	SessionEnter   Phase = words.PhaseEnter
	SessionUndo    Phase = words.PhaseUndo
	SessionAbandon Phase = words.PhaseAbandon
	SessionFinish  Phase = words.PhaseFinish
	SessionBegin   Phase = words.PhaseSession
)

// Work is one phase.
type Work struct {
	ID       string // of the refresh; "" with SessionBegin
	Phase    Phase
	Instance string
	From, To uint32
	Data     bool               // the users' data must follow
	Services []manifest.Service // in the order of processing
}

// Answer is the result of the work of a user's helper.
type Answer struct {
	UID uint32
	Err error
}

// ErrNoHelper is the answer of a helper that has left without a successor.
var ErrNoHelper = errors.New("the user's helper has left")

// Sessions are the users who are logged in, represented by their helpers. No action or
// omission of a helper may fail a refresh or delay it beyond a bound.
type Sessions interface {
	// Tell sends work to every user's helper and does not wait. Each helper in asked answers
	// at most once, into a channel that holds all answers.
	Tell(w Work) (asked []uint32, answers <-chan Answer)
}

// sessionGrace is how long a helper may take in addition to the time that systemd may take to
// stop the services.
const sessionGrace = 5 * time.Second

// ofSession reports whether a service belongs to users' sessions and not to the agent's own
// manager.
func (e *Engine) ofSession(s manifest.Service) bool {
	return s.Scope == manifest.ScopeUser && e.Services.Scope() != manifest.ScopeUser
}

// sessionServices returns a package's services of users' sessions, in their order. The zero
// package has none.
func (e *Engine) sessionServices(pkg digest.Digest) (list []manifest.Service, versioned bool, err error) {
	if pkg.IsZero() {
		return nil, false, nil
	}
	m, err := e.Store.Launch(pkg)
	if err != nil {
		return nil, false, err
	}
	for _, s := range m.Services {
		if e.ofSession(s) {
			list = append(list, s)
		}
	}
	return list, m.Data.Versioned, nil
}

// tell sends a phase and ignores the answers. A session that cannot be reached does not fail
// the refresh: the launcher does the work at the next launch.
func (t *task) tell(phase Phase) {
	w := Work{ID: t.r.ID, Phase: phase, Instance: t.r.Instance, From: t.r.From, To: t.r.To}
	var err error
	switch phase {
	case SessionPrecopy, SessionAbandon:
		w.Data = true
	case SessionUndo:
		w.Services, _, err = t.oldSessionServices()
	case SessionFinish:
		var versioned bool
		w.Services, versioned, err = t.e.sessionServices(t.r.Package)
		// A revert takes data as it is. An application that still runs in the old revision
		// still writes that revision's data, which therefore follows at the first launch.
		w.Data = versioned && t.r.Kind != plan.Revert && !t.mayReplaceRunning(t.settings())
	}
	if err != nil {
		t.e.Log.Error("cannot notify users' sessions", messages.Key, messages.SessionFailed, "refresh", t.r.ID, "instance", t.r.Instance, "phase", phase, "error", err)
		return
	}
	if t.e.Sessions != nil && (w.Data || len(w.Services) > 0) {
		t.e.Sessions.Tell(w)
	}
}

func (t *task) oldSessionServices() ([]manifest.Service, bool, error) {
	pkg, err := t.e.packageOf(t.r.Instance, t.r.From)
	if err != nil {
		return nil, false, err
	}
	return t.e.sessionServices(pkg)
}

// stopSessions stops the old revision's services of users' sessions. It is called when
// launches are inhibited, so that none can start any more and the cgroups show all of them.
// Services that are not stopped in time are killed, as systemd would do.
func (t *task) stopSessions(_ context.Context) error {
	list, _, err := t.oldSessionServices()
	if err != nil {
		return err
	}
	if t.r.Kind != plan.Remove {
		list = slices.DeleteFunc(list, func(s manifest.Service) bool { return s.RefreshMode == manifest.ModeEndure })
	}
	slices.Reverse(list)
	w := Work{ID: t.r.ID, Phase: SessionEnter, Instance: t.r.Instance, From: t.r.From, To: t.r.To, Services: list}
	if t.r.Kind == plan.Update {
		if _, w.Data, err = t.e.sessionServices(t.r.Package); err != nil {
			return err
		}
	}
	var asked []uint32
	var answers <-chan Answer
	if t.e.Sessions != nil {
		// Also without services: from now on no work may be finished for another revision.
		asked, answers = t.e.Sessions.Tell(w)
	}
	if len(list) > 0 {
		t.awaitSessions(list, asked, answers)
	}
	return nil
}

// awaitSessions returns when no process of the services is left, or nothing more can be done.
// It waits only for users who have such processes.
func (t *task) awaitSessions(list []manifest.Service, asked []uint32, answers <-chan Answer) {
	limit := time.NewTimer(services.StopBudget(t.unitsOf(list)) + sessionGrace)
	defer limit.Stop()
	var signalled <-chan time.Time // when the time of services signalled by the agent is over
	open, answered := map[uint32]bool{}, map[uint32]bool{}
	for _, uid := range asked {
		open[uid] = true
	}
	for late := false; !late; {
		left, err := t.e.sessionRuns(t.r.Instance, list)
		if err == nil && !slices.ContainsFunc(left, func(p sessionRun) bool { return !answered[p.uid] }) {
			break // no process is left, or no helper will do more about it
		}
		alone := slices.DeleteFunc(slices.Clone(left), func(p sessionRun) bool { return open[p.uid] || answered[p.uid] })
		if len(alone) > 0 && signalled == nil {
			for _, run := range alone {
				t.signal(run)
			}
			timer := time.NewTimer(services.LongestStop(t.unitsOf(list)))
			defer timer.Stop()
			signalled = timer.C
		}
		select {
		case a := <-answers:
			delete(open, a.UID)
			answered[a.UID] = !errors.Is(a.Err, ErrNoHelper)
		case <-t.wake: // a process has ended
		case <-signalled:
			for _, run := range alone {
				answered[run.uid] = true
			}
		case <-limit.C:
			late = true
		}
	}
	t.killSessions(list)
}

// signal asks a service to end whose user has no helper that could do it.
func (t *task) signal(run sessionRun) {
	t.e.Log.Info("a service of a session without a helper is asked to end", "instance", t.r.Instance, "service", run.service.Name, "uid", run.uid)
	if err := runs.Signal(run.processes, units.Signal(run.service.StopSignal)); err != nil {
		t.e.Log.Warn("cannot end a service", "instance", t.r.Instance, "service", run.service.Name, "uid", run.uid, "error", err)
	}
}

// killSessions kills the remaining processes of the services. Their users cannot write system
// data, so a process that cannot be killed is no reason to stop here.
func (t *task) killSessions(list []manifest.Service) {
	left, err := t.e.sessionRuns(t.r.Instance, list)
	if err != nil {
		t.e.Log.Error("cannot determine which services are left in users' sessions", "instance", t.r.Instance, "error", err)
	}
	for _, run := range left {
		t.e.Log.Warn("a service in a user's session does not stop and is killed", "instance", t.r.Instance, "service", run.service.Name,
			"uid", run.uid, "processes", len(run.processes))
	}
	for _, s := range list {
		if !slices.ContainsFunc(left, func(r sessionRun) bool { return r.service.Name == s.Name }) {
			continue
		}
		if err := t.e.Tracker.KillSession(t.r.Instance, s.Name); err != nil {
			t.e.Log.Error("a service goes on", "instance", t.r.Instance, "service", s.Name, "error", err)
		}
	}
}

func (t *task) unitsOf(list []manifest.Service) (all []services.Unit) {
	for _, s := range list {
		all = append(all, services.Unit{Instance: t.r.Instance, Service: s})
	}
	return all
}

// sessionRun is a service of one user's session that has processes.
type sessionRun struct {
	uid       uint32
	service   manifest.Service
	processes []runs.Process
}

// sessionRuns finds services by their cgroups, in sessions with and without a helper.
func (e *Engine) sessionRuns(instance string, list []manifest.Service) (found []sessionRun, err error) {
	if len(list) == 0 {
		return nil, nil
	}
	running, err := e.Tracker.Services(instance)
	if err != nil {
		return nil, err
	}
	return sessionRunsIn(running, list), nil
}

func sessionRunsIn(running *runs.Snapshot, list []manifest.Service) (found []sessionRun) {
	for _, r := range running.Runs() {
		i := slices.IndexFunc(list, func(s manifest.Service) bool { return s.Name == r.Service })
		if uid, ok := managerOf(r.Cgroup); i >= 0 && ok {
			found = append(found, sessionRun{uid, list[i], r.Processes})
		}
	}
	return found
}

// managerOf returns whose systemd manages a cgroup, from its path: cgroups of users are below
// user@UID.service.
func managerOf(cgroup string) (uid uint32, ok bool) {
	for name := range strings.SplitSeq(cgroup, "/") {
		id, ok := strings.CutPrefix(name, "user@")
		if !ok {
			continue
		}
		id, ok = strings.CutSuffix(id, ".service")
		if n, err := strconv.ParseUint(id, 10, 32); ok && err == nil {
			return uint32(n), true
		}
	}
	return 0, false
}

// InitialSessionWork returns the initial work of a session whose helper has just registered. With an
// error it returns the part that could be determined.
func (e *Engine) InitialSessionWork() (all []Work, err error) {
	instances, err := e.Links.Instances()
	for _, name := range instances {
		list, nerr := e.newcomerOf(name)
		all, err = append(all, list...), errors.Join(err, nerr)
	}
	return all, err
}

func (e *Engine) newcomerOf(name string) (all []Work, err error) {
	r, busy := e.Of(name)
	if busy && shut(&r) {
		return nil, nil // undo or finish will send it
	}
	rev, pkg, err := e.Links.Read(name)
	if err != nil {
		return nil, err
	}
	list, versioned, err := e.sessionServices(pkg)
	if err != nil {
		return nil, err
	}
	if len(list) > 0 {
		l, err := e.Store.Launch(pkg)
		if err != nil {
			return nil, err
		}
		s := e.Policy().With(name, l.Refresh)
		all = append(all, Work{Phase: SessionBegin, Instance: name, To: rev, Services: list,
			Data: versioned && s.RefreshAwareness && s.Mode == policy.ModeWait})
	}
	if !busy || r.Kind != plan.Update || r.Undo || r.Step != plan.Precopy && r.Step != plan.Wait {
		return all, nil
	}
	if _, versioned, err = e.sessionServices(r.Package); versioned {
		all = append(all, Work{ID: r.ID, Phase: SessionPrecopy, Instance: name, From: r.From, To: r.To, Data: true})
	}
	return all, err
}

// shut reports whether a refresh has stopped the services of sessions and will notify the
// sessions when to start them. For a session that registers after that notification, the
// record is past this point.
func shut(r *plan.Refresh) bool {
	return r.Step.InSection() && !(r.Undo && (r.Step == plan.StopServices || r.Step == plan.Inhibit))
}
