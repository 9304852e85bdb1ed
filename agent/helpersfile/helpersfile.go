// Package helpersfile has users' helpers started while they have work: helpers that have none
// exit, and users' systemds watch a file (lull-userd.path) and restart them. The agent cannot
// do that: it reaches into no session, and follows no path into one.
//
// A File may be used from any goroutine; its lock covers its state and the file.
package helpersfile

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// name is that of the file in the run directory. It exists while a refresh is under way, and a
// little longer. A boot removes it.
const name = "wanted"

// lingers is how long the file stays after the last refresh: systemd checks for it some
// time after the event from the kernel, and may be busy.
const lingers = 5 * time.Second

// File is that file, while this agent runs.
type File struct {
	RunDir   string
	UnderWay func() bool // whether a refresh is under way
	Log      *slog.Logger

	writing sync.Mutex // guards the fields below, and orders the changes of the file
	there   bool
	linger  *time.Timer // removes it
	closed  bool
}

// Update creates the file, or schedules its removal.
func (f *File) Update() {
	f.writing.Lock()
	defer f.writing.Unlock()
	switch want := f.UnderWay(); {
	case f.closed:
	case want && f.linger != nil:
		f.linger.Stop()
		f.linger = nil
	case want && !f.there:
		if err := os.WriteFile(f.path(), nil, 0o644); err != nil {
			f.Log.Error("cannot have users' helpers started", "error", err)
			return
		}
		f.there = true
	case !want && f.there && f.linger == nil:
		f.linger = time.AfterFunc(lingers, f.remove)
	}
}

func (f *File) remove() {
	f.writing.Lock()
	defer f.writing.Unlock()
	if f.linger = nil; f.closed || f.UnderWay() {
		return
	}
	if err := os.Remove(f.path()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.Log.Error("users' helpers stay without a cause", "error", err)
		return
	}
	f.there = false
}

// Adopt takes over the file that an earlier agent may have left.
func (f *File) Adopt() {
	f.writing.Lock()
	_, err := os.Lstat(f.path())
	f.there = err == nil
	f.writing.Unlock()
	f.Update()
}

// Close leaves the file as it is: the next agent goes on with the refreshes under way.
func (f *File) Close() {
	f.writing.Lock()
	defer f.writing.Unlock()
	f.closed = true
	if f.linger != nil {
		f.linger.Stop()
		f.linger = nil
	}
}

func (f *File) path() string { return filepath.Join(f.RunDir, name) }
