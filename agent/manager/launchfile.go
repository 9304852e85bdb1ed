package manager

import (
	"github.com/lull/lull/agent/lib/launchconf"
)

// tellLaunchersLocked writes how this agent tracks and where it listens. The file is in the
// run directory, so that after a reboot launchers fall back to the method that works without
// an agent.
func (m *Manager) tellLaunchersLocked() error {
	s := launchconf.Settings{Bus: m.Bus, Tracker: m.Tracker.Name(), Root: m.Root}
	instances, err := m.state.Instances()
	if err != nil {
		return err
	}
	for _, i := range instances {
		if m.Policy().For(i.Instance).AllowUntracked {
			s.AllowUntracked = append(s.AllowUntracked, i.Instance)
		}
	}
	return launchconf.Write(m.RunDir, s)
}
