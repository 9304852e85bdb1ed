package launch

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/lull/lull/agent/problem"
)

// SettingsFile is the name of the file in the run directory in which the agent
// tells launchers what they need to know.
const SettingsFile = "launch.json"

// Settings are what it holds.
type Settings struct {
	Bus            string   `json:"bus"`                       // of the agent: "system", "session" or an address
	Tracker        string   `json:"tracker"`                   // scope, freezer, subtree
	Unified        string   `json:"unified,omitempty"`         // where cgroup v2 is mounted
	AllowUntracked []string `json:"allow-untracked,omitempty"` // instances that may run without
	Root           string   `json:"root"`
}

// WriteSettings replaces the file. For the agent, at its start and whenever
// policy changes; the run directory is volatile, so nothing is flushed. May be
// called from several goroutines; the last to rename wins.
func WriteSettings(runDir string, s Settings) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	// A name of its own: two who write at a time must not share the file.
	f, err := os.CreateTemp(runDir, SettingsFile+".*")
	if err != nil {
		return fmt.Errorf("cannot tell launchers how to launch: %w", err)
	}
	_, err = f.Write(append(b, '\n'))
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(runDir, SettingsFile))
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("cannot tell launchers how to launch: %w", err)
	}
	return nil
}

// ReadSettings reads the file. Without one, launches are tracked by systemd.
func ReadSettings(runDir string) (Settings, error) {
	s := Settings{Tracker: "scope"}
	path := filepath.Join(runDir, SettingsFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		return s, problem.New(problem.KindOf(err), "cannot read %s: %w", path, err)
	}
	return s, nil
}
