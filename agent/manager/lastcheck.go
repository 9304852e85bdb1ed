package manager

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// checkedFile is a file below the root. Its time is when all repositories were
// last read without error: a machine that is never on for as long as
// schedule.check says looks all the same. Without the file it looks later than it
// could, so that it is neither flushed nor repaired.
const checkedFile = "checked"

// loadLastCheck takes over what an earlier agent has noted.
func (m *Manager) loadLastCheck() error {
	fi, err := os.Lstat(filepath.Join(m.Root, checkedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	m.repos.mu.Lock()
	defer m.repos.mu.Unlock()
	m.repos.lastCheck = fi.ModTime()
	return nil
}

func (m *Manager) noteLastCheck(at time.Time) {
	path := filepath.Join(m.Root, checkedFile)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o644)
	if err == nil {
		err = errors.Join(f.Close(), os.Chtimes(path, at, at))
	}
	if err != nil {
		m.Log.Warn("cannot note when the repositories were read", "error", err)
	}
}
