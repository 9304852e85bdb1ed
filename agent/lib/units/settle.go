package units

import (
	"context"
	"errors"
	"fmt"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"golang.org/x/sys/unix"
)

// Settle returns when a unit that was started has stayed up for d. It returns an error as
// soon as the unit's main process has ended, also if systemd is about to
// restart the service, or has: systemd.service(5), Restart= and NRestarts.
func (m *Manager) Settle(ctx context.Context, u Unit, d time.Duration) error {
	conn, err := m.connect(ctx)
	if err != nil {
		return err
	}
	until := time.Now().Add(d)
	pid, restarts, err := mainProcess(ctx, conn, u.Name())
	if err != nil {
		return err
	}
	if pid != 0 && restarts == 0 {
		ended, err := awaitEnd(ctx, pid, until)
		if err != nil {
			return err
		}
		now, again, err := mainProcess(ctx, conn, u.Name())
		if err != nil || !ended && now == pid && again == 0 {
			return err
		}
	}
	if err = m.outcome(ctx, conn, u.Name(), "it has ended"); err == nil { // or systemd has no result yet
		return fmt.Errorf("cannot keep service %s of %s running: it has ended", u.Service, u.Instance)
	}
	return fmt.Errorf("cannot keep service %s of %s running: it has ended: %w", u.Service, u.Instance, err)
}

// mainProcess is the main process of a service unit, 0 if it has none, and how often
// systemd has restarted it.
func mainProcess(ctx context.Context, conn *systemd.Conn, name string) (pid int, restarts uint32, err error) {
	all, err := conn.GetUnitTypePropertiesContext(ctx, name, "Service")
	if err != nil {
		return 0, 0, fmt.Errorf("cannot find out how %s is: %w", name, err)
	}
	main, _ := all["MainPID"].(uint32)
	restarts, _ = all["NRestarts"].(uint32)
	return int(main), restarts, nil
}

// awaitEnd returns true when a process has ended, and false at the time until.
func awaitEnd(ctx context.Context, pid int, until time.Time) (ended bool, err error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot follow process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	for {
		left := time.Until(until)
		if left <= 0 || ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return n > 0, err
		}
	}
}
