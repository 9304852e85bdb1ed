package api

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/durable"
	bus "github.com/lull/lull/dbus"
)

// Monitors outlive the agent: each has a file in the run directory, from which
// the next agent re-creates it. It belongs to a connection of one bus, whose
// name the bus gives to no other while both last.

// keptMonitor is the file.
type keptMonitor struct {
	Bus      string          `json:"bus"` // its GUID, as GetId returns it
	Path     dbus.ObjectPath `json:"path"`
	Owner    string          `json:"owner"`
	UID      uint32          `json:"uid"`
	Instance string          `json:"instance"`
	Running  string          `json:"running"`
	Told     [2]string       `json:"told"` // local and remote commit
}

func (s *Service) monitorsDir() string { return filepath.Join(s.m.RunDir, "monitors") }

func (m *monitor) file() string {
	return filepath.Join(m.s.monitorsDir(), strings.ReplaceAll(strings.TrimPrefix(string(m.path), monitorsPath+"/"), "/", "-")+".json")
}

// keep writes the file. A monitor without one works as long as this agent does.
func (m *monitor) keep(told bus.UpdateInfo) {
	if m.s.busID == "" {
		return
	}
	b, err := json.Marshal(keptMonitor{m.s.busID, m.path, m.owner, m.uid, m.instance, m.running, [2]string{told.LocalCommit, told.RemoteCommit}})
	if err == nil {
		err = os.MkdirAll(m.s.monitorsDir(), 0o700)
	}
	if err == nil {
		err = durable.WriteFile(m.file(), b, 0o600)
	}
	if err != nil {
		m.s.log.Warn("an application would lose its update monitor with a restart of the agent", "instance", m.instance, "error", err)
	}
}

// forget removes the file.
func (m *monitor) forget() {
	if err := os.Remove(m.file()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.s.log.Warn("cannot remove the file of a monitor", "path", m.path, "error", err)
	}
}

// askBusID asks the bus for its GUID.
func (s *Service) askBusID(ctx context.Context) {
	if err := s.server.Conn().BusObject().CallWithContext(ctx, "org.freedesktop.DBus.GetId", 0).Store(&s.busID); err != nil {
		s.log.Warn("monitors of applications do not outlive the agent: the bus has no id", "error", err)
	}
}

// restoreMonitors re-creates the monitors of an earlier agent, before there is
// a name to call. The file of one whose connection has gone, or that cannot be
// read, is removed.
func (s *Service) restoreMonitors() {
	files, err := filepath.Glob(filepath.Join(s.monitorsDir(), "*.json"))
	if err != nil {
		panic("internal error: " + err.Error()) // the pattern is right
	}
	for _, file := range files {
		if err := s.restoreMonitor(file); err != nil {
			s.log.Warn("cannot restore an update monitor", "file", file, "error", err)
		}
	}
}

func (s *Service) restoreMonitor(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var k keptMonitor
	err = json.Unmarshal(b, &k)
	token := k.Path[strings.LastIndexByte(string(k.Path), '/')+1:]
	m := &monitor{s: s, path: k.Path, owner: k.Owner, uid: k.UID, instance: k.Instance, running: k.Running,
		told: bus.UpdateInfo{LocalCommit: k.Told[0], RemoteCommit: k.Told[1]}}
	if err != nil || k.Bus != s.busID || !handleToken.MatchString(string(token)) || m.file() != file {
		return errors.Join(err, os.Remove(file)) // of another bus, as a rule
	}
	return s.monitors.add(m, string(token)) // it ends at once if its owner has left
}
