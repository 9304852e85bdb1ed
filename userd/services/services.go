// Package services starts and stops the services that packages have in users'
// sessions, for package sessionjobs: as transient units of the user's own systemd, which
// neither the helper's end nor the agent's touches. A service is started
// through the launcher, which waits while a refresh inhibits launches, takes
// the current revision then, and prepares the user's data.
package services

import (
	"context"
	"errors"

	"github.com/lull/lull/agent/lib/units"
	"github.com/lull/lull/userd/restart"
	"github.com/lull/lull/userd/sessionjobs"
)

// Runner do the jobs of the services lane.
type Runner struct{ systemd *units.Manager }

// New uses the user's systemd, when it is needed.
func New() *Runner { return &Runner{units.User()} }

// Close ends the connection. Services go on.
func (h *Runner) Close() error { return h.systemd.Close() }

// Do implements sessionjobs.Hands. One service that fails does not keep the others from
// their turn.
func (h *Runner) Do(ctx context.Context, j sessionjobs.Job) error {
	launcher, err := restart.Launcher()
	if err != nil && j.Do == sessionjobs.Start {
		return err
	}
	var errs []error
	for _, s := range j.Services {
		u := units.Unit{Instance: j.Instance, Service: s.Name, StopSignal: s.StopSignal, StopTimeout: s.StopTimeout, Notifies: s.Notifies,
			Command: []string{launcher, "--root", j.Root, "--run-dir", j.RunDir, "--session", "--service", s.Name, j.Instance}}
		if j.Do == sessionjobs.Stop {
			errs = append(errs, h.systemd.Stop(ctx, u))
		} else {
			errs = append(errs, h.systemd.Start(ctx, u))
		}
	}
	return errors.Join(errs...)
}
