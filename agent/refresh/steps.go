package refresh

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lull/lull/agent/datacopy"
	"github.com/lull/lull/agent/digest"
	"github.com/lull/lull/agent/durable"
	"github.com/lull/lull/agent/meta"
	"github.com/lull/lull/agent/problem"
	"github.com/lull/lull/agent/runctl"
	"github.com/lull/lull/agent/services"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/agent/wallclock"
)

// action is one direction of a step. It may change t.r and must be safe to run again.
type action func(ctx context.Context, t *task) error

// steps has Do and Undo of each step beside each other; nil: nothing to do.
var steps = map[Step]struct{ do, undo action }{
	Resolve:       {doResolve, undoResolve},
	Fetch:         {doFetch, nil},
	Stage:         {doStage, nil},
	Precopy:       {doPrecopy, undoPrecopy},
	Wait:          {doWait, undoWait},
	Inhibit:       {doInhibit, undoInhibit},
	Gather:        {doGather, nil},
	StopServices:  {doStopServices, undoStopServices},
	Copy:          {doCopy, undoCopy},
	Link:          {doLink, undoLink},
	StartServices: {doStartServices, undoStartServices},
	Health:        {doHealth, nil},
	Commit:        {doCommit, nil},
	Uninhibit:     {doUninhibit, undoUninhibit},
	Finish:        {doFinish, nil},
}

// doResolve learns which package is wanted and gives the revision its number.
func doResolve(ctx context.Context, t *task) error {
	r := &t.r
	if r.Package.IsZero() {
		client, err := t.e.Repository(r.Repository)
		if err != nil {
			return err
		}
		if err := client.Update(ctx); err != nil {
			return err
		}
		name, _ := meta.SplitInstance(r.Instance)
		p, err := client.Channel(ctx, name, r.Channel)
		if err != nil {
			return err
		}
		r.Package, r.ToVersion, r.Urgency, r.Published = p.Package, p.Version, string(p.Urgency), p.Published
	}
	if r.To != 0 {
		return nil
	}
	return t.e.State.UpdateInstance(r.Instance, func(i *state.Instance) error {
		for _, v := range i.Revisions {
			if v.Made.IsZero() && v.Package == r.Package && v.From == r.DataFrom {
				r.To = v.Number // given before a crash, and not yet in the journal
				return nil
			}
		}
		i.Last++
		r.To = i.Last
		i.Repository, i.Channel = r.Repository, r.Channel
		i.Revisions = append(i.Revisions, state.Revision{Number: r.To, Package: r.Package, Version: r.ToVersion, From: r.DataFrom})
		return nil
	})
}

// undoResolve forgets the revision, with the link that stage has given it; what was
// fetched goes with the next collection.
func undoResolve(_ context.Context, t *task) error {
	r := &t.r
	if r.To == 0 {
		return nil
	}
	if err := t.e.Links.Forget(r.Instance, r.To); err != nil {
		return err
	}
	err := t.e.State.UpdateInstance(r.Instance, func(i *state.Instance) error {
		i.Revisions = slices.DeleteFunc(i.Revisions, func(v state.Revision) bool { return v.Number == r.To })
		return nil
	})
	if err == nil && r.Kind == Install {
		err = errors.Join(t.e.State.RemoveInstance(r.Instance, r.DataFrom), t.e.removeMarkers(r.Instance))
	}
	return errors.Join(err, t.e.Installed())
}

// doFetch brings in what is missing. The revision that resolve has recorded protects
// the package from the moment on that its writing entry ends.
//
// With a condition unmet it waits; one that is lost meanwhile breaks the download off,
// and what is there by then is not fetched again.
func doFetch(ctx context.Context, t *task) error {
	r := &t.r
	if busy := t.mayFetch(); busy != nil {
		return busy
	}
	ctx, stop := t.whileMayFetch(ctx)
	defer stop()
	if err := t.e.Installed(); err != nil {
		return err
	}
	client, err := t.e.Repository(r.Repository)
	if err != nil {
		return err
	}
	meter := newMeter(t)
	err = t.e.Resolver.Resolve(ctx, r.Package, client, "refresh "+r.ID, meter.set)
	var busy *busyError
	if err != nil && errors.As(context.Cause(ctx), &busy) {
		stop()
		if again := t.mayFetch(); again != nil {
			return again
		}
		return &busyError{until: wallclock.Now()} // fulfilled again by now
	}
	return err
}

