package manager

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/messages"
)

// writable returns why the root cannot be changed; nil means that it can.
func (m *Manager) writable() error { return unix.Access(m.Root, unix.W_OK) }

// mayChange refuses a change that would fail half-way.
func (m *Manager) mayChange(what string) error {
	err := m.writable()
	if err == nil {
		return nil
	}
	return errkind.New(errkind.Failed, "cannot %s: %s cannot be written: %w", what, m.Root, err).
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

// followMounts resumes the work that waits for the root to become writable. The kernel
// reports every change of mounts.
func (m *Manager) followMounts() {
	// Not by package os: its poller would consume the events.
	path := "/proc/self/mountinfo"
	if m.Boxed {
		path = "/proc/1/mountinfo"
	}
	table, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		m.Log.Warn("a root that becomes writable again is not noticed", "error", err)
		return
	}
	defer unix.Close(table)
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		m.Log.Warn("a root that becomes writable again is not noticed", "error", err)
		return
	}
	defer unix.Close(stop)
	ended := make(chan struct{})
	defer func() { <-ended }()
	go func() {
		defer close(ended)
		<-m.ctx.Done()
		if _, err := unix.Write(stop, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
			m.Log.Error("cannot end the watch for mounts", "error", err)
		}
	}()
	could := m.writable() == nil
	for {
		fds := []unix.PollFd{{Fd: int32(table), Events: unix.POLLPRI}, {Fd: int32(stop), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			m.Log.Error("a root that becomes writable again is not noticed", "error", err)
			<-m.ctx.Done()
			return
		}
		if m.ctx.Err() != nil {
			return
		}
		can := m.writable() == nil
		switch {
		case can && !could:
			m.Log.Info("the root can be written again", messages.Key, messages.Writable, "root", m.Root)
			m.wake()
		case could && !can:
			m.Log.Error("the root cannot be written any more: nothing can be installed or refreshed", messages.Key, messages.ReadOnly, "root", m.Root)
		}
		could = can
		if !can && m.Boxed && m.writableOutside() {
			m.Log.Info("the root can be written again", messages.Key, messages.Writable, "root", m.Root)
			close(m.outdated)
			return
		}
	}
}

// writableOutside reports whether the machine may write the root, though the agent may not: a
// mount that was read-only when the agent's copy of it was made stays so in the copy.
func (m *Manager) writableOutside() bool {
	var st unix.Statfs_t
	return unix.Statfs("/proc/1/root"+m.Root, &st) == nil && st.Flags&unix.ST_RDONLY == 0
}

// Outdated returns a channel that is closed when only an agent that starts now can write the
// root.
func (m *Manager) Outdated() <-chan struct{} { return m.outdated }

// wake resumes the work that an unwritable root has stopped.
func (m *Manager) wake() {
	if m.asleep.CompareAndSwap(true, false) {
		if err := m.resume(); err != nil {
			m.asleep.Store(true)
			m.Log.Error("cannot take up what was interrupted", "error", err)
			return
		}
		m.wg.Go(m.startServices)
	}
	m.engine.Wake("")
	m.checker.Changed()
}

// resume restores lost state and resumes the interrupted refreshes.
func (m *Manager) resume() error {
	if err := m.reconcile(); err != nil {
		return err
	}
	return m.resumeRefreshes()
}
