package refresh

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lull/lull/agent/lib/copytree"
	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/faultpoint"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/lib/printable"
	"github.com/lull/lull/agent/lib/runctl"
	"github.com/lull/lull/agent/lib/wallclock"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/services"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/agent/vacancy"
)

// doInhibit makes sure, under the exclusive lock, that no process runs, and inhibits
// launches. A launcher joins its run under the shared lock, so there is no gap in between.
func doInhibit(_ context.Context, t *task) error {
	err := t.inhibitLaunches()
	if err != nil && t.group != nil {
		t.group.withdraw(t)
	}
	return err
}

func undoInhibit(_ context.Context, t *task) error {
	t.releaseLock()
	err := t.allowLaunches()
	if !t.r.Again && t.r.To != 0 {
		// The journal also has inhibit after an agent has died during the copy.
		err = errors.Join(err, t.discardCopy())
	}
	return err
}

func (t *task) inhibitLaunches() (err error) {
	t.dropWatch()
	t.scans = 0
	if wallclock.Now().Before(t.after) {
		return t.leave(&busyError{until: t.after})
	}
	d, err := t.besideServices()
	switch {
	case err != nil:
		return t.leave(&busyError{until: wallclock.Now().Add(unreadablePause)})
	case d != nil:
		return t.occupied(d)
	}
	for {
		again := false
		done := vacancy.Retry(func() bool {
			err = t.tryShut()
			return !errors.As(err, &d) || d.scan
		})
		if done && d != nil && d.scan && errors.As(err, &d) {
			again = t.scanRefused(d)
		}
		switch {
		case again:
		case errors.As(err, &d):
			return t.occupied(d)
		default:
			return err
		}
	}
}

// tryShut returns a *denial if the kernel reports that the package is in use.
func (t *task) tryShut() error {
	r := &t.r
	s := t.settings()
	t.r.EnteredAt = time.Now()
	seal, err := t.openSeal()
	if err != nil {
		return err
	}
	taken := false
	defer func() {
		if seal != nil && !taken {
			seal.Close()
		}
	}()
	var inService map[vacancy.Inode]bool
	if seal != nil {
		if inService, err = t.serviceFiles(); err != nil {
			return &busyError{until: wallclock.Now().Add(unreadablePause)}
		}
		enduring, err := t.enduringProcs()
		if err != nil {
			return &busyError{until: wallclock.Now().Add(unreadablePause)}
		}
		if t.beside = nil; len(enduring) > 0 {
			t.beside = seal.Forget(func(*vacancy.File) bool { return true })
		}
	}
	lock, holders, err := t.e.Runctl.TryWriteLock(r.Instance)
	if errkind.Is(err, errkind.NotFound) {
		// A boot has removed the lock file, and an instance that is not installed yet has no
		// other.
		if err = t.e.Runctl.CreateInstance(r.Instance); err == nil {
			lock, holders, err = t.e.Runctl.TryWriteLock(r.Instance)
		}
	}
	if err != nil {
		return err
	}
	if lock == nil {
		// A launch is under way; the release of its lock wakes the task.
		busy := &busyError{processes: launching(r.WaitingFor, runs.Describe(holders))}
		// A launcher that hangs does not count for longer.
		busy.until = wallclock.Now().Add(runctl.MaxLaunch)
		if t.e.Tracker.Polls() {
			busy.until = time.Now().Add(launchPause)
		}
		return busy
	}
	defer lock.Close()
	if !t.mayReplaceRunning(s) {
		procs, err := t.e.Tracker.Busy(r.Instance)
		if err != nil {
			return &busyError{until: wallclock.Now().Add(unreadablePause)}
		}
		if procs = t.withoutDoubt(procs); len(procs) > 0 {
			lock.Close()
			return t.postpone(s, t.andTied(procs), time.Time{})
		}
	}
	if seal != nil {
		if d := t.takeSeal(seal, inService); d != nil {
			return d
		}
	}
	if !t.fits() {
		return t.leave(&busyError{})
	}
	t.ghosts, t.deaf = 0, 0
	if taken = true; seal != nil {
		if len(inService) > 0 || t.hasHook() {
			seal.Release(false)
		}
		t.seal = seal
	}
	// Before the marker is there, so that it belongs to this refresh and is not a stray one.
	r.WaitingFor, r.Readers = nil, nil
	t.show()
	if err := t.e.Runctl.SetInhibited(r.Instance, runctl.RefreshInProgress); err != nil {
		return err
	}
	if err := faultpoint.Hit("refresh.inhibit.marked"); err != nil {
		return err
	}
	// Taken after launches are inhibited: its round trip must not widen the gap between the
	// last exit and the marker. A shutdown in between finds the old revision intact.
	estimate := t.estimate()
	t.r.Estimate = estimate
	took := t.takeLock(fmt.Sprintf("Refreshing %s, about %s", t.title(), printable.Duration(estimate)), offInSection,
		t.e.Policy().Inhibit.Block && t.e.Logind != nil && estimate > t.e.Logind.MaxDelay())
	if !took && len(t.locks) == 0 {
		t.unseal()
		if err := t.e.Runctl.ClearInhibited(r.Instance); err != nil {
			return err
		}
		return t.leave(&busyError{})
	}
	return nil
}

