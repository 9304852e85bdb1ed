package manager

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/lull/lull/agent/lib/errkind"
)

// Resumed is a file in the run directory. It exists if the agent, when it started, found
// prepared refreshes in the journal, and has their IDs, one per line. lull-boot.service
// checks for it: a boot with nothing to wait for costs nothing.
const Resumed = "resumed"

// resumeRefreshes first writes down which refreshes the boot may wait for, and then takes up
// the journal.
func (m *Manager) resumeRefreshes() error {
	if err := m.tellBoot(); err != nil {
		return err
	}
	return m.engine.Resume()
}

func (m *Manager) tellBoot() error {
	prepared, err := m.engine.Prepared()
	if err != nil {
		return err
	}
	path := filepath.Join(m.RunDir, Resumed)
	if len(prepared) > 0 {
		err = os.WriteFile(path, []byte(strings.Join(prepared, "\n")+"\n"), 0o644)
	} else if err = os.Remove(path); errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return errkind.New(errkind.KindOf(err), "cannot schedule prepared refreshes for the next start: %w", err)
	}
	return nil
}

// hearOfShutdown takes in a shutdown that was announced before the agent started.
func (m *Manager) hearOfShutdown() {
	if m.Logind == nil {
		return
	}
	select {
	case down := <-m.Logind.PrepareForShutdown():
		m.engine.Shutdown(down)
	default:
	}
}

// followLogind passes on that the machine is about to go down, and that logind is available
// for locks.
func (m *Manager) followLogind() {
	if m.Logind == nil {
		return
	}
	for {
		select {
		case down := <-m.Logind.PrepareForShutdown():
			m.Log.Info("a shutdown is announced or given up", "down", down)
			m.engine.Shutdown(down)
			m.observer.GoingDown(down)
		case <-m.Logind.Appeared():
			m.engine.Wake("")
		case <-m.ctx.Done():
			return
		}
	}
}
