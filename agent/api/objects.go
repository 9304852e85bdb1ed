package api

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/authz"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/refresh"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/reports"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/state"
	bus "github.com/lull/lull/dbus"
)

// micro is a time on the bus: microseconds since the epoch, 0 for none.
func micro(t time.Time) uint64 {
	if t.IsZero() || t.Unix() < 0 {
		return 0
	}
	return uint64(t.UnixMicro())
}

func processes(list []runs.Process) []bus.Process {
	out := make([]bus.Process, len(list))
	for i, p := range list {
		out[i] = bus.Process{PID: uint32(p.PID), UID: p.UID, Command: p.Command}
	}
	return out
}

// objects are those below package/ and refresh/.
type objects struct {
	s *Service

	mu        sync.Mutex // guards what follows
	instances map[string]*shown
	refreshes map[string]*bus.RefreshExport
	ended     map[string]bool // those of which the end was announced
}

// shown is the object of an instance.
type shown struct {
	*bus.PackageExport
	launch *manifest.Launch // nil if it has no services
}

func newObjects(s *Service) *objects {
	w := &objects{s: s, instances: map[string]*shown{}, refreshes: map[string]*bus.RefreshExport{}, ended: map[string]bool{}}
	s.objects = w
	return w
}

// packages brings the objects of instances up to date; "" among them means all. The service's
// goroutine calls it: it reads the disk and asks the tracker and systemd,
// which may take long, and no other goroutine waits for that.
func (w *objects) packages(changed map[string]bool) {
	if len(changed) == 0 {
		return
	}
	names := slices.Collect(maps.Keys(changed))
	if changed[""] {
		installed, err := w.s.m.Reports().Packages()
		if err != nil {
			w.s.log.Error("cannot list what is installed", "error", err)
			return
		}
		w.mu.Lock()
		names = slices.Concat(installed, slices.Collect(maps.Keys(w.instances)))
		w.mu.Unlock()
	}
	slices.Sort(names)
	running := w.s.m.Reports().Shown() // one pass for all
	for _, n := range slices.Compact(names) {
		w.show(n, running)
	}
}

// show brings the object of one instance up to date. Only the service's goroutine adds and
// removes these objects.
func (w *objects) show(name string, running *refresh.Snapshot) {
	p, err := w.s.m.Reports().PackageIn(name, running)
	w.mu.Lock()
	o := w.instances[name]
	w.mu.Unlock()
	switch {
	case errkind.Is(err, errkind.NotFound):
		if o != nil {
			w.put(name, nil)
			w.failed(w.s.server.Unexport(bus.PackagePath(name)))
		}
	case err != nil:
		w.s.log.Error("cannot show a package on the bus", "instance", name, "error", err)
	case o != nil:
		w.put(name, &shown{o.PackageExport, withServices(p)})
		o.Set(w.packageProperties(p, running))
	default:
		o = &shown{bus.ExportPackage(w.packageProperties(p, running)), withServices(p)}
		w.put(name, o)
		w.failed(w.s.server.Export(bus.PackagePath(name), o.PackageExport))
		// After its announcement, which shows what has just been read. A reading of the bus
		// reads no file of a package.
		o.Live(func(r *bus.Reading, v *bus.PackageProperties) {
			now := r.Shared(func() any { return w.s.m.Reports().Running() }).(*refresh.Snapshot)
			procs, _ := now.Of(name) // an error was logged by the reader
			v.Processes = processes(procs)
			w.mu.Lock()
			o := w.instances[name]
			w.mu.Unlock()
			if o != nil && o.launch != nil {
				v.Services = w.services(name, o.launch, now) // systemd announces to the agent neither a restart nor a failure
			}
		})
	}
}

// put records the object of an instance; nil removes it.
func (w *objects) put(name string, o *shown) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.instances[name] = o; o == nil {
		delete(w.instances, name)
	}
}

func withServices(p *reports.Package) *manifest.Launch {
	if len(p.Launch.Services) == 0 {
		return nil
	}
	return p.Launch
}

func (w *objects) failed(err error) {
	if err != nil {
		w.s.log.Warn("cannot update the objects on the bus", "error", err)
	}
}

// serviceTimeout bounds the question to systemd about a package's services.
const serviceTimeout = 5 * time.Second

func (w *objects) packageProperties(p *reports.Package, running *refresh.Snapshot) bus.PackageProperties {
	v := bus.PackageProperties{
		Instance: p.Instance.Instance, Name: p.Launch.Name, Title: p.Launch.Shown(), Summary: p.Launch.Summary,
		Version: p.Launch.Version, Revision: p.Current.Number, Hash: p.Current.Package.String(),
		Repository: p.Repository, Channel: p.Channel, Running: len(p.Processes) > 0,
		Processes: processes(p.Processes), Refresh: "/",
		DesktopEntry: w.s.m.Reports().DesktopEntry(p.Instance.Instance, p.Launch), Icon: w.s.m.Reports().Icon(p.Instance.Instance, p.Launch),
	}
	for _, a := range p.Launch.Apps {
		v.Apps = append(v.Apps, a.Name)
	}
	v.Services = w.services(p.Instance.Instance, p.Launch, running)
	for _, r := range p.Revisions {
		v.Revisions = append(v.Revisions, bus.RevisionInfo{Revision: r.Number, Hash: r.Package.String(), Version: r.Version,
			Since: micro(r.Made), State: revisionState(r, p.Current.Number)})
	}
	if b := p.Backoff; b != nil && b.Reason != "" {
		v.UndoneVersion, v.UndoneReason, v.UndoneAt, v.NextTry = b.Version, b.Reason, micro(b.At), micro(b.Until)
	}
	if p.Refresh != nil {
		v.Refresh = bus.RefreshPath(p.Refresh.ID)
	}
	for i, h := range p.Holds {
		if i == 0 {
			v.HeldUntil, v.HeldBy, v.HeldReason = micro(h.Until), h.Owner, h.Reason
		}
		v.Holds = append(v.Holds, bus.Hold{UID: h.UID, Owner: h.Owner, Since: micro(h.Since), Until: micro(h.Until), Administrator: h.Admin, Reason: h.Reason})
	}
	return v
}

