// Package reports reads the state of the agent for its clients: installed packages, pending
// refreshes, the history and what reverses a part of it, and everything at once for
// `lull inspect`. It changes nothing.
//
// Reports has no state of its own, and caches nothing; its methods may be called from any
// goroutine. Those that read running processes take time in proportion to these; Running and
// Shown read them once for callers that describe many instances.
package reports

import (
	"context"
	"log/slog"

	"github.com/lull/lull/agent/conditions"
	"github.com/lull/lull/agent/current"
	"github.com/lull/lull/agent/exports"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/logind"
	"github.com/lull/lull/agent/refresh"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/repositories"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/services"
	"github.com/lull/lull/agent/space"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/index"
	"github.com/lull/lull/agent/store/resolve"
	"github.com/lull/lull/agent/sysupdate"
	"github.com/lull/lull/policy"
)

// Reports has what is reported.
type Reports struct {
	Root     string // the store and all persistent state
	State    *state.DB
	Store    *store.Store
	Links    current.Links
	Exports  *exports.Exports
	Services services.Manager
	Engine   *refresh.Engine
	Tracker  runs.Tracker
	Policy   func() *policy.Policy
	Log      *slog.Logger

	// For Inspect alone.
	Indices      *index.Indices
	Resolver     *resolve.Resolver
	Repositories *repositories.Set
	Space        *space.Keeper
	Logind       *logind.Logind // nil if shutdown cannot be inhibited
	System       func() sysupdate.Status
	Conditions   func() conditions.State
}

// Package is the present state of an installed instance.
type Package struct {
	state.Instance
	Current   state.Revision
	Launch    *manifest.Launch
	Processes []runs.Process // of applications
	Services  map[string]string
	Holds     []state.Hold  // in force, the longest first
	Refresh   *plan.Refresh // under way
}

// Packages lists the installed instances by name.
func (rs *Reports) Packages() ([]string, error) { return rs.Links.Instances() }

// Package describes an instance. Kind NotFound means that it has no current revision.
func (rs *Reports) Package(name string) (*Package, error) {
	return rs.describe(name, func(name string) ([]runs.Process, error) {
		list, err := rs.Engine.Running(name)
		if err != nil {
			rs.Log.Warn("cannot determine what runs, so it counts as running", messages.Key, messages.RunsUnreadable, "instance", name, "error", err)
		}
		return list, err
	})
}

// Installed returns an error unless an instance is installed. It does not read what runs.
func (rs *Reports) Installed(name string) error {
	_, err := rs.describe(name, func(string) ([]runs.Process, error) { return nil, nil })
	return err
}

// PackageIn is Package with the processes of a snapshot, for callers that describe many.
func (rs *Reports) PackageIn(name string, running *refresh.Snapshot) (*Package, error) {
	return rs.describe(name, running.Of)
}

// Running reads in one pass what runs of all instances.
func (rs *Reports) Running() *refresh.Snapshot {
	s, err := rs.Engine.Snapshot()
	if err != nil {
		rs.Log.Warn("cannot determine what runs, so it counts as running", messages.Key, messages.RunsUnreadable, "error", err)
	}
	return s
}

// Shown is Running for callers that show it after each change: one pass serves those of a
// short time.
func (rs *Reports) Shown() *refresh.Snapshot {
	s, err := rs.Engine.Shown()
	if err != nil {
		rs.Log.Warn("cannot determine what runs, so it counts as running", messages.Key, messages.RunsUnreadable, "error", err)
	}
	return s
}

func (rs *Reports) describe(name string, running func(instance string) ([]runs.Process, error)) (*Package, error) {
	if err := manifest.ValidInstance(name); err != nil {
		return nil, err
	}
	rev, pkg, err := rs.Links.Read(name)
	if err != nil {
		return nil, err
	}
	p := &Package{}
	if p.Instance, err = rs.State.Instance(name); err != nil {
		return nil, err
	}
	if p.Launch, err = rs.Store.Launch(pkg); err != nil {
		return nil, err
	}
	var known bool
	if p.Current, known = p.Instance.Revision(rev); !known {
		p.Current = state.Revision{Number: rev, Package: pkg, Version: p.Launch.Version}
	}
	if p.Holds, err = rs.Engine.Holds(name); err != nil {
		return nil, err
	}
	if r, ok := rs.Engine.Of(name); ok {
		p.Refresh = &r
	}
	// An error was logged by the reader of the processes.
	p.Processes, _ = running(name)
	return p, nil
}

// ServiceStates returns the states of the services of an instance. One of users' sessions is
// active if it runs in any session.
func (rs *Reports) ServiceStates(ctx context.Context, name string, l *manifest.Launch, running *refresh.Snapshot) []string {
	var list []string
	for _, s := range l.Services {
		if s.Scope == manifest.ScopeUser && rs.Services.Scope() != manifest.ScopeUser {
			st := services.Inactive
			if procs, err := running.Session(name, s.Name); err != nil || len(procs) > 0 {
				st = services.Active
			}
			list = append(list, st)
			continue
		}
		st, err := rs.Services.State(ctx, services.Unit{Instance: name, Service: s})
		if err != nil {
			st = services.Failed
		}
		list = append(list, st)
	}
	return list
}

// Icon returns the exported icon of an instance, or the name of one in the theme.
func (rs *Reports) Icon(name string, l *manifest.Launch) string { return rs.Exports.IconPath(name, l) }
