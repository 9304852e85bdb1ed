package services

import (
	"context"
	"fmt"
	"path"
	"time"

	"github.com/lull/lull/agent/lib/cgroup"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/lib/units"
)

// Systemd runs services as transient units of the system's manager or, in
// rootless mode, of the user's. They have nothing of the sandbox that the agent's
// own unit has, and do not end with it.
type Systemd struct {
	launcher Launcher
	scope    string
	units    *units.Manager
}

// NewSystemd uses the system's systemd or, with user, the caller's own.
func NewSystemd(l Launcher, user bool) *Systemd {
	if user {
		return &Systemd{l, manifest.ScopeUser, units.User()}
	}
	return &Systemd{l, manifest.ScopeSystem, units.System()}
}

// Name implements Manager.
func (s *Systemd) Name() string { return "systemd" }

// Scope implements Manager.
func (s *Systemd) Scope() string { return s.scope }

// Expects reports whether a process is in the unit of the service, and also
// has to join a group. Only systemd and root can put one there.
func (s *Systemd) Expects(pid int, instance, service string) bool {
	if s.launcher.Tracks.Name() == "scope" {
		return false // the unit is the group
	}
	all, err := cgroup.Of(pid)
	if err != nil {
		return false
	}
	dir, name := path.Split(cgroup.Systemd(all))
	return dir == "/system.slice/" && name == s.unit(Unit{Instance: instance, Service: manifest.Service{Name: service}}).Name()
}

func (s *Systemd) unit(u Unit) units.Unit {
	return units.Unit{Instance: u.Instance, Service: u.Service.Name, Command: s.launcher.command(u),
		StopSignal: u.StopSignal, StopTimeout: stopTimeout(u), User: u.User, Notifies: u.Ready == manifest.ReadyNotify}
}

// Start implements Manager.
func (s *Systemd) Start(ctx context.Context, u Unit) error { return s.units.Start(ctx, s.unit(u)) }

// Stop implements Manager.
func (s *Systemd) Stop(ctx context.Context, u Unit) error {
	if err := s.units.Stop(ctx, s.unit(u)); err != nil {
		return err
	}
	left, err := s.launcher.Tracks.ServiceProcs(u.Instance, u.Service.Name)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("cannot stop %s: %d processes are left in its cgroup", s.unit(u).Name(), len(left))
	}
	return nil
}

// Settle implements Manager.
func (s *Systemd) Settle(ctx context.Context, u Unit, d time.Duration) error {
	return s.units.Settle(ctx, s.unit(u), d)
}

// State implements Manager.
func (s *Systemd) State(ctx context.Context, u Unit) (string, error) {
	return s.units.State(ctx, s.unit(u))
}

// GoingDown implements Manager.
func (s *Systemd) GoingDown() bool { return s.units.GoingDown() }

// Close implements Manager. Services go on.
func (s *Systemd) Close() error { return s.units.Close() }
