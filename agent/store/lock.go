package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
)

const lockName = "lock"

// LockRoot makes this process the one that changes the store at root, until
// the result is closed or the process ends. The lock file holds our pid; it is
// not readable for others, because any process that can open it could lock it.
func LockRoot(root string) (io.Closer, error) {
	if err := durable.MkdirAll(root, 0o755); err != nil {
		return nil, errkind.New(errkind.KindOf(err), "cannot lock the store %s: %w", root, err)
	}
	path := filepath.Join(root, lockName)
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		readOnly := errors.Is(err, unix.EROFS)
		if readOnly {
			f, err = os.Open(path) // the lock keeps others out all the same; the pid cannot be written
		}
		if err != nil {
			return nil, errkind.New(errkind.KindOf(err), "cannot lock the store %s: %w", root, err)
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			pid := readPID(f)
			if pid <= 0 || !errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
				f.Close()
				return nil, busy(root, pid)
			}
			// It was killed while it started a child, which has the descriptor until it executes.
			for err = unix.EINTR; errors.Is(err, unix.EINTR); {
				err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
			}
		}
		if err != nil {
			f.Close()
			return nil, errkind.New(errkind.Failed, "cannot lock the store %s: %w", root, err)
		}
		if !stillThere(f, path) {
			f.Close() // the file was deleted between open and lock
			continue
		}
		if readOnly {
			return f, nil
		}
		if err := writePID(f, os.Getpid()); err != nil {
			f.Close()
			return nil, errkind.New(errkind.KindOf(err), "cannot lock the store %s: %w", root, err)
		}
		return rootLock{f}, nil
	}
}

type rootLock struct{ f *os.File }

// Close releases the lock. The file stays: deleting it would let two
// processes lock two files of one name.
func (l rootLock) Close() error { return errors.Join(writePID(l.f, 0), l.f.Close()) }

// writePID writes in place and always as many bytes, which works on a full
// disk too.
func writePID(f *os.File, pid int) error {
	_, err := f.WriteAt(fmt.Appendf(nil, "%-10d\n", pid), 0)
	return err
}

// readPID returns -1 if the file has no PID.
func readPID(f *os.File) int {
	b := make([]byte, 32)
	n, _ := f.ReadAt(b, 0)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	if err != nil || pid <= 0 {
		return -1
	}
	return pid
}

func stillThere(f *os.File, path string) bool {
	a, err1 := f.Stat()
	b, err2 := os.Stat(path)
	return err1 == nil && err2 == nil && os.SameFile(a, b)
}

// lockedByOther returns the pid of the process that has locked root, 0 if none
// or this process has, -1 if that cannot be read. It tries the lock only if
// the file names a live process, so that it hardly ever blocks a process that
// is about to take it.
func lockedByOther(root string) int {
	f, err := os.OpenFile(filepath.Join(root, lockName), os.O_RDWR, 0)
	if errors.Is(err, unix.EROFS) {
		f, err = os.Open(filepath.Join(root, lockName))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	if err != nil {
		return -1
	}
	defer f.Close()
	pid := readPID(f)
	if pid <= 0 || pid == os.Getpid() || errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
		return 0
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
		return 0 // a stale pid; the lock goes with f
	}
	return pid
}

func busy(root string, pid int) error {
	who := "another agent"
	if pid > 0 {
		who = fmt.Sprintf("another agent (pid %d)", pid)
	}
	return errkind.New(errkind.Busy, "cannot use the store %s: %s uses it", root, who).
		WithHint("stop that agent, or choose another root with --root")
}
