// Package inotify reads the kernel's file events (inotify(7)) from a goroutine
// that can be stopped.
//
// A Watcher belongs to its creator. Add and Remove may be called from any
// goroutine; Read from one at a time; Close from any, and it ends a Read that
// blocks. Events are hints: read the file or directory itself after each of
// them, and everything after an overflow.
package inotify

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Event is a change of a watched file or in a watched directory.
type Event struct {
	Watch int    // as returned by Add; -1 with an overflow
	Mask  uint32 // IN_… bits
	Name  string // the entry of the directory, or "" for the watched file itself
}

// Overflow reports that the kernel dropped events: everything may have changed.
func (e Event) Overflow() bool { return e.Mask&unix.IN_Q_OVERFLOW != 0 }

// Ended reports the end of the watch: it was removed, or its file is gone.
func (e Event) Ended() bool { return e.Mask&unix.IN_IGNORED != 0 }

// Watcher is one inotify instance.
type Watcher struct {
	f   *os.File // non-blocking, so that Close ends a Read
	raw syscall.RawConn
	buf [64 << 10]byte
}

// New makes a watcher without watches. It fails where the kernel has no
// inotify or the user has too many instances.
func New() (*Watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("cannot use inotify: %w", err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot use inotify: %w", err)
	}
	return &Watcher{f: f, raw: raw}, nil
}

// Add watches path for the events in mask and returns the watch. A second Add
// of the same inode returns the same watch.
func (w *Watcher) Add(path string, mask uint32) (watch int, err error) {
	cerr := w.raw.Control(func(fd uintptr) {
		watch, err = unix.InotifyAddWatch(int(fd), path, mask)
	})
	if cerr != nil {
		return -1, cerr
	}
	if err != nil {
		return -1, &os.PathError{Op: "watch", Path: path, Err: err}
	}
	return watch, nil
}

// Remove ends a watch; one that has ended by itself is no error.
func (w *Watcher) Remove(watch int) error {
	var err error
	cerr := w.raw.Control(func(fd uintptr) {
		_, err = unix.InotifyRmWatch(int(fd), uint32(watch))
	})
	if errors.Is(err, unix.EINVAL) {
		err = nil
	}
	return errors.Join(cerr, err)
}

// Read waits for events. After Close it returns os.ErrClosed.
func (w *Watcher) Read() ([]Event, error) {
	n, err := w.f.Read(w.buf[:])
	if err != nil {
		return nil, err
	}
	return parse(w.buf[:n])
}

// Close ends all watches.
func (w *Watcher) Close() error { return w.f.Close() }

// parse cuts what read(2) returned into events: struct inotify_event.
func parse(b []byte) ([]Event, error) {
	var events []Event
	for len(b) > 0 {
		if len(b) < unix.SizeofInotifyEvent {
			return events, errors.New("internal error: short inotify event")
		}
		e := Event{
			Watch: int(int32(binary.NativeEndian.Uint32(b))),
			Mask:  binary.NativeEndian.Uint32(b[4:]),
		}
		size := int(binary.NativeEndian.Uint32(b[12:]))
		b = b[unix.SizeofInotifyEvent:]
		if size > len(b) {
			return events, errors.New("internal error: short inotify event")
		}
		e.Name = strings.TrimRight(string(b[:size]), "\x00")
		b = b[size:]
		events = append(events, e)
	}
	return events, nil
}
