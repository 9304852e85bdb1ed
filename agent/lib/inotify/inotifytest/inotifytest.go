// Package inotifytest has the kernel refuse inotify, for tests of what happens
// then.
//
// The kernel counts inotify instances by the effective user of the thread that
// asks for one. A thread of the test becomes, with all its privileges, a user
// that no other process has, with the whole limit of that user. Other threads,
// other tests and the machine are not affected.
package inotifytest

import (
	"errors"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/e2e/require"
)

// secbitNoSetuidFixup lets a thread keep its capabilities when its user changes
// (capabilities(7)).
const secbitNoSetuidFixup = 1 << 2

// Without calls f where no inotify instance is left, and returns when f does. For
// goroutines that f starts there are some. T.FailNow and the like may not be
// called in f. Needs root.
func Without(t testing.TB, f func()) {
	t.Helper()
	require.Root(t)
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		err := become(0x70000000 + os.Getpid())
		var all []int
		if err == nil {
			all, err = exhaust()
		}
		defer func() {
			for _, fd := range all {
				unix.Close(fd)
			}
			failed <- err
		}()
		if err == nil {
			f()
		}
	}()
	if err := <-failed; err != nil {
		t.Fatalf("cannot use up inotify: %v", err)
	}
}

// become changes the effective user of this thread alone.
func become(uid int) error {
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, secbitNoSetuidFixup, 0, 0, 0); err != nil {
		return err
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
		return errno
	}
	return nil
}

// exhaust makes inotify instances until the kernel gives no more.
func exhaust() (all []int, err error) {
	for {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
		if err != nil {
			// The process's own limit has the same error.
			null, oerr := os.Open(os.DevNull)
			if oerr != nil {
				return all, oerr
			}
			null.Close()
			if !errors.Is(err, unix.EMFILE) {
				return all, err
			}
			return all, nil
		}
		all = append(all, fd)
	}
}