func (w *objects) services(name string, l *manifest.Launch, running *refresh.Snapshot) (list []bus.ServiceState) {
	ctx, cancel := context.WithTimeout(w.s.ctx, serviceTimeout)
	defer cancel()
	for i, st := range w.s.m.Reports().ServiceStates(ctx, name, l, running) {
		list = append(list, bus.ServiceState{Name: l.Services[i].Name, State: st})
	}
	return list
}

func revisionState(r state.Revision, current uint32) string {
	switch {
	case r.Number == current:
		return "current"
	case r.Reverted:
		return "reverted"
	case r.Made.IsZero():
		return "staged"
	}
	return "previous"
}

// refresh brings the object of a refresh up to date.
func (w *objects) refresh(r plan.Refresh) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e := w.refreshes[r.ID]; e != nil {
		e.Set(refreshProperties(r))
		return
	}
	w.addLocked(r)
}

// update brings the object of a refresh up to date for a caller who may read it at once.
func (w *objects) update(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.updateLocked(id)
}

// updateLocked reads the refresh under the lock, so that it never replaces what is newer.
func (w *objects) updateLocked(id string) {
	e := w.refreshes[id]
	for _, r := range w.s.m.Engine().All() {
		if r.ID == id && e != nil {
			e.Set(refreshProperties(r))
		}
	}
}

// ensure makes the object of a refresh before its path is handed out, or brings it up to
// date: the caller may read it before the next change is announced.
func (w *objects) ensure(r plan.Refresh) dbus.ObjectPath {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refreshes[r.ID] == nil {
		w.addLocked(r)
	} else {
		w.updateLocked(r.ID)
	}
	return bus.RefreshPath(r.ID)
}

func (w *objects) addLocked(r plan.Refresh) {
	e := bus.ExportRefresh(refreshObject{w.s, r.ID}, refreshProperties(r))
	w.refreshes[r.ID] = e
	w.failed(w.s.server.Export(bus.RefreshPath(r.ID), e))
}

// finished announces an end and drops refreshes that are history. Where many end at once, the
// engine may drop one before its end was announced: its object stays until then, because
// callers follow it.
func (w *objects) finished(r plan.Refresh) {
	text := ""
	if r.Failure != nil {
		text = r.Failure.Text
	}
	w.failed(w.s.server.Emit(bus.AgentPath, bus.ManagerRefreshFinished{Refresh: bus.RefreshPath(r.ID), Instance: r.Instance, Result: string(r.End), Error: text}))
	known := map[string]bool{}
	for _, k := range w.s.m.Engine().All() {
		known[k.ID] = true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refreshes[r.ID] != nil {
		w.ended[r.ID] = true
	}
	for id := range w.refreshes {
		if !known[id] && w.ended[id] {
			delete(w.refreshes, id)
			delete(w.ended, id)
			w.failed(w.s.server.Unexport(bus.RefreshPath(id)))
		}
	}
}

func refreshProperties(r plan.Refresh) bus.RefreshProperties {
	v := bus.RefreshProperties{
		ID: r.ID, Kind: string(r.Kind), Instance: r.Instance, State: string(r.State()), Step: string(r.Step), Together: r.Together,
		FromRevision: r.From, ToRevision: r.To, FromVersion: r.FromVersion, ToVersion: r.ToVersion,
		Urgency: r.Urgency, Notes: r.Notes, Since: micro(r.Since), Deadline: micro(r.Deadline),
		BytesDone: uint64(max(r.BytesDone, 0)), BytesTotal: uint64(max(r.BytesTotal, 0)),
		BytesToFetch: uint64(max(r.ToFetch, 0)), BytesToWrite: uint64(max(r.ToWrite, 0)), Speed: uint64(max(r.Speed, 0)), Estimate: uint64(r.Estimate.Microseconds()), BytesToCopy: uint64(max(r.ToCopy, 0)), Waiting: processes(r.WaitingFor),
		Conditions: unmet(r.Unmet), DownloadBegins: micro(r.DownloadBegins()),
	}
	if !r.Package.IsZero() {
		v.Hash = r.Package.String()
	}
	if r.Stuck != nil {
		v.ErrorName, v.ErrorText, v.ErrorHint = errkind.Prefix+string(r.Stuck.Kind), r.Stuck.Text, r.Stuck.Hint
	} else if r.Failure != nil {
		v.ErrorName, v.ErrorText, v.ErrorHint = errkind.Prefix+string(r.Failure.Kind), r.Failure.Text, r.Failure.Hint
	}
	return v
}

// refreshObject has the methods of a refresh.
type refreshObject struct {
	s  *Service
	id string
}

// Cancel implements bus.Refresh.
func (o refreshObject) Cancel(c bus.Caller) error {
	if err := o.s.auth.Check(c, authz.Revert); err != nil {
		return err
	}
	return o.s.m.Engine().Cancel(o.s.ctx, o.id)
}

// Retry implements bus.Refresh.
func (o refreshObject) Retry(c bus.Caller) error {
	if err := o.s.auth.Check(c, authz.Refresh); err != nil {
		return err
	}
	err := o.s.m.Engine().Retry(o.s.ctx, o.id)
	if err == nil {
		o.s.objects.update(o.id)
	}
	return err
}
