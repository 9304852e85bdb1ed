package runs

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Signal signals processes by their IDs, as listed a moment ago; a pidfd makes
// sure that the signalled process is the one that was checked last. A process
// that has ended already is no error.
func Signal(processes []Process, sig syscall.Signal) error {
	var errs []error
	for _, p := range processes {
		if p.Perhaps() || p == Unseen {
			continue // nothing is known that could be signalled
		}
		if p.PID <= 0 {
			errs = append(errs, errors.New("cannot signal a process of another PID namespace"))
			continue
		}
		if err := signal(p, sig); err != nil {
			errs = append(errs, fmt.Errorf("cannot signal process %d: %w", p.PID, err))
		}
	}
	return errors.Join(errs...)
}

func signal(p Process, sig syscall.Signal) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if now, err := describe(p.PID); err != nil || now.UID != p.UID {
		return nil // another one has got the number
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

// killPatience is how long killed processes may take to be gone: one in an
// uninterruptible sleep can take forever.
const killPatience = 10 * time.Second

// killGroup kills every process that list returns, until it returns none: they
// may fork while they are killed.
func killGroup(list func() ([]int, error)) error {
	deadline := time.Now().Add(killPatience)
	for {
		pids, err := list()
		if err != nil || len(pids) == 0 {
			return err
		}
		left, err := killOnce(pids, list, deadline)
		if err != nil {
			return err
		}
		if left && time.Now().After(deadline) {
			return fmt.Errorf("cannot kill processes %v: they have not ended after %v", pids, killPatience)
		}
	}
}

// killOnce kills the processes and waits for the end of one of them. Only those
// are killed that are still listed once their pidfd is open, and so cannot be
// other ones.
func killOnce(pids []int, list func() ([]int, error), deadline time.Time) (left bool, err error) {
	var fds []unix.PollFd
	var mine []int
	defer func() {
		for _, p := range fds {
			unix.Close(int(p.Fd))
		}
	}()
	for _, pid := range pids {
		if pid == 0 {
			return true, errors.New("cannot kill a process of another PID namespace")
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
			continue // gone, or a thread whose process is going
		}
		if err != nil {
			return true, fmt.Errorf("cannot kill process %d: %w", pid, err)
		}
		fds = append(fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
		mine = append(mine, pid)
	}
	still, err := list()
	if err != nil {
		return true, err
	}
	for i, p := range fds {
		if !slices.Contains(still, mine[i]) {
			continue
		}
		if err := unix.PidfdSendSignal(int(p.Fd), unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return true, fmt.Errorf("cannot kill process %d: %w", mine[i], err)
		}
	}
	if len(fds) == 0 {
		return len(still) > 0, nil
	}
	wait := max(time.Until(deadline), 0).Milliseconds() + 1
	for {
		_, err := unix.Poll(fds, int(wait))
		if !errors.Is(err, unix.EINTR) {
			return true, err
		}
	}
}
