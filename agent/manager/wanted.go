package manager

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Wanted is a file in the run directory. It exists while a refresh is under way, and a little
// longer. Helpers that have no work exit; users' systemds watch this file (lull-userd.path)
// and restart them. The agent cannot do that: it reaches into no session, and follows no path
// into one. A boot removes the file.
const Wanted = "wanted"

// wantedLinger is how long the file stays after the last refresh: systemd checks for it some
// time after the event from the kernel, and may be busy.
const wantedLinger = 5 * time.Second

// wanted is the state of that file.
type wanted struct {
	mu     sync.Mutex // guards the fields below, and the file
	there  bool
	linger *time.Timer // removes it
	closed bool
}

// wantHelpers creates the file, or schedules its removal.
func (m *Manager) wantHelpers() {
	m.wanted.mu.Lock()
	defer m.wanted.mu.Unlock()
	w := &m.wanted
	switch want := m.engine.UnderWay(); {
	case w.closed:
	case want && w.linger != nil:
		w.linger.Stop()
		w.linger = nil
	case want && !w.there:
		if err := os.WriteFile(m.wantedFile(), nil, 0o644); err != nil {
			m.Log.Error("cannot have users' helpers started", "error", err)
			return
		}
		w.there = true
	case !want && w.there && w.linger == nil:
		w.linger = time.AfterFunc(wantedLinger, m.unwantHelpers)
	}
}

func (m *Manager) unwantHelpers() {
	m.wanted.mu.Lock()
	defer m.wanted.mu.Unlock()
	w := &m.wanted
	if w.linger = nil; w.closed || m.engine.UnderWay() {
		return
	}
	if err := os.Remove(m.wantedFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.Log.Error("users' helpers stay without a cause", "error", err)
		return
	}
	w.there = false
}

// adoptWanted takes over the file that an earlier agent may have left.
func (m *Manager) adoptWanted() {
	m.wanted.mu.Lock()
	_, err := os.Lstat(m.wantedFile())
	m.wanted.there = err == nil
	m.wanted.mu.Unlock()
	m.wantHelpers()
}

// closeWanted leaves the file as it is: the next agent goes on with the refreshes under way.
func (m *Manager) closeWanted() {
	m.wanted.mu.Lock()
	defer m.wanted.mu.Unlock()
	m.wanted.closed = true
	if m.wanted.linger != nil {
		m.wanted.linger.Stop()
		m.wanted.linger = nil
	}
}

// HelpersWanted reports whether users' helpers have work, or may have some soon.
func (m *Manager) HelpersWanted() bool { return m.engine.UnderWay() }

func (m *Manager) wantedFile() string { return filepath.Join(m.RunDir, Wanted) }