// doStage checks the package against what was asked for and gives it its revision link.
func doStage(_ context.Context, t *task) error {
	r := &t.r
	err := t.e.Store.Materialise(r.Package)
	if err != nil {
		return err
	}
	m, err := t.e.Store.Launch(r.Package)
	if err != nil {
		return err
	}
	if name, _ := meta.SplitInstance(r.Instance); m.Name != name {
		return problem.New(problem.Invalid, "cannot use package %s for %s: it is called %s", r.Package.Short(), r.Instance, m.Name)
	}
	for _, s := range m.Services {
		if t.e.ofSession(s) && t.e.Services.Name() != "systemd" {
			return problem.New(problem.Invalid, "cannot use package %s %s: its service %s belongs to users' sessions, and with the tracker %s nobody starts it there",
				m.Name, m.Version, s.Name, t.e.Tracker.Name()).WithHint("services of sessions need systemd with the unified cgroup hierarchy, where lulld uses the tracker scope")
		}
	}
	r.ToVersion, r.Notes = m.Version, m.Notes
	if r.Kind == Revert {
		return nil
	}
	if err := errors.Join(t.e.Links.Add(r.Instance, r.To, r.Package, r.DataFrom), t.e.remember(r.Instance)); err != nil {
		return err
	}
	return t.e.Runctl.CreateInstance(r.Instance)
}

// doPrecopy copies the system data while the application still runs, so that the
// critical section has only to bring over what changes from now on. What it leaves
// is bound to the file system's word about changes; datacopy says which it believes.
func doPrecopy(ctx context.Context, t *task) error {
	r := &t.r
	m, err := t.e.Store.Launch(r.Package)
	if err == nil {
		// What is wrong with the data is said before anything waits for it.
		_, err = t.e.checkData(r.Instance, r.From, m.Data.Versioned)
	}
	if err != nil || !m.Data.Versioned {
		return err
	}
	t.tell(SessionPrecopy)
	src, dst := t.e.dataDir(r.Instance, r.DataFrom), t.e.dataDir(r.Instance, r.To)
	start := time.Now()
	stats, err := datacopy.Precopy(ctx, src, dst, datacopy.Options{})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	t.e.Log.Info("copied data ahead", "instance", r.Instance, "refresh", r.ID, "files", stats.Files, "bytes", stats.Bytes, "took", time.Since(start), "error", err)
	return err
}

func undoPrecopy(_ context.Context, t *task) error {
	t.tell(SessionAbandon)
	return t.discardCopy()
}

// discardCopy removes what was copied ahead for the new revision.
func (t *task) discardCopy() error {
	err := datacopy.Discard(t.e.dataDir(t.r.Instance, t.r.To), datacopy.Options{})
	if errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP) {
		return nil // where the data should be lies something else, and so nothing was copied
	}
	return err
}

// dataDir is the system data of one revision.
func (e *Engine) dataDir(instance string, rev uint32) string {
	return filepath.Join(e.Root, "data", instance, strconv.FormatUint(uint64(rev), 10))
}

// units are the services of a package that the agent's own manager runs, in their
// order; none of the zero package.
func (e *Engine) units(instance string, pkg digest.Digest) ([]services.Unit, error) {
	if pkg.IsZero() {
		return nil, nil
	}
	m, err := e.Store.Launch(pkg)
	if err != nil {
		return nil, err
	}
	var list []services.Unit
	for _, s := range m.Services {
		if !e.ofSession(s) {
			list = append(list, services.Unit{Instance: instance, Service: s})
		}
	}
	return list, nil
}

// packageOf is the package of a revision; zero for revision 0.
func (e *Engine) packageOf(instance string, rev uint32) (digest.Digest, error) {
	if rev == 0 {
		return digest.Digest{}, nil
	}
	return e.Links.Package(instance, rev)
}

