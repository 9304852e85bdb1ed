package runctl

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// MaxLaunch is how long a launch may hold the lock. A launcher waits for systemd or for
// the agent for 25 s at the most, and for nothing else while it has the lock.
const MaxLaunch = time.Minute

// Launchers are the programs whose read locks count. Every user can read a lock file, and so lock
// it with any program; only a launcher, and for no longer than MaxLaunch, keeps the
// agent from the exclusive lock. The lock of another holder is worked around: the file
// is replaced by a new one, with the exclusive lock on it, and launchers notice that
// (see ReadLock). A launcher that has the lock of the old file goes on, and is kept out
// by the tether.
type Launchers struct {
	Path string // of lull-run
	// Replaced is called for each replacement, with the processes that had the
	// lock, as far as they can be found; may be nil.
	Replaced func(instance string, pids []int)
}

// CountOnly has the locks of others than launchers be worked around from now on. It is
// called before the directory is used by several goroutines.
func (d *Dir) CountOnly(l Launchers) { d.launchers = &l }

// holder is a process with a lock, distinguished from a later one with its number.
type holder struct {
	instance string
	pid      int
	started  string
}

// counted leaves out the holders that do not count. A holder that cannot be found, as a
// lock whose descriptor is under way between processes, is number 0.
func (d *Dir) counted(instance string, pids []int) (list []int) {
	if d.launchers == nil {
		return pids
	}
	now := time.Now()
	if len(pids) == 0 {
		pids = []int{0}
	}
	holders := make([]holder, len(pids))
	launch := make([]bool, len(pids)) // of a launcher
	for i, pid := range pids {
		holders[i], launch[i] = holder{instance, pid, startTime(pid)}, pid == 0 || d.launchers.is(pid)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	seen := map[holder]time.Time{}
	for h, since := range d.seen {
		if h.instance != instance {
			seen[h] = since
		}
	}
	for i, h := range holders {
		since, known := d.seen[h]
		if !known {
			since = now
		}
		seen[h] = since
		// The agent has a lock for each launch that it places: its age has no meaning.
		if h.pid == os.Getpid() || launch[i] && now.Sub(since) < MaxLaunch {
			list = append(list, h.pid)
		}
	}
	d.seen = seen
	return list
}

// forgetLocked drops what is known of the holders of an instance, which is free.
func (d *Dir) forgetLocked(instance string) {
	for h := range d.seen {
		if h.instance == instance {
			delete(d.seen, h)
		}
	}
}

// is reports whether a process is a launcher: by its executable, which no user can
// choose, not by its name. One whose file was replaced by an upgrade is one too.
func (l *Launchers) is(pid int) bool {
	exe := "/proc/" + strconv.Itoa(pid) + "/exe"
	var have, want unix.Stat_t
	if unix.Stat(exe, &have) != nil {
		return false // it has ended, and its lock with it
	}
	if unix.Stat(l.Path, &want) == nil && have.Dev == want.Dev && have.Ino == want.Ino {
		return true
	}
	path, err := os.Readlink(exe)
	return err == nil && int(have.Uid) == os.Geteuid() && path == l.Path+" (deleted)"
}

// startTime is the moment at which a process has begun, in ticks: field 22 of
// proc_pid_stat(5), the 20th behind the name in parentheses.
func startTime(pid int) string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) < 20 {
		return ""
	}
	return f[19]
}

// pass works around the lock of the open file fd, if none of those who have it counts
// now; else the Lock is nil. Where every lock counts it is not worked around, although
// no holder can be found.
func (d *Dir) pass(fd int, instance string) (l *Lock, holders []int, err error) {
	if d.launchers == nil {
		return nil, nil, nil
	}
	pids, err := lockers(fd, d.LockPath(instance))
	if err != nil {
		return nil, nil, err
	}
	if counted := d.counted(instance, pids); len(counted) > 0 {
		return nil, slices.DeleteFunc(counted, func(pid int) bool { return pid == 0 }), nil
	}
	l, err = d.replace(instance, pids)
	return l, nil, err
}

// replace makes a new lock file in the place of one that others hold, and returns the
// exclusive lock of it.
func (d *Dir) replace(instance string, holders []int) (*Lock, error) {
	tmp := filepath.Join(d.ctl, ".new."+instance+lock)
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot replace the lock of %s: %w", instance, err)
	}
	fd, err := unix.Open(tmp, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return nil, fmt.Errorf("cannot replace the lock of %s: %w", instance, err)
	}
	// Locked before any process can open it by its name.
	err = errors.Join(unix.Fchmod(fd, 0o644), setlk(fd, unix.F_OFD_SETLK, unix.F_WRLCK))
	if err == nil {
		err = os.Rename(tmp, d.LockPath(instance))
	}
	if err != nil {
		unix.Close(fd)
		os.Remove(tmp)
		return nil, fmt.Errorf("cannot replace the lock of %s: %w", instance, err)
	}
	if d.launchers.Replaced != nil {
		d.launchers.Replaced(instance, slices.Clone(holders))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return &Lock{fd: fd, dir: d, instance: instance, failed: d.failed[instance]}, nil
}
