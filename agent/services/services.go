// Package services starts and stops the services of installed instances, and runs
// their hooks.
//
// A service is a long-running process of a package, in contrast to its
// applications: a refresh does not wait for its end but stops it in the
// critical section. Every service is started through the launcher, so that it
// finds the
// same environment as an application and runs in a cgroup that names it.
//
// There are two managers. Systemd asks systemd for a transient unit, which the
// agent's death does not touch; on a machine with cgroup v1 its launcher joins a
// group of the tracker's as well. Direct, for machines without systemd, starts the
// process itself and finds it by its cgroup later, so that a restarted agent
// finds it too.
//
// Managers may be used from several goroutines, one call a service at a time.
// Start and Stop block until the service runs or is gone.
package services

import (
	"context"
	"os"
	"time"

	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/lib/units"
	"github.com/lull/lull/agent/runs"
)

// Unit is one service of one instance.
type Unit struct {
	Instance string
	manifest.Service
}

// The states of a service.
const (
	Active   = units.Active
	Inactive = units.Inactive
	Failed   = units.Failed
)

// Manager runs services.
type Manager interface {
	// Name is "systemd" or "direct".
	Name() string
	// Scope is manifest.ScopeUser for a manager of one user's session, else manifest.ScopeSystem.
	Scope() string
	// Start returns when the service's program has been executed and, if the service
	// reports when it is ready, when it has, which has to be within ReadyTimeout.
	// Starting one that is active does nothing.
	Start(ctx context.Context, u Unit) error
	// Stop sends the stop signal and returns when no process of the service is
	// left; after the stop timeout it kills what is left of it.
	Stop(ctx context.Context, u Unit) error
	// Settle returns when a service that was started has stayed up for d, and
	// with an error as soon as it has ended or was restarted.
	Settle(ctx context.Context, u Unit, d time.Duration) error
	// State is one of Active, Inactive, Failed.
	State(ctx context.Context, u Unit) (string, error)
	// Run runs a hook in a group of processes of its own and returns when it
	// has ended, and all its processes are gone: killed, if need be. Output is
	// the end of its output. When ctx ends, so does the hook.
	Run(ctx context.Context, h Hook) (output string, err error)
	// Expects reports whether a process is a launcher that was started for the service.
	Expects(pid int, instance, service string) bool
	// GoingDown reports whether the machine (rootless: the user's manager) is
	// being shut down, so that no service can be started any more and all are
	// being stopped.
	GoingDown() bool
	Close() error
}

// Launcher is how lull-run is called.
type Launcher struct {
	Path   string   // of lull-run
	Args   []string // --root, --run-dir, … before --service
	Tracks runs.Tracker
}

func (l Launcher) command(u Unit) []string {
	args := append([]string{l.Path}, l.Args...)
	return append(args, "--service", u.Name, u.Instance)
}

func stopTimeout(u Unit) time.Duration {
	if d := time.Duration(u.StopTimeout); d > 0 {
		return d
	}
	return units.DefaultStopTimeout
}

// ReadyTimeout is how long a service that reports when it is ready (manifest.ReadyNotify)
// may take for that.
const ReadyTimeout = units.ReadyTimeout

// killGrace is how long the kernel may take to end killed processes.
const killGrace = 5 * time.Second

// StopBudget is how long stopping the units may take at the most, one after the other.
func StopBudget(units []Unit) (d time.Duration) {
	for _, u := range units {
		d += stopTimeout(u) + killGrace
	}
	return d
}

// LongestStop is how long stopping the units may take at the most, all at once,
// before they are killed.
func LongestStop(units []Unit) (d time.Duration) {
	for _, u := range units {
		d = max(d, stopTimeout(u))
	}
	return d
}

// User is the user who owns the system data of a package, and as whom its
// hooks run: the one that its first service with a user runs as; "" is the
// agent's own.
func User(list []manifest.Service) string {
	for _, s := range list {
		if s.User != "" {
			return s.User
		}
	}
	return ""
}

// Own gives a data directory to the user of the package.
func Own(dir string, list []manifest.Service) error {
	cred, _, err := identity(User(list))
	if err != nil || cred == nil {
		return err
	}
	return os.Lchown(dir, int(cred.Uid), int(cred.Gid))
}
