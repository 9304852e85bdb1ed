package api

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/accounts"
	"github.com/lull/lull/agent/lib/errkind"
	bus "github.com/lull/lull/dbus"
)

// monitors are the objects that notify applications of their updates. Each
// belongs to one connection and ends with it.
type monitors struct {
	mu   sync.Mutex // guards what follows
	list map[dbus.ObjectPath]*monitor
	next int
}

// monitor is one of them.
type monitor struct {
	s        *Service
	path     dbus.ObjectPath
	owner    string // unique name on the bus
	uid      uint32
	of       uint32 // the user whose bounds it counts for
	instance string
	running  string         // hash of the package of the run; empty if unknown
	told     bus.UpdateInfo // the service's goroutine owns it
	stop     func()
}

// Not below bus.AgentPath: the object manager there would announce them to all clients.
const monitorsPath = "/org/lull/update_monitor"

// maxMonitors is how many one user may have.
const maxMonitors = 64

var handleToken = regexp.MustCompile(`^[A-Za-z0-9_]{1,64}$`)

// self is the run of the caller's process, which is held meanwhile, so that the
// answer is about no other.
func (o managerObject) self(c bus.Caller) (instance, pkg string, err error) {
	var pidfd *os.File
	if pidfd, err = c.PIDFD(); err != nil {
		return "", "", err
	}
	defer pidfd.Close()
	pid, err := c.PID()
	if err != nil {
		return "", "", err
	}
	return o.s.m.Reports().Self(pid)
}

// Self implements bus.Manager.
func (o managerObject) Self(c bus.Caller) (instance, pkg string, err error) { return o.self(c) }

// CreateUpdateMonitor implements bus.Manager.
func (o managerObject) CreateUpdateMonitor(c bus.Caller, opt bus.UpdateMonitorOptions) (dbus.ObjectPath, error) {
	uid, err := c.UID()
	if err != nil {
		return noPath, err
	}
	if opt.HandleToken != "" && !handleToken.MatchString(opt.HandleToken) {
		return noPath, errkind.New(errkind.Invalid, "cannot use %.40q as a handle_token: want letters, digits and _, 64 at the most", opt.HandleToken)
	}
	instance, running, err := o.self(c)
	if err != nil {
		return noPath, err
	}
	m := &monitor{s: o.s, owner: c.Sender, uid: uid, instance: instance, running: running}
	return m.path, o.s.monitors.add(m, opt.HandleToken)
}

func (x *monitors) add(m *monitor, token string) error {
	s, told := m.s, m.told
	m.of = accounts.Of(m.uid)
	x.mu.Lock()
	count := 0
	for _, other := range x.list {
		if other.of == m.of {
			count++
		}
	}
	sender := strings.ReplaceAll(strings.TrimPrefix(m.owner, ":"), ".", "_")
	for own := token; ; {
		if token == "" {
			x.next++
			own = "t" + strconv.Itoa(x.next)
		}
		m.path = dbus.ObjectPath(fmt.Sprintf("%s/%s/%s", monitorsPath, sender, own))
		if token != "" || x.list[m.path] == nil { // an earlier agent has counted too
			break
		}
	}
	taken := x.list[m.path] != nil
	if count < maxMonitors && !taken {
		x.list[m.path] = m
	}
	x.mu.Unlock()
	switch {
	case taken:
		return errkind.New(errkind.Exists, "cannot make a monitor: %s is there already", m.path)
	case count >= maxMonitors:
		return errkind.New(errkind.LimitsExceeded, "cannot make a monitor: user %s has %d already", accounts.Name(m.of), count)
	}
	if err := s.server.Export(m.path, bus.ExportUpdateMonitor(m)); err != nil {
		m.end()
		return err
	}
	m.keep(told)
	stop, err := s.names.Watch(s.ctx, m.owner, func(owner string) {
		if owner == "" {
			s.wg.Go(m.end) // a watch cannot end itself
		}
	})
	if err != nil {
		m.end()
		return err
	}
	x.mu.Lock()
	m.stop = stop
	gone := x.list[m.path] != m
	x.mu.Unlock()
	if gone {
		stop()
	}
	s.queue.put(func() { s.queue.monitors = true })
	return nil
}

// Close implements bus.UpdateMonitor.
func (m *monitor) Close(c bus.Caller) error {
	if c.Sender != m.owner {
		return errkind.New(errkind.NotPermitted, "cannot close %s: it belongs to another connection", m.path)
	}
	m.end()
	return nil
}

func (m *monitor) end() {
	x := &m.s.monitors
	x.mu.Lock()
	if x.list[m.path] != m {
		x.mu.Unlock()
		return
	}
	delete(x.list, m.path)
	stop := m.stop
	x.mu.Unlock()
	if stop != nil {
		stop()
	}
	m.forget()
	if err := m.s.server.Unexport(m.path); err != nil {
		m.s.log.Warn("cannot take a monitor away", "path", m.path, "error", err)
	}
}

// tell sends each monitor its change, if there is one. The service's goroutine
// calls it; no lock is held while the manager reads.
func (x *monitors) tell(s *Service) {
	x.mu.Lock()
	list := slices.Collect(maps.Values(x.list))
	x.mu.Unlock()
	for _, m := range list {
		info, ok := m.info()
		if !ok || info.LocalCommit == m.told.LocalCommit && info.RemoteCommit == m.told.RemoteCommit {
			continue
		}
		m.told = info
		m.keep(info)
		if err := s.server.SendTo(m.owner, m.path, bus.UpdateMonitorUpdateAvailable{UpdateInfo: info}); err != nil {
			s.log.Warn("cannot notify an application of its update", "instance", m.instance, "error", err)
		}
	}
}

// info is the content of the signal; false if there is none.
func (m *monitor) info() (bus.UpdateInfo, bool) {
	local, next, err := m.s.m.Reports().Offer(m.instance)
	if err != nil {
		return bus.UpdateInfo{}, false // removed
	}
	info := bus.UpdateInfo{RunningCommit: m.running, LocalCommit: local, RemoteCommit: local}
	if next != nil {
		info.RemoteCommit = next.Package.String()
		info.Version, info.Urgency, info.Notes, info.Deadline = next.ToVersion, next.Urgency, next.Notes, micro(next.Deadline)
	}
	return info, info.RemoteCommit != m.running && (next != nil || m.running != "")
}
