package relay

import (
	"math"
	"os"
	"slices"
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

// pendings are those of the list that wait for an application in this session.
// What is held waits for something else; and root is told of everybody's.
func (r *Relay) pendings(list []bus.PendingRefresh) []notify.Pending {
	out := []notify.Pending{}
	for _, p := range list {
		own := slices.ContainsFunc(p.Processes, func(q bus.Process) bool {
			return int(q.UID) == os.Getuid() && (r.Here == nil || r.Here(q.PID))
		})
		if !own || p.HeldUntil != 0 {
			continue
		}
		n := notify.Pending{
			ID: p.ID, Instance: p.Instance, Name: p.Name,
			FromVersion: p.FromVersion, ToVersion: p.ToVersion,
			FromRevision: p.FromRevision, ToRevision: p.ToRevision,
			Urgency: p.Urgency, Notes: p.Notes,
			Since: when(p.Since), Deadline: when(p.Deadline), AtDeadline: p.AtDeadline,
			DesktopEntry: p.DesktopEntry, Icon: p.Icon, DBusName: p.DBusName, Hook: p.Hook,
		}
		for _, at := range p.Reminders {
			n.Reminders = append(n.Reminders, when(at))
		}
		for _, q := range p.Processes {
			n.Processes = append(n.Processes, notify.Process{PID: q.PID, UID: q.UID, Command: q.Command})
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
