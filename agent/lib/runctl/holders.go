package runctl

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// lockers finds the holders of a lock on the open file fd. /proc/locks names
// the holder of a traditional record lock; for one of a file description it
// has -1, and a process with the description open shows the lock in
// /proc/PID/fdinfo/FD (proc_pid_fdinfo(5)). Unreadable processes are left out.
func lockers(fd int, path string) ([]int, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("cannot read the locks of %s: %w", path, err)
	}
	b, err := os.ReadFile("/proc/locks")
	if err != nil {
		return nil, fmt.Errorf("cannot see who locks %s: %w", path, err)
	}
	id := lockID(st)
	var pids []int
	shared := false
	for line := range strings.Lines(string(b)) {
		switch pid, ok := parseLock(line, id); {
		case !ok:
		case pid > 0:
			pids = append(pids, pid)
		default:
			shared = true
		}
	}
	if shared {
		pids = append(pids, byFdinfo(id)...)
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

// lockID is how /proc/locks names a file: device in hexadecimal, inode.
func lockID(st unix.Stat_t) string {
	return fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
}

// parseLock reads a line like
//
//	1: OFDLCK  ADVISORY  READ -1 00:2b:1234 0 EOF
//
// of /proc/locks (or, after "lock:", of fdinfo). It returns the holder's
// process ID, -1 for that of a file description; ok is false when the line is
// about another file, or about one who waits ("1: -> …").
func parseLock(line, id string) (pid int, ok bool) {
	f := strings.Fields(line)
	if len(f) < 6 || f[1] == "->" || (f[1] != "OFDLCK" && f[1] != "POSIX") || f[5] != id {
		return 0, false
	}
	pid, err := strconv.Atoi(f[4])
	return pid, err == nil
}

func byFdinfo(id string) []int {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, p := range procs {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		if held, err := holds(pid, id); err == nil && held {
			pids = append(pids, pid)
		}
	}
	return pids
}

// holds reports whether process pid has a description open that locks the file.
func holds(pid int, id string) (bool, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fdinfo")
	fds, err := os.ReadDir(dir)
	if err != nil {
		return false, err
	}
	for _, fd := range fds {
		b, err := os.ReadFile(filepath.Join(dir, fd.Name()))
		if err != nil {
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			return false, err
		}
		for line := range strings.Lines(string(b)) {
			if rest, ok := strings.CutPrefix(line, "lock:"); ok {
				if _, ok := parseLock(rest, id); ok {
					return true, nil
				}
			}
		}
	}
	return false, nil
}

// HeldBy reports whether process pid holds a lock of the instance. The agent checks
// before it lets a launcher join a run.
func (d *Dir) HeldBy(instance string, pid int) (bool, error) {
	fd, err := d.open(instance, unix.O_PATH)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, err
	}
	held, err := holds(pid, lockID(st))
	if err != nil {
		return false, fmt.Errorf("cannot see whether process %d holds the lock of %s: %w", pid, instance, err)
	}
	return held, nil
}