func (t *task) oldUnits() ([]services.Unit, error) {
	pkg, err := t.e.packageOf(t.r.Instance, t.r.From)
	if err != nil {
		return nil, err
	}
	return t.e.units(t.r.Instance, pkg)
}

// doStopServices runs under the marker, when no application is left: a refresh
// that has to wait never touches a service.
//
// The pre-refresh hook of the old revision comes first, while its services run.
func doStopServices(ctx context.Context, t *task) error {
	units, err := t.oldUnits()
	if err != nil {
		return err
	}
	if t.r.Kind == Update {
		pkg, err := t.e.packageOf(t.r.Instance, t.r.From)
		if err == nil {
			err = t.e.runHook(ctx, &t.r, pkg, t.r.From, meta.HookPreRefresh)
		}
		if err != nil {
			return err
		}
	}
	if err := t.stopSessions(ctx); err != nil {
		return err
	}
	fresh, err := t.e.units(t.r.Instance, t.r.Package)
	if err != nil {
		return err
	}
	for _, u := range slices.Backward(units) {
		// Nobody would ever stop one that endures into a revision that does not know it.
		known := slices.ContainsFunc(fresh, func(f services.Unit) bool { return f.Service.Name == u.Service.Name })
		if u.RefreshMode == meta.ModeEndure && known {
			continue
		}
		if err := t.e.Services.Stop(ctx, u); err != nil {
			return err
		}
	}
	return nil
}

func undoStopServices(ctx context.Context, t *task) error {
	units, err := t.oldUnits()
	if err != nil {
		return err
	}
	// The old revision is current again: its services need not wait, its applications still do.
	if err := t.e.Runctl.SetInhibited(t.r.Instance, runctl.RefreshStarting); err != nil {
		return err
	}
	t.tell(SessionUndo)
	return t.e.startUnits(ctx, units)
}

func (e *Engine) startUnits(ctx context.Context, units []services.Unit) error {
	for _, u := range units {
		if err := e.Services.Start(ctx, u); err != nil {
			return err
		}
	}
	return nil
}

// doStartServices starts what the new revision brings. A service that endured goes on as it is.
//
// The post-refresh hook of the new revision comes first: it finds the data copied and nothing running.
func doStartServices(ctx context.Context, t *task) error {
	if t.r.Kind == Update {
		if err := t.e.runHook(ctx, &t.r, t.r.Package, t.r.To, meta.HookPostRefresh); err != nil {
			return err
		}
	}
	units, err := t.e.units(t.r.Instance, t.r.Package)
	if err != nil {
		return err
	}
	return t.e.startUnits(ctx, units)
}

func undoStartServices(ctx context.Context, t *task) error {
	units, err := t.e.units(t.r.Instance, t.r.Package)
	if err != nil {
		return err
	}
	for _, u := range slices.Backward(units) {
		if u.RefreshMode == meta.ModeEndure && t.r.From != 0 {
			continue
		}
		if err := t.e.Services.Stop(ctx, u); err != nil {
			return err
		}
	}
	return nil
}

// doHealth lets nobody in before the new revision has shown that it works.
func doHealth(ctx context.Context, t *task) error {
	units, err := t.e.units(t.r.Instance, t.r.Package)
	if err != nil {
		return err
	}
	for _, u := range units {
		st, err := t.e.Services.State(ctx, u)
		if err != nil {
			return err
		}
		if st != services.Active {
			return fmt.Errorf("cannot use %s %s: its service %s is %s", t.r.Instance, t.r.ToVersion, u.Service.Name, st)
		}
	}
	return t.e.runHook(ctx, &t.r, t.r.Package, t.r.To, meta.HookHealth)
}

// doFinish makes the new revision history's latest and lets go of what policy does not keep.
func doFinish(_ context.Context, t *task) error {
	r := &t.r
	if r.Kind == Remove {
		return t.e.forget(r)
	}
	err := t.e.State.UpdateInstance(r.Instance, func(i *state.Instance) error {
		for k := range i.Revisions {
			v := &i.Revisions[k]
			if v.Number == r.To {
				v.Made, v.Version, v.Reverted = time.Now(), r.ToVersion, false
				i.Accept(v.Package)
			}
			if r.Kind == Revert && v.Number == r.From {
				v.Reverted = true
				i.Refuse(v.Package)
			}
		}
		if i.Backoff != nil && i.Backoff.Package == r.Package {
			i.Backoff = nil
		}
		i.Left = 0
		return nil
	})
	if err != nil {
		return err
	}
	t.tell(SessionFinish)
	return t.e.prune(r.Instance, r.To)
}

