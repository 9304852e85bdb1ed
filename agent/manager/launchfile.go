package manager

import (
	"github.com/lull/lull/agent/lib/launchconf"
)

// tellLaunchers writes how this agent tracks and where it listens, after a change of the
// installed instances. The file is in the run directory, so that after a reboot launchers fall
// back to the method that works without an agent.
func (m *Manager) tellLaunchers(instances []string) error {
	s := launchconf.Settings{Bus: m.Bus, Tracker: m.Tracker.Name(), Root: m.Root}
	for _, name := range instances {
		if m.Policy().For(name).AllowUntracked {
			s.AllowUntracked = append(s.AllowUntracked, name)
		}
	}
	return launchconf.Write(m.RunDir, s)
}
