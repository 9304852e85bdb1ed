package runs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/cgroup"
	"github.com/lull/lull/agent/lib/errkind"
)

// caller is a process that is being placed. A pid is only a number, which
// another process may have by the time it is used; a pidfd is that process for
// ever.
type caller struct {
	pid   int
	pidfd int
	own   bool // pidfd is ours to close
}

// identify checks that pidfd refers to pid and that the process lives.
func identify(pid, pidfd int) (*caller, error) {
	if pid <= 0 {
		return nil, errkind.New(errkind.Invalid, "cannot use %d as a process ID", pid)
	}
	c := &caller{pid: pid, pidfd: pidfd}
	if pidfd < 0 {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			return nil, fmt.Errorf("it cannot be referred to: %w", err)
		}
		c.pidfd, c.own = fd, true
	}
	of, err := pidOf(c.pidfd)
	if err == nil && of != pid {
		err = errkind.New(errkind.NotPermitted, "it is not the caller, which is process %d", of)
	}
	if err == nil {
		err = c.alive()
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *caller) close() {
	if c.own {
		unix.Close(c.pidfd)
	}
}

func (c *caller) alive() error {
	if err := unix.PidfdSendSignal(c.pidfd, 0, nil, 0); err != nil && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("it has ended: %w", err)
	}
	return nil
}

// join moves the process into a group. If the process has ended in between,
// the process that has got its number is moved back to where it was.
func (c *caller) join(dir string) error {
	before, err := cgroup.Of(c.pid)
	if err != nil {
		return err
	}
	if err := cgroup.Join(dir, c.pid); err != nil {
		if errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("it has ended: %w", err)
		}
		return err
	}
	err = c.alive()
	if err == nil {
		return nil
	}
	return errors.Join(err, putBack(dir, before))
}

// putBack empties a group that was joined by mistake.
func putBack(dir string, before []cgroup.Membership) error {
	l, err := cgroup.Mounts()
	if err != nil {
		return err
	}
	top, path := l.Unified, cgroup.Unified(before)
	if l.Freezer != "" && strings.HasPrefix(dir, l.Freezer+"/") {
		top, path = l.Freezer, cgroup.Freezer(before)
	}
	pids, err := cgroup.Procs(dir)
	errs := []error{err}
	for _, pid := range pids {
		if err := cgroup.Join(filepath.Join(top, path), pid); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("cannot put process %d back where it was: %w", pid, err))
		}
	}
	return errors.Join(errs...)
}

// pidOf reads from fdinfo which process a pidfd refers to: pidfd_open(2).
func pidOf(pidfd int) (int, error) {
	b, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(pidfd))
	if err != nil {
		return 0, fmt.Errorf("it cannot be identified: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "Pid:"); ok {
			pid, err := strconv.Atoi(strings.TrimSpace(rest))
			if err != nil {
				return 0, fmt.Errorf("it cannot be identified: %w", err)
			}
			if pid <= 0 {
				return 0, errors.New("it has ended")
			}
			return pid, nil
		}
	}
	return 0, errkind.New(errkind.Invalid, "it cannot be identified: descriptor %d is no pidfd", pidfd)
}
