package agentclient

import (
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/userd/notify"
	"github.com/lull/lull/userd/sessionjobs"
)

// lastTime is the last that can be shown with a year of four digits.
var lastTime = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)

// when converts microseconds since the epoch. An implausible time is the zero time.
func when(usec uint64) time.Time {
	if usec == 0 || usec > math.MaxInt64 {
		return time.Time{}
	}
	t := time.UnixMicro(int64(usec))
	if t.After(lastTime) {
		return time.Time{}
	}
	return t
}

// pendings returns the refreshes of the list that wait for an application in
// this session. Held ones wait for something else, and root's list has the
// refreshes of all users. Processes that have ended since the agent's check
// are left out.
func (r *Relay) pendings(list []bus.PendingRefresh) []notify.Pending {
	out := []notify.Pending{}
	for _, p := range list {
		if p.HeldUntil != 0 {
			continue
		}
		own, background := false, len(p.BackgroundApps) > 0
		var processes []notify.Process
		for _, q := range p.Processes {
			there, other := true, false
			if r.Look != nil {
				there, other = r.Look(p.Instance, q.PID)
			}
			if !there {
				continue
			}
			processes = append(processes, notify.Process{PID: q.PID, UID: q.UID, Command: q.Command, Other: other})
			background = background && (other || r.App != nil && slices.Contains(p.BackgroundApps, r.App(q.PID)))
			own = own || int(q.UID) == os.Getuid() && (r.Here == nil || r.Here(q.PID))
		}
		if !own {
			continue
		}
		n := notify.Pending{
			ID: p.ID, Instance: p.Instance, Name: p.Name,
			FromVersion: p.FromVersion, ToVersion: p.ToVersion,
			FromRevision: p.FromRevision, ToRevision: p.ToRevision,
			Urgency: p.Urgency, Notes: p.Notes,
			Since: when(p.Since), Deadline: when(p.Deadline), AtDeadline: p.AtDeadline,
			DesktopEntry: p.DesktopEntry, Icon: p.Icon, DBusName: p.DBusName, QuitHook: p.QuitHook || p.Hook, PendingHook: p.PendingHook, Background: background, RestartBackground: p.RestartBackground,
			Processes: processes, Conditions: slices.Sorted(maps.Keys(p.Conditions)),
		}
		for _, at := range p.Reminders {
			n.Reminders = append(n.Reminders, when(at))
		}
		out = append(out, n)
	}
	return out
}

func done(u bus.UpdatedRefresh) notify.Done {
	return notify.Done{
		ID: u.ID, Instance: u.Instance, Name: u.Name, FromVersion: u.FromVersion, ToVersion: u.ToVersion,
		DesktopEntry: u.DesktopEntry, Icon: u.Icon,
	}
}

// maxStop bounds a stop timeout: systemd takes the largest number for "never".
const maxStop = uint64(24 * time.Hour / time.Microsecond)

func order(w bus.HelperWork) sessionjobs.Order {
	o := sessionjobs.Order{
		ID: w.ID, Phase: w.Phase, Instance: w.Work.Instance, Root: w.Work.Root, RunDir: w.Work.RunDir,
		From: w.Work.FromRevision, To: w.Work.ToRevision, Data: w.Work.Data,
	}
	for _, s := range w.Services {
		o.Services = append(o.Services, sessionjobs.Service{Name: s.Name, StopSignal: s.StopSignal,
			StopTimeout: time.Duration(min(s.StopTimeout, maxStop)) * time.Microsecond, Notifies: slices.Contains(w.Work.Notifying, s.Name)})
	}
	return o
}

// downloads converts what the agent reports as about to be fetched, or being fetched.
func downloads(list []bus.LargeDownload) []notify.Download {
	var out []notify.Download
	for _, d := range list {
		out = append(out, notify.Download{ID: d.ID, Instance: d.Instance, Name: d.Name, Version: d.Version, DesktopEntry: d.DesktopEntry, Icon: d.Icon,
			Bytes: d.Fetch, Begins: when(d.Begins), HoldUntil: when(d.HoldUntil), Unmetered: d.Unmetered, Notified: d.Notified})
	}
	return out
}

// failing converts what the agent reports as failing.
func failing(list []bus.FailureOf) []notify.Failure {
	var out []notify.Failure
	for _, f := range list {
		out = append(out, notify.Failure{Repository: f.Kind == "repository", Name: f.Name, Title: f.Title, Since: when(f.Since),
			Cause: f.Error[strings.LastIndexByte(f.Error, '.')+1:], Text: f.Text, Notified: f.Notified})
	}
	return out
}