// Prune lets go of the revisions that policy no longer keeps. An instance with a
// refresh under way is left to that.
func (e *Engine) Prune(instance string) error {
	if _, busy := e.Of(instance); busy {
		return nil
	}
	cur, _, err := e.Links.Read(instance)
	if err != nil {
		return err
	}
	return e.prune(instance, cur)
}

func (e *Engine) prune(instance string, cur uint32) error {
	var gone, kept []uint32
	keep := e.Policy().For(instance).KeepRevisions
	err := e.State.UpdateInstance(instance, func(i *state.Instance) error {
		gone = superseded(i.Revisions, cur, keep)
		i.Revisions = slices.DeleteFunc(i.Revisions, func(v state.Revision) bool { return slices.Contains(gone, v.Number) })
		for _, v := range i.Revisions {
			kept = append(kept, v.Number)
		}
		return nil
	})
	if err != nil {
		return err
	}
	// Also those whose removal a crash has undone after the record was written.
	linked, err := e.Links.Revisions(instance)
	if err != nil {
		return err
	}
	for _, rev := range append(gone, linked...) {
		if rev == cur || slices.Contains(kept, rev) {
			continue
		}
		if err := e.Links.Forget(instance, rev); err != nil {
			return err
		}
	}
	return errors.Join(e.pruneData(instance, kept), e.remember(instance), e.Installed())
}

// pruneData removes the data of revisions that are not kept, an earlier life of
// the instance included.
func (e *Engine) pruneData(instance string, kept []uint32) error {
	dir := filepath.Join(e.Root, "data", instance)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, d := range entries {
		name, _, partial := strings.Cut(d.Name(), datacopy.PartialSuffix)
		n, perr := strconv.ParseUint(name, 10, 32)
		switch {
		case perr != nil:
		case partial: // copied ahead for a refresh whose journal was lost
			err = errors.Join(err, datacopy.Discard(filepath.Join(dir, name), datacopy.Options{}))
		case !slices.Contains(kept, uint32(n)):
			err = errors.Join(err, durable.RemoveAll(filepath.Join(dir, name)))
		}
	}
	return err
}

// superseded lists the revisions that policy no longer keeps: of those that have
// been current, the oldest beyond keep, never the current one. Reverted ones go
// before all others, because nobody goes back to them without saying so.
func superseded(list []state.Revision, cur uint32, keep int) (gone []uint32) {
	kept := 1 // the current one
	for _, reverted := range []bool{false, true} {
		for _, v := range slices.Backward(list) {
			switch {
			case v.Number == cur || v.Made.IsZero() || v.Reverted != reverted:
			case kept < max(keep, 1):
				kept++
			default:
				gone = append(gone, v.Number)
			}
		}
	}
	return gone
}

// forget ends the life of an instance. Its system data stays unless purging was asked for.
func (e *Engine) forget(r *Refresh) error {
	if err := e.Links.ForgetAll(r.Instance); err != nil {
		return err
	}
	left := r.From
	if r.Purge {
		left = 0
		if err := durable.RemoveAll(filepath.Join(e.Root, "data", r.Instance)); err != nil {
			return err
		}
	}
	return errors.Join(e.State.RemoveInstance(r.Instance, left), e.remember(r.Instance), e.removeMarkers(r.Instance), e.Installed())
}

// removeMarkers removes the run-control files of an instance that is gone. With a
// launcher on the lock they stay until the next boot, which hurts nobody: a lock
// file may only vanish under the exclusive lock.
func (e *Engine) removeMarkers(instance string) error {
	lock, _, err := e.Runctl.TryWriteLock(instance)
	if problem.Is(err, problem.NotFound) || err == nil && lock == nil {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	return e.Runctl.RemoveInstance(instance)
}
