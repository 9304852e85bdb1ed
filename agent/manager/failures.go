package manager

import (
	"slices"

	"github.com/lull/lull/agent/failures"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/wallclock"
	"github.com/lull/lull/agent/refresh/plan"
)

// Failing returns what has failed for as long as policy requires before a user is notified.
func (m *Manager) Failing() []failures.Failure {
	return m.failures.Due(m.Policy().Schedule.Failures, wallclock.Now())
}

// NoteNotified records that a user has been notified of a failure.
func (m *Manager) NoteNotified(f failures.Failure, uid uint32) { m.failures.NoteNotified(f, uid) }

func (m *Manager) failuresChanged() {
	m.helpers.Update()
	m.observer.FailuresChanged()
}

// helpersNeeded reports whether users' helpers have work: a refresh is under way, or no user
// is notified of a failure yet.
func (m *Manager) helpersNeeded() bool {
	return m.engine.UnderWay() || slices.ContainsFunc(m.Failing(), func(f failures.Failure) bool { return f.Notified == nil })
}

// repositoryRead records the result of a reading.
func (m *Manager) repositoryRead(name string, err error) {
	m.failures.Note(failures.Repository, name, err, wallclock.Now())
	m.failuresDue()
}

// failuresDue has failures noticed that are due by now: that is checked when something has
// failed again.
func (m *Manager) failuresDue() {
	if len(m.Failing()) > 0 {
		m.failuresChanged()
	}
}

// isNewest ends the failure of an instance whose newer version is not offered any more.
func (m *Manager) isNewest(instance string) {
	m.failures.Note(failures.Package, instance, nil, wallclock.Now())
}

// noteFailure records the end of a refresh. One that was given up for others, or by a user,
// is no result.
func (m *Manager) noteFailure(r plan.Refresh) {
	var err error
	switch {
	case r.End == plan.Done:
	case r.Kind == plan.Update && r.Failure != nil && r.End != plan.Cancelled && !r.ForOthers():
		err = r.Failure.Err()
	default:
		return
	}
	m.failures.Note(failures.Package, r.Instance, err, wallclock.Now())
	m.failuresDue()
}

// keepFailures drops those of repositories that are not known any more.
func (m *Manager) keepFailures() {
	m.failures.Keep(failures.Repository, func(name string) bool {
		_, err := m.repos.Client(name)
		return !errkind.Is(err, errkind.NotFound)
	})
}
