package manager

import (
	"slices"

	"github.com/lull/lull/agent/conditions"
	"github.com/lull/lull/policy"
)

// Conditions returns the state of the conditions that policy can require, as far as it is
// known.
func (m *Manager) Conditions() conditions.State {
	if m.watcher == nil {
		return conditions.State{Power: conditions.Unknown, Network: conditions.Unknown}
	}
	return m.watcher.State()
}

// conditionsFor is Conditions for a refresh that checks whether it may go on. logind does not
// notify of work at a terminal.
func (m *Manager) conditionsFor(required policy.Conditions) conditions.State {
	if m.watcher != nil && slices.Contains(required, policy.Idle) {
		return m.watcher.Fresh()
	}
	return m.Conditions()
}

// conditionsChanged wakes all components that may wait for conditions.
func (m *Manager) conditionsChanged() {
	m.engine.Wake("")
	m.observer.ConditionsChanged()
}

// ReportSessions takes a report about a user's sessions from that user's helper, identified
// by its name on the bus. ForgetSessions drops it.
func (m *Manager) ReportSessions(name string, uid uint32, user string, sessions []conditions.Report) {
	if m.watcher != nil {
		m.watcher.Report(name, uid, user, sessions)
	}
}

// ForgetSessions drops the report of a helper.
func (m *Manager) ForgetSessions(name string) {
	if m.watcher != nil {
		m.watcher.Forget(name)
	}
}
