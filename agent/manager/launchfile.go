package manager

import (
	"maps"
	"slices"

	"github.com/lull/lull/agent/lib/launchconf"
)

// tellLaunchersLocked writes how this agent tracks and where it listens. The file is in the
// run directory, so that after a reboot launchers fall back to the method that works without
// an agent.
func (m *Manager) tellLaunchersLocked() error {
	s := launchconf.Settings{Bus: m.Bus, Tracker: m.Tracker.Name(), Root: m.Root}
	for _, name := range slices.Sorted(maps.Keys(m.told)) {
		if m.Policy().For(name).AllowUntracked {
			s.AllowUntracked = append(s.AllowUntracked, name)
		}
	}
	return launchconf.Write(m.RunDir, s)
}