// launching adds the processes of a launch under way to those that were waited for. The end
// of these is noticed when the launch is over; until then it is not reported. The agent
// itself holds the lock for a launch that it places.
func launching(before, holders []runs.Process) []runs.Process {
	list := slices.Clone(before)
	for _, h := range holders {
		if h.PID != os.Getpid() && !slices.ContainsFunc(list, func(p runs.Process) bool { return p.PID == h.PID }) {
			list = append(list, h)
		}
	}
	return list
}

// doStopServices runs under the marker, when no application is left: a refresh that has to
// wait never touches a service.
//
// The pre-refresh hook of the old revision runs first, while its services run.
func doStopServices(ctx context.Context, t *task) error {
	units, err := t.oldUnits()
	if err != nil {
		return err
	}
	if t.r.Kind == plan.Update {
		pkg, err := t.e.packageOf(t.r.Instance, t.r.From)
		if err == nil {
			err = t.runHook(ctx, pkg, t.r.From, manifest.HookPreRefresh)
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
	t.due = false // the section decides from here on
	for _, u := range slices.Backward(units) {
		// A service that endured into a revision without it would never be stopped.
		known := slices.ContainsFunc(fresh, func(f services.Unit) bool { return f.Service.Name == u.Service.Name })
		if u.RefreshMode == manifest.ModeEndure && known {
			continue
		}
		if err := t.e.Services.Stop(ctx, u); err != nil {
			return err
		}
	}
	return t.sealRest()
}

func undoStopServices(ctx context.Context, t *task) error {
	if t.due && t.r.Again {
		return nil // the refresh goes on at once, or startDue starts them if it has to wait
	}
	t.due = false
	units, err := t.oldUnits()
	if err != nil {
		return err
	}
	// The old revision is current by now: its services need not wait, its applications still
	// do.
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

// doCopy gives the new revision a copy of the old one's system data. It only reads the old
// data.
func doCopy(ctx context.Context, t *task) error {
	r := &t.r
	m, err := t.e.Store.Launch(r.Package)
	if err != nil {
		return err
	}
	if !m.Data.Versioned || r.DataFrom == 0 {
		return nil
	}
	dst := t.e.dataDir(r.Instance, r.To)
	if _, err := os.Lstat(dst); !errors.Is(err, fs.ErrNotExist) { // of an earlier try
		if err := undoCopy(ctx, t); err != nil {
			return err
		}
	}
	src := t.e.dataDir(r.Instance, r.DataFrom)
	if _, err := os.Lstat(src); errors.Is(err, fs.ErrNotExist) {
		return nil // made empty by doLink
	}
	stats, err := copytree.Copy(ctx, src, dst, copytree.Options{})
	t.copied = state.Copied{Files: stats.Files, Bytes: stats.Bytes}
	if err != nil {
		return fmt.Errorf("cannot copy the data of %s to revision %d: %w", r.Instance, r.To, err)
	}
	t.e.reportSkipped(r, src, stats)
	return nil
}

// undoCopy keeps the precopied data: another try may follow, and undoPrecopy removes it. A
// service of the new revision may have made what cannot be removed, for example by mounting
// something in its data. That keeps no old revision from coming back: the rest is moved
// aside, and removed when it can be (see pruneData).
func undoCopy(_ context.Context, t *task) error {
	dir := t.e.dataDir(t.r.Instance, t.r.To)
	err := copytree.Remove(dir)
	if err == nil {
		return nil
	}
	aside := fmt.Sprintf("%s%s%d", dir, undoneSuffix, time.Now().UnixNano())
	if rerr := durable.Rename(dir, aside); rerr != nil {
		return errors.Join(err, rerr)
	}
	t.e.Log.Warn("the data of a revision that was undone cannot be removed yet", messages.Key, messages.DataLeft, "instance", t.r.Instance, "path", aside, "error", err)
	return nil
}

// doLink is the commit. Actions before the swap can be undone without a trace. Actions after
// it are repeated until they are done.
func doLink(_ context.Context, t *task) error {
	r := &t.r
	if r.Kind == plan.Remove {
		if err := t.e.Exports.Remove(r.Instance); err != nil {
			return err
		}
		if err := t.intact(); err != nil {
			return err
		}
		defer t.unseal()
		return t.e.drop(r.Instance)
	}
	m, err := t.e.Store.Launch(r.Package)
	if err != nil {
		return err
	}
	if err := t.e.makeDataFolders(r.Instance, r.To, m); err != nil {
		return err
	}
	if err := t.e.tie(r.Instance, r.Package); err != nil {
		return err
	}
	if err := t.intact(); err != nil {
		return err
	}
	if err := t.e.swap(r.Instance, r.To); err != nil {
		return err
	}
	t.unseal()
	if err := faultpoint.Hit("refresh.link.swapped"); err != nil {
		return err
	}
	if err := t.e.Exports.Write(r.Instance, m, t.e.Store.PackageDir(r.Package)); err != nil {
		return err
	}
	return t.e.Runctl.SetInhibited(r.Instance, runctl.RefreshStarting)
}

func undoLink(_ context.Context, t *task) error {
	r := &t.r
	if r.From == 0 {
		return errors.Join(t.e.drop(r.Instance), t.e.Exports.Remove(r.Instance))
	}
	if rev, _, err := t.e.Links.Read(r.Instance); err != nil || rev != r.From {
		// After a reboot a user may have started the new revision before the agent was up.
		if !t.mayReplaceRunning(t.settings()) && r.Kind != plan.Remove {
			procs, err := t.e.Running(r.Instance)
			if err != nil {
				return fmt.Errorf("cannot find out whether the new revision runs: %w", err)
			}
			if len(procs) > 0 {
				return &busyError{processes: procs}
			}
		}
		if err := t.linkOld(); err != nil {
			return err
		}
	}
	return t.writeOldExports()
}

// doStartServices starts the services of the new revision. A service that endured goes on as
// it is.
//
// The post-refresh hook of the new revision comes first: at that time the data is copied and
// nothing runs.
func doStartServices(ctx context.Context, t *task) error {
	if t.r.Kind == plan.Update {
		if err := t.runHook(ctx, t.r.Package, t.r.To, manifest.HookPostRefresh); err != nil {
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
		if u.RefreshMode == manifest.ModeEndure && t.r.From != 0 {
			continue
		}
		if err := t.e.Services.Stop(ctx, u); err != nil {
			return err
		}
	}
	return nil
}

// doHealth keeps launches inhibited until the new revision has proved to work.
func doHealth(ctx context.Context, t *task) error {
	units, err := t.e.units(t.r.Instance, t.r.Package)
	if err != nil {
		return err
	}
	if err := t.settleServices(ctx, units); err != nil {
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
	return t.runHook(ctx, t.r.Package, t.r.To, manifest.HookHealth)
}

// settleTime is how long a service that does not report readiness must stay up after its
// start before the new revision counts as healthy. A broken service mostly ends within that
// time. Launches wait as long. A service that ends later is reported, and nothing is undone
// for it, because users may have written data by then.
const settleTime = time.Second

// settleServices waits in parallel until all started services have stayed up.
func (t *task) settleServices(ctx context.Context, units []services.Unit) error {
	var group errgroup.Group
	for _, u := range units {
		if u.RefreshMode == manifest.ModeEndure && t.r.From != 0 {
			continue // it was not started
		}
		stay := settleTime
		if u.Ready == manifest.ReadyNotify {
			stay = 0 // it has reported that it works
		}
		group.Go(func() error { return t.e.Services.Settle(ctx, u, stay) })
	}
	if err := group.Wait(); err != nil {
		return errkind.New(errkind.Failed, "cannot use %s %s: %w", t.r.Instance, t.r.ToVersion, err)
	}
	return nil
}

// doUninhibit allows launches.
func doUninhibit(_ context.Context, t *task) error {
	if err := t.allowLaunches(); err != nil {
		return err
	}
	t.releaseLock()
	return nil
}

// undoUninhibit inhibits launches for the undoing of the steps before it.
func undoUninhibit(_ context.Context, t *task) error {
	return t.e.Runctl.SetInhibited(t.r.Instance, runctl.RefreshInProgress)
}

// allowLaunches removes the marker and records how long it was there, if it was that of a critical
// section.
func (t *task) allowLaunches() error {
	word, err := t.e.Runctl.Inhibited(t.r.Instance)
	if err != nil {
		return err
	}
	since, err := t.e.Runctl.InhibitedSince(t.r.Instance) // another agent may have inhibited it
	if err != nil {
		return err
	}
	if err := t.e.Runctl.ClearInhibited(t.r.Instance); err != nil {
		return err
	}
	if word != runctl.RefreshInProgress && word != runctl.RefreshStarting {
		return nil
	}
	if t.r.EnteredAt.IsZero() {
		t.r.EnteredAt = since
	}
	t.r.BlockedTime = max(time.Since(t.r.EnteredAt), 0)
	if t.e.HeldOff != nil {
		t.e.HeldOff(t.r.Kind, t.r.BlockedTime)
	}
	return nil
}
