package manager

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// wantedName is a file in the run directory. It exists while a refresh is under way, and a little
// longer. Helpers that have no work exit; users' systemds watch this file (lull-userd.path)
// and restart them. The agent cannot do that: it reaches into no session, and follows no path
// into one. A boot removes the file.
const wantedName = "wanted"

// wantedLinger is how long the file stays after the last refresh: systemd checks for it some
// time after the event from the kernel, and may be busy.
const wantedLinger = 5 * time.Second

// HelpersFile is that file.
type HelpersFile struct {
	RunDir   string
	UnderWay func() bool // whether a refresh is under way
	Log      *slog.Logger

	mu     sync.Mutex // guards the fields below, and the file
	there  bool
	linger *time.Timer // removes it
	closed bool
}

// Update creates the file, or schedules its removal.
func (w *HelpersFile) Update() {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch want := w.UnderWay(); {
	case w.closed:
	case want && w.linger != nil:
		w.linger.Stop()
		w.linger = nil
	case want && !w.there:
		if err := os.WriteFile(w.path(), nil, 0o644); err != nil {
			w.Log.Error("cannot have users' helpers started", "error", err)
			return
		}
		w.there = true
	case !want && w.there && w.linger == nil:
		w.linger = time.AfterFunc(wantedLinger, w.remove)
	}
}

func (w *HelpersFile) remove() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.linger = nil; w.closed || w.UnderWay() {
		return
	}
	if err := os.Remove(w.path()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.Log.Error("users' helpers stay without a cause", "error", err)
		return
	}
	w.there = false
}

// Adopt takes over the file that an earlier agent may have left.
func (w *HelpersFile) Adopt() {
	w.mu.Lock()
	_, err := os.Lstat(w.path())
	w.there = err == nil
	w.mu.Unlock()
	w.Update()
}

// Close leaves the file as it is: the next agent goes on with the refreshes under way.
func (w *HelpersFile) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	if w.linger != nil {
		w.linger.Stop()
		w.linger = nil
	}
}

func (w *HelpersFile) path() string { return filepath.Join(w.RunDir, wantedName) }
