package manager

import (
	"encoding/json"
	"path/filepath"

	"github.com/lull/lull/agent/durable"
	"github.com/lull/lull/agent/launch"
)

// WriteLaunchFile tells launchers how this agent tracks and where it listens. It
// lies in the run directory, so that after a reboot launchers fall back to what
// works without an agent.
func (m *Manager) WriteLaunchFile(bus string) error {
	f := launch.File{Bus: bus, Tracker: m.Tracker.Name(), Root: m.Root}
	for name, s := range m.Policy().Instances() {
		if s.AllowUntracked {
			f.AllowUntracked = append(f.AllowUntracked, name)
		}
	}
	b, err := json.Marshal(f)
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(m.RunDir, launch.FileName), append(b, '\n'), 0o644)
}
