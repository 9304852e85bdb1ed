package manager

import (
	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/messages"
	"github.com/lull/lull/agent/problem"
)

// writable says why the root cannot be changed; nil: it can.
func (m *Manager) writable() error { return unix.Access(m.Root, unix.W_OK) }

// mayChange refuses what would fail half-way.
func (m *Manager) mayChange(what string) error {
	err := m.writable()
	if err == nil {
		return nil
	}
	return problem.New(problem.Failed, "cannot %s: %s cannot be written: %w", what, m.Root, err).
		WithHint("mount it for writing again: mount -o remount,rw; applications can be started all the same")
}

// followMounts takes up again what has waited for the root to become writable. The
// kernel tells of every mount that changes.
func (m *Manager) followMounts() {
	// Not by package os: its poller would take the events away.
	table, err := unix.Open("/proc/self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
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
	}
}

// wake goes on where a root that could not be written has stopped everything.
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
	m.nudge()
}

// resume puts right what was lost and takes up the refreshes that were interrupted.
func (m *Manager) resume() error {
	if err := m.settle(); err != nil {
		return err
	}
	return m.resumeRefreshes()
}
