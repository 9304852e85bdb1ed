package relay

import (
	"math"
	"time"

	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/userd/notify"
	"github.com/lull/lull/userd/work"
)

// lastTime is the last that can be shown with a year of four digits.
var lastTime = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)

// when reads microseconds since the epoch. What is no sensible time is none.
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

func pendings(list []bus.PendingRefresh) []notify.Pending {
	out := make([]notify.Pending, len(list))
	for i, p := range list {
		out[i] = notify.Pending{
			ID: p.ID, Instance: p.Instance, Name: p.Name,
			FromVersion: p.FromVersion, ToVersion: p.ToVersion,
			FromRevision: p.FromRevision, ToRevision: p.ToRevision,
			Urgency: p.Urgency, Notes: p.Notes,
			Since: when(p.Since), Deadline: when(p.Deadline), AtDeadline: p.AtDeadline,
			DesktopEntry: p.DesktopEntry, Icon: p.Icon, DBusName: p.DBusName, Hook: p.Hook,
		}
		for _, r := range p.Reminders {
			out[i].Reminders = append(out[i].Reminders, when(r))
		}
		for _, q := range p.Processes {
			out[i].Processes = append(out[i].Processes, notify.Process{PID: q.PID, UID: q.UID, Command: q.Command})
		}
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

func order(w bus.HelperWork) work.Order {
	o := work.Order{
		ID: w.ID, Phase: w.Phase, Instance: w.Work.Instance, Root: w.Work.Root, RunDir: w.Work.RunDir,
		From: w.Work.FromRevision, To: w.Work.ToRevision, Data: w.Work.Data,
	}
	for _, s := range w.Services {
		o.Services = append(o.Services, work.Service{Name: s.Name, StopSignal: s.StopSignal,
			StopTimeout: time.Duration(min(s.StopTimeout, maxStop)) * time.Microsecond})
	}
	return o
}
