package reports

import (
	"slices"
	"time"

	"github.com/lull/lull/agent/exports"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/refresh"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/policy"
)

// Pending is a refresh that waits for running applications, as it is shown to users.
type Pending struct {
	plan.Refresh
	Launch     *manifest.Launch // of the new revision
	Icon       string
	Desktop    string // desktop entry, without .desktop
	AtDeadline policy.Deadline
	Reminders  []time.Time // when to remind of it, the deadline last
	Hold       *state.Hold // the one that lasts longest
	DBusName   string      // of the running application
	// OldHook, QuitHook and PendingHook report which hooks the running revision has: the
	// refresh-pending hook of the first format, one that asks the application to quit (in
	// either format), and one that runs when a refresh becomes pending.
	OldHook, QuitHook, PendingHook bool
	// BackgroundApps are those of the running revision, see manifest.Launch. With
	// RestartBackground the policy lets the helper restart them by itself.
	BackgroundApps    []string
	RestartBackground bool
}

// Pending lists the refreshes that wait for processes, for a condition, for the end of a hold
// or for the begin of a large download. With all unset, those that wait for processes are limited to processes of the user
// uid. The others are visible to every user.
func (rs *Reports) Pending(uid uint32, all bool) (list []Pending) {
	for _, r := range rs.Engine.All() {
		if r.State() != plan.Waiting || len(r.WaitingFor) == 0 && !waitsOtherwise(r) {
			continue
		}
		if !all {
			r.WaitingFor = ofUser(r.WaitingFor, uid)
		}
		r.WaitingFor = runs.StillThere(r.WaitingFor)
		if len(r.WaitingFor) > 0 || waitsOtherwise(r) {
			list = append(list, rs.Describe(r))
		}
	}
	return list
}

// waitsOtherwise reports whether a refresh waits for something other than processes.
func waitsOtherwise(r plan.Refresh) bool {
	return r.Held || len(r.Unmet) > 0 || !r.DownloadBegins().IsZero()
}

func ofUser(procs []runs.Process, uid uint32) (list []runs.Process) {
	for _, p := range procs {
		if p.UID == uid {
			list = append(list, p)
		}
	}
	return list
}

// Describe adds to a refresh what is shown to users.
func (rs *Reports) Describe(r plan.Refresh) Pending {
	p := Pending{Refresh: r, Launch: &manifest.Launch{Name: r.Instance, Version: r.ToVersion}, AtDeadline: rs.Policy().With(r.Instance, r.Wishes).AtDeadline,
		RestartBackground: rs.Policy().With(r.Instance, r.Wishes).RestartBackground}
	if !r.Since.IsZero() {
		pol := rs.Policy()
		window := policy.Postponement{Since: r.Since, Max: pol.With(r.Instance, r.Wishes).MaxPostponement}
		p.Reminders = append(window.Reminders(pol.Schedule.Reminders), window.Deadline())
	}
	if r.Held {
		if holds, err := rs.Engine.Holds(r.Instance); err != nil {
			rs.Log.Warn("cannot read who holds a refresh", "instance", r.Instance, "error", err)
		} else if len(holds) > 0 {
			p.Hold = &holds[0]
		}
	}
	if l := rs.launchOf(r.Instance, r.From); l != nil {
		p.OldHook = l.Format < manifest.Format2 && l.Hooks[manifest.HookRefreshPending] != nil
		p.QuitHook = l.SessionHook(manifest.HookQuit) != nil
		p.PendingHook = l.HasPendingHook()
		p.BackgroundApps = l.BackgroundApps()
		for _, a := range l.Apps {
			if a.DBusName != "" {
				p.DBusName = a.DBusName
				break
			}
		}
	}
	if l, err := rs.Store.Launch(r.Package); err == nil {
		p.Launch = l
		p.Icon = rs.Exports.IconPath(r.Instance, l)
		p.Desktop = rs.DesktopEntry(r.Instance, l)
	}
	return p
}

// Before returns what people are shown of the application that a refresh replaces.
func (rs *Reports) Before(r plan.Refresh) (name, desktop, icon string) {
	l := rs.launchOf(r.Instance, r.From)
	if l == nil {
		return r.Instance, "", ""
	}
	return l.Shown(), rs.DesktopEntry(r.Instance, l), rs.Exports.IconPath(r.Instance, l)
}

// FetchesUnmetered reports whether policy keeps the download of a refresh that no user has
// requested from metered networks.
func (rs *Reports) FetchesUnmetered(r plan.Refresh) bool {
	return slices.Contains(rs.Policy().With(r.Instance, r.Wishes).FetchRequires, policy.Unmetered)
}

// launchOf reads the launch information of a revision's package; nil if that is unknown.
func (rs *Reports) launchOf(instance string, rev uint32) *manifest.Launch {
	pkg, err := rs.Links.Package(instance, rev)
	if err != nil {
		return nil
	}
	l, err := rs.Store.Launch(pkg)
	if err != nil {
		return nil
	}
	return l
}

// DesktopEntry returns the exported desktop entry of an instance, without .desktop, or "".
func (rs *Reports) DesktopEntry(instance string, l *manifest.Launch) string {
	if id := exports.DesktopID(instance, l.App(l.DefaultApp())); id != "" {
		return id
	}
	for i := range l.Apps {
		if id := exports.DesktopID(instance, &l.Apps[i]); id != "" {
			return id
		}
	}
	return ""
}

// Self returns the run that a process belongs to: the instance, and the hash of the package
// that it runs, which may be unknown. The answer comes from the kernel, not from the process.
func (rs *Reports) Self(pid int) (instance, pkg string, err error) {
	list, err := rs.Tracker.Runs()
	if err != nil {
		return "", "", err
	}
	for _, r := range list {
		if !slices.ContainsFunc(r.Processes, func(p runs.Process) bool { return p.PID == pid }) {
			continue
		}
		if _, _, err := rs.Links.Read(r.Instance); err != nil {
			continue // another agent's
		}
		if hash, ok := rs.Store.Find(r.PackagePrefix); ok {
			pkg = hash.String()
		}
		return r.Instance, pkg, nil
	}
	if tied, err := rs.Engine.Tethered(); err != nil {
		return "", "", err
	} else if instance, prefix, ok := tiedTo(tied, pid); ok {
		if hash, ok := rs.Store.Find(prefix); ok {
			pkg = hash.String()
		}
		return instance, pkg, nil
	}
	return "", "", errkind.New(errkind.NotFound, "cannot determine which application asks: process %d is in no run of one", pid).
		WithHint("this works inside an application that lull run has started")
}

// tiedTo returns the tether that a process has.
func tiedTo(tied map[string][]refresh.Tied, pid int) (instance, prefix string, ok bool) {
	for instance, procs := range tied {
		for _, p := range procs {
			if p.PID == pid {
				return instance, p.PackagePrefix, true
			}
		}
	}
	return "", "", false
}

// Offer returns the package that a launch of the instance gets now, and the refresh that is
// prepared for it, if there is one.
func (rs *Reports) Offer(instance string) (local string, next *plan.Refresh, err error) {
	_, pkg, err := rs.Links.Read(instance)
	if err != nil {
		return "", nil, err
	}
	if r, ok := rs.Engine.Of(instance); ok && r.Kind == plan.Update && r.State() == plan.Waiting {
		next = &r
	}
	return pkg.String(), next, nil
}
