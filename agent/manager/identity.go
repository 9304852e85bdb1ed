package manager

import (
	"os"
	"path/filepath"

	"github.com/lull/lull/agent/lib/storeid"
)

// identify makes the identity of the store at the first start in this root, and adopts the
// data of the revisions that were assigned before there was one. Launchers read the identity
// from the root, so that they need no agent for it. Without one they take all data for their
// store's own.
func (m *Manager) identify() error {
	if m.state.ReadOnly() {
		return nil
	}
	if err := storeid.RecordFormat(m.Root); err != nil {
		return err
	}
	instances, err := m.state.Instances()
	if err != nil {
		return err
	}
	fresh := storeid.ID{Adopt: map[string]uint32{}}
	for _, i := range instances {
		fresh.Adopt[i.Instance] = i.Last
	}
	if m.User {
		// Separate from the data of the system's agent in the same home.
		if fresh.UserData, err = ownUserData(); err != nil {
			return err
		}
	}
	id, made, err := storeid.Ensure(m.Root, fresh)
	if made {
		m.Log.Info("this store has got an identity", "store", id.ID, "user-data", id.UserData)
	}
	return err
}

// ownUserData returns the directory of users' data for a user's own agent (XDG Base Directory
// Specification). It is recorded at the first start: a later change of the variable does not
// hide the data.
func ownUserData() (string, error) {
	data := os.Getenv("XDG_DATA_HOME")
	if !filepath.IsAbs(data) {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", err
		}
		data = filepath.Join(home, ".local", "share")
	}
	return filepath.Join(data, "lull-user"), nil
}
