package manager

import (
	"errors"

	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/settings"
	"github.com/lull/lull/agent/store/index"
	"github.com/lull/lull/policy"
)

// Policy returns the policy in force.
func (m *Manager) Policy() *policy.Policy { return m.settings.Policy() }

// ConfigError returns what is wrong with the files in the configuration directory, as they
// were read last; nil means nothing. The earlier content of a wrong file stays in force. A
// repository whose file is broken is left out.
func (m *Manager) ConfigError() error {
	_, refused := m.settings.Refused()
	return settings.Join(refused, m.repos.Broken())
}

// doubtfulSystem protects all packages while those of the system are unknown.
func (m *Manager) doubtfulSystem() []index.Root {
	if _, known := m.settings.System(); !known {
		return []index.Root{{Holder: "the system, whose list of packages (system.yaml) cannot be read"}}
	}
	return nil
}

// Reload re-reads the policy, the repositories and the system's list. Each usable one takes
// effect, regardless of the others; the error names those that do not.
func (m *Manager) Reload() error {
	m.reloading.Lock()
	defer m.reloading.Unlock()
	if m.Reloading != nil {
		defer m.Reloading()()
	}
	policyRead, systemRead := m.settings.Reload()
	broken := m.repos.Load()
	m.keepFailures()
	if policyRead {
		m.indices.KeepRecent(m.Policy().GC.KeepRecent)
	}
	var failed error
	if systemRead {
		sets, _ := m.settings.System()
		failed = m.system.SetFactory(sets.Base, sets.Cache)
	}
	m.engine.Wake("")
	m.checker.Changed()
	m.systemSet.Want()
	m.metrics.Touch()
	failed = errors.Join(failed, m.space.SetReserve(), m.prune(), m.publishInstalled(""))
	_, refused := m.settings.Refused()
	refused = settings.Join(refused, broken)
	if refused != nil {
		m.Log.Error("not all of the configuration can be used; what was read before it stays", messages.Key, messages.PolicyRefused, "error", refused)
	} else {
		m.Log.Info("policy and repositories were read again", messages.Key, messages.PolicyLoaded)
	}
	m.observer.PolicyChanged()
	m.observer.RepositoriesChanged()
	if refused != nil {
		return refused
	}
	return failed
}
