// Package launchconf is what the agent passes to the programs that start
// applications: a file in the run directory, and the environment variable by which a
// caller of the launcher follows its exec. It holds no state.
package launchconf

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/lull/lull/agent/lib/errkind"
)

// ExecFDEnv names the environment variable with the number of a descriptor that
// the launcher closes by the very act of exec. The holder of the other end of that
// pipe reads the end of file when the program runs, or reads why the launch failed.
const ExecFDEnv = "LULL_EXEC_FD"

// File is the name of the file in the run directory that the agent writes for
// launchers.
const File = "launch.json"

// Settings are the content of the file.
type Settings struct {
	Bus            string   `json:"bus"`                       // of the agent: "system", "session" or an address
	Tracker        string   `json:"tracker"`                   // scope, freezer, subtree
	Unified        string   `json:"unified,omitempty"`         // where cgroup v2 is mounted
	AllowUntracked []string `json:"allow-untracked,omitempty"` // instances that may run without
	Root           string   `json:"root"`
}

// Write replaces the file. The agent calls it at its start and whenever policy
// changes; the run directory is volatile, so nothing is flushed. It may be called
// from several goroutines; the last to rename wins.
func Write(runDir string, s Settings) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	// A temporary name for each call: two calls at a time must not share a file.
	f, err := os.CreateTemp(runDir, File+".*")
	if err != nil {
		return fmt.Errorf("cannot publish the launch settings: %w", err)
	}
	_, err = f.Write(append(b, '\n'))
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(runDir, File))
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("cannot publish the launch settings: %w", err)
	}
	return nil
}

// Read reads the file. Without one, launches are tracked by systemd.
func Read(runDir string) (Settings, error) {
	s := Settings{Tracker: "scope"}
	path := filepath.Join(runDir, File)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		return s, errkind.New(errkind.KindOf(err), "cannot read %s: %w", path, err)
	}
	return s, nil
}
