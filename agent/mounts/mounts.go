// Package mounts watches whether a directory can be written: its file system may be mounted
// read-only, by an administrator or by the kernel after an error, and back again.
//
// A process with mounts of its own, as a sandboxed unit has, may keep a read-only copy of a
// mount that the machine can write again. Only a new process gets the new mount.
//
// A Mount may be used from any goroutine. Follow blocks, and runs once.
package mounts

import (
	"context"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/messages"
)

// Mount is a directory, and whether it can be written.
type Mount struct {
	dir      string
	boxed    bool
	log      *slog.Logger
	outdated chan struct{} // closed: see Outdated
}

// New returns the mount of a directory. boxed is the result of the function Boxed.
func New(dir string, boxed bool, log *slog.Logger) *Mount {
	return &Mount{dir: dir, boxed: boxed, log: log, outdated: make(chan struct{})}
}

// Writable returns why the directory cannot be changed; nil means that it can.
func (m *Mount) Writable() error { return unix.Access(m.dir, unix.W_OK) }

// MayChange refuses a change that would fail half-way.
func (m *Mount) MayChange(what string) error {
	err := m.Writable()
	if err == nil {
		return nil
	}
	return errkind.New(errkind.Failed, "cannot %s: %s cannot be written: %w", what, m.dir, err).
		WithHint("mount it for writing again: mount -o remount,rw; applications can be started all the same")
}

// Boxed reports whether this process has mounts of its own, as a sandboxed unit has: a copy
// of the machine's, with some of them read-only.
func Boxed() bool {
	own, err := os.Readlink("/proc/self/ns/mnt")
	machine, merr := os.Readlink(MachineMounts)
	return err == nil && merr == nil && own != machine
}

// MachineMounts names the mounts of the machine.
const MachineMounts = "/proc/1/ns/mnt"

// Follow calls writable each time that the directory becomes writable, until ctx ends. The
// kernel reports every change of mounts.
func (m *Mount) Follow(ctx context.Context, writable func()) {
	// Not by package os: its poller would consume the events.
	path := "/proc/self/mountinfo"
	if m.boxed {
		path = "/proc/1/mountinfo"
	}
	table, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		m.log.Warn("a root that becomes writable again is not noticed", "error", err)
		return
	}
	defer unix.Close(table)
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		m.log.Warn("a root that becomes writable again is not noticed", "error", err)
		return
	}
	defer unix.Close(stop)
	ended := make(chan struct{})
	defer func() { <-ended }()
	go func() {
		defer close(ended)
		<-ctx.Done()
		if _, err := unix.Write(stop, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
			m.log.Error("cannot end the watch for mounts", "error", err)
		}
	}()
	could := m.Writable() == nil
	for {
		fds := []unix.PollFd{{Fd: int32(table), Events: unix.POLLPRI}, {Fd: int32(stop), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			m.log.Error("a root that becomes writable again is not noticed", "error", err)
			<-ctx.Done()
			return
		}
		if ctx.Err() != nil {
			return
		}
		can := m.Writable() == nil
		switch {
		case can && !could:
			m.log.Info("the root can be written again", messages.Key, messages.Writable, "root", m.dir)
			writable()
		case could && !can:
			m.log.Error("the root cannot be written any more: nothing can be installed or refreshed", messages.Key, messages.ReadOnly, "root", m.dir)
		}
		could = can
		if !can && m.boxed && m.writableOutside() {
			m.log.Info("the root can be written again", messages.Key, messages.Writable, "root", m.dir)
			close(m.outdated)
			return
		}
	}
}

// writableOutside reports whether the machine may write the directory, though this process may
// not: a mount that was read-only when the process's copy of it was made stays so in the copy.
func (m *Mount) writableOutside() bool {
	var st unix.Statfs_t
	return unix.Statfs("/proc/1/root"+m.dir, &st) == nil && st.Flags&unix.ST_RDONLY == 0
}

// Outdated returns a channel that is closed by Follow when only a process that starts now can
// write the directory.
func (m *Mount) Outdated() <-chan struct{} { return m.outdated }
