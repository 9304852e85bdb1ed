package manager

import (
	"slices"

	"github.com/lull/lull/agent/conditions"
	"github.com/lull/lull/policy"
)

// Conditions is what is known of what policy can require of the machine.
func (m *Manager) Conditions() conditions.State {
	if m.watcher == nil {
		return conditions.State{Power: conditions.Unknown, Network: conditions.Unknown}
	}
	return m.watcher.State()
}

// conditionsFor is the same for a refresh that asks whether it may go on. Whether
// somebody works at a terminal logind does not tell by itself.
func (m *Manager) conditionsFor(required policy.Conditions) conditions.State {
	if m.watcher != nil && slices.Contains(required, policy.Idle) {
		return m.watcher.Fresh()
	}
	return m.Conditions()
}

// conditionsChanged lets all look again who may wait for it.
func (m *Manager) conditionsChanged() {
	m.engine.Wake("")
	m.observer.ConditionsChanged()
}

// ReportSessions takes what a user's helper, by its name on the bus, says of his
// sessions; ForgetSessions drops it.
func (m *Manager) ReportSessions(name string, uid uint32, user string, sessions []conditions.Report) {
	if m.watcher != nil {
		m.watcher.Report(name, uid, user, sessions)
	}
}

// ForgetSessions drops what a helper has said.
func (m *Manager) ForgetSessions(name string) {
	if m.watcher != nil {
		m.watcher.Forget(name)
	}
}

// Now has a refresh go on whatever the conditions are: somebody wants it.
func (m *Manager) Now(id string) { m.engine.Now(id) }
