package rig

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Watch wakes Until whenever something changes in one of these folders.
func (w *World) Watch(folders ...string) {
	w.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		w.Fatalf("cannot watch folders: %v", err)
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
	w.Cleanup(func() {
		f.Close()
		<-done
	})
}

// Alive says whether a process exists.
func Alive(pid int) bool { return syscall.Kill(pid, 0) != syscall.ESRCH }
