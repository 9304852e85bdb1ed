package services

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/printable"
	"github.com/lull/lull/agent/runs"
)

// readiness is a socket on which a service without systemd reports that it is ready
// (sd_notify(3), NOTIFY_SOCKET). It is read until the service has ended.
type readiness struct {
	conn  *net.UnixConn
	ready chan struct{} // closed at the first READY=1 of a process of the service
}

// maxNotify bounds a message of sd_notify, in bytes: that of systemd (NOTIFY_BUFFER_MAX).
const maxNotify = 4096

// listenReady opens the socket. Its name is abstract, so that a service of any user can
// reach it.
func listenReady() (*readiness, error) {
	addr := &net.UnixAddr{Name: "@lull-notify-" + rand.Text(), Net: "unixgram"}
	conn, err := net.ListenUnixgram("unixgram", addr)
	if err != nil {
		return nil, fmt.Errorf("cannot listen for a service: %w", err)
	}
	raw, err := conn.SyscallConn()
	if err == nil {
		var serr error
		err = raw.Control(func(fd uintptr) { serr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
		err = errors.Join(err, serr)
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("cannot listen for a service: %w", err)
	}
	return &readiness{conn, make(chan struct{})}, nil
}

// env is the variable that leads a service to the socket.
func (r *readiness) env() string { return "NOTIFY_SOCKET=" + r.conn.LocalAddr().String() }

// serve reads until the socket is closed. Messages of processes that are not of the
// service are dropped; procs lists those that are.
func (r *readiness) serve(procs func() ([]runs.Process, error)) {
	buf, oob := make([]byte, maxNotify), make([]byte, unix.CmsgSpace(unix.SizeofUcred)+unix.CmsgSpace(4*maxNotifyFDs))
	told := false
	for {
		n, oobn, flags, _, err := r.conn.ReadMsgUnix(buf, oob)
		if err != nil {
			return
		}
		pid := sender(oob[:oobn])
		if told || flags&unix.MSG_TRUNC != 0 || !slices.Contains(strings.Split(string(buf[:n]), "\n"), "READY=1") {
			continue
		}
		if list, err := procs(); err == nil && slices.ContainsFunc(list, func(p runs.Process) bool { return p.PID == pid }) {
			told = true
			close(r.ready)
		}
	}
}

// maxNotifyFDs bounds the descriptors that are received with a message; the kernel
// drops those beyond it.
const maxNotifyFDs = 8

// sender returns the process that has sent a message, and closes the
// descriptors that came with it: the sender of a barrier waits for that
// (sd_notify_barrier(3)).
func sender(oob []byte) (pid int) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0
	}
	for i := range messages {
		if cred, err := unix.ParseUnixCredentials(&messages[i]); err == nil {
			pid = int(cred.Pid)
		}
		if fds, err := unix.ParseUnixRights(&messages[i]); err == nil {
			for _, fd := range fds {
				unix.Close(fd)
			}
		}
	}
	return pid
}

// await returns when the service has reported that it is ready, and with an error when
// it has ended before.
func (r *readiness) await(ctx context.Context, c *child) error {
	ctx, cancel := context.WithTimeoutCause(ctx, ReadyTimeout, errNotReady)
	defer cancel()
	select {
	case <-r.ready:
		return nil
	case <-c.reaped:
		return fmt.Errorf("it ended before it was ready: %w", c.err)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

var errNotReady = fmt.Errorf("it has not reported that it is ready (READY=1) within %s", printable.Duration(ReadyTimeout))
