package api

import (
	"cmp"
	"slices"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/refresh"
	"github.com/lull/lull/agent/refresh/plan"
	bus "github.com/lull/lull/dbus"
)

// ListInstalled implements bus.Manager. It reads what the objects show: no file, and the
// cgroups only if there are services of users' sessions.
func (o managerObject) ListInstalled(bus.Caller) ([]bus.InstalledPackage, []dbus.ObjectPath, error) {
	list, refreshes := o.s.objects.list()
	return list, refreshes, nil
}

// failedService is the state of a service in Package.Services.
const failedService = "failed"

// over reports whether a state of a refresh is final.
func over(state string) bool {
	switch plan.State(state) {
	case plan.Done, plan.Undone, plan.FailedEnd, plan.Cancelled:
		return true
	}
	return false
}

// list describes all instances by name, and returns the paths of the current refreshes.
func (w *objects) list() (list []bus.InstalledPackage, refreshes []dbus.ObjectPath) {
	w.mu.Lock()
	all := make([]*shown, 0, len(w.instances))
	for _, o := range w.instances {
		all = append(all, o)
	}
	for id, e := range w.refreshes {
		if !over(e.Values().State) {
			refreshes = append(refreshes, bus.RefreshPath(id))
		}
	}
	w.mu.Unlock()
	var running *refresh.Snapshot
	for _, o := range all {
		v := o.Values()
		p := bus.InstalledPackage{
			Instance: v.Instance, Title: v.Title, Summary: v.Summary, Version: v.Version, Revision: v.Revision, Channel: v.Channel,
			Apps: v.Apps, Running: v.Running, Refresh: v.Refresh, HeldUntil: v.HeldUntil, UndoneVersion: v.UndoneVersion, NextTry: v.NextTry,
		}
		if o.launch != nil {
			if running == nil && slices.ContainsFunc(o.launch.Services, func(s manifest.Service) bool { return s.Scope == manifest.ScopeUser }) {
				running = w.s.m.Reports().Running() // once for all
			}
			for _, s := range w.services(v.Instance, o.launch, running) {
				if s.State == failedService {
					p.FailedServices = append(p.FailedServices, s.Name)
				}
			}
		}
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b bus.InstalledPackage) int { return cmp.Compare(a.Instance, b.Instance) })
	slices.Sort(refreshes)
	return list, refreshes
}
