package manager

import (
	"github.com/lull/lull/agent/launch"
)

// tellLaunchersLocked writes how this agent tracks and where it listens. It lies in
// the run directory, so that after a reboot launchers fall back to what works
// without an agent.
func (m *Manager) tellLaunchersLocked() error {
	s := launch.Settings{Bus: m.Bus, Tracker: m.Tracker.Name(), Root: m.Root}
	instances, err := m.state.Instances()
	if err != nil {
		return err
	}
	for _, i := range instances {
		if m.Policy().For(i.Instance).AllowUntracked {
			s.AllowUntracked = append(s.AllowUntracked, i.Instance)
		}
	}
	return launch.WriteSettings(m.RunDir, s)
}
