package rig

import (
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Watch wakes Until at each change in one of these directories.
func (w *World) Watch(folders ...string) {
	w.Helper()
	w.Cleanup(w.watch(folders...))
}

// watch is Watch until stop is called.
func (w *World) watch(folders ...string) (stop func()) {
	w.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		w.Fatalf("cannot watch directories: %v", err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	for _, folder := range folders {
		const mask = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_CLOSE_WRITE | unix.IN_MODIFY
		if _, err := unix.InotifyAddWatch(fd, folder, mask); err != nil {
			f.Close()
			w.Fatalf("cannot watch %s: %v", folder, err)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 64<<10)
		for {
			if _, err := f.Read(buf); err != nil {
				return
			}
			w.wake()
		}
	}()
	return func() {
		f.Close()
		<-done
	}
}

// Alive reports whether a process exists.
func Alive(pid int) bool { return syscall.Kill(pid, 0) != syscall.ESRCH }

// UntilFile is Until for the content of a file that may not exist yet; it is
// re-read at each change in its directory or above.
func (w *World) UntilFile(what string, limit time.Duration, path string, cond func(text string) (bool, string)) {
	w.Helper()
	stop := w.watchAbove(path)
	defer func() { stop() }()
	dir := nearest(filepath.Dir(path))
	w.Until(what, limit, func() (bool, string) {
		if now := nearest(filepath.Dir(path)); now != dir {
			dir = now
			stop()
			stop = w.watchAbove(path)
		}
		b, err := os.ReadFile(path)
		ok, seen := cond(string(b))
		if err != nil {
			seen = err.Error()
		}
		return ok, seen
	})
}

// nearest is the lowest existing directory on the way to dir.
func nearest(dir string) string {
	for {
		if st, err := os.Stat(dir); err == nil && st.IsDir() || dir == "/" {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

// watchAbove watches the nearest directory above a file.
func (w *World) watchAbove(path string) (stop func()) {
	w.Helper()
	return w.watch(nearest(filepath.Dir(path)))
}

// Tick lets Until re-check at intervals, for changes without an event, as a
// window that appears.
func (w *World) Tick(every time.Duration) (stop func()) {
	ticker := time.NewTicker(every)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-ticker.C:
				w.wake()
			case <-done:
				return
			}
		}
	}()
	stop = sync.OnceFunc(func() {
		ticker.Stop()
		close(done)
		<-ended
	})
	w.Cleanup(stop)
	return stop
}
