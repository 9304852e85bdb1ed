package refresh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"syscall"
	"time"

	"github.com/lull/lull/agent/lib/copytree"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/lib/runctl"
	"github.com/lull/lull/agent/lib/wallclock"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/policy"
)

// doResolve determines the wanted package and gives the revision its number.
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
		name, _ := manifest.SplitInstance(r.Instance)
		p, err := client.Channel(ctx, name, r.Channel)
		if err != nil {
			return err
		}
		r.Package, r.ToVersion, r.Urgency, r.Published, r.Notes = p.Package, p.Version, string(p.Urgency), p.Published, p.Notes
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
		// Data of an earlier installation without a record may have higher numbers.
		i.Last = max(i.Last, t.e.highestData(r.Instance)) + 1
		r.To = i.Last
		i.Repository, i.Channel = r.Repository, r.Channel
		i.Revisions = append(i.Revisions, state.Revision{Number: r.To, Package: r.Package, Version: r.ToVersion, From: r.DataFrom})
		return nil
	})
}

// undoResolve removes the revision, with the link that stage has made. The fetched content is
// removed by the next collection.
func undoResolve(_ context.Context, t *task) error {
	r := &t.r
	if r.To == 0 {
		return nil
	}
	if err := errors.Join(t.e.Links.Forget(r.Instance, r.To), t.e.Exports.Release(r.Instance)); err != nil {
		return err
	}
	err := t.e.State.UpdateInstance(r.Instance, func(i *state.Instance) error {
		i.Revisions = slices.DeleteFunc(i.Revisions, func(v state.Revision) bool { return v.Number == r.To })
		return nil
	})
	if err == nil && r.Kind == plan.Install {
		err = errors.Join(t.e.State.RemoveInstance(r.Instance, r.DataFrom), t.e.removeMarkers(r.Instance))
	}
	return errors.Join(err, t.e.Installed(r.Instance))
}

// doFetch fetches the missing content. The revision that resolve has recorded protects the
// package from the end of its writing entry on.
//
// With an unmet condition it waits. If a condition is lost meanwhile, the download is
// interrupted. The content that is there by then is not fetched twice.
func doFetch(ctx context.Context, t *task) error {
	r := &t.r
	if busy := t.mayFetch(); busy != nil {
		return busy
	}
	ctx, stop := t.whileMayFetch(ctx)
	defer stop()
	if err := t.e.Installed(r.Instance); err != nil {
		return err
	}
	client, err := t.e.Repository(r.Repository)
	if err != nil {
		return err
	}
	if r.Kind == plan.Update && !r.Now {
		ctx = repo.Unrequested(ctx, t.requested.Load)
	}
	ctx, size, large := t.announcing(ctx)
	err = t.e.Resolver.Resolve(ctx, r.Package, client, "refresh "+r.ID, newMeter(t, size).set)
	if bytes := large(); bytes > 0 {
		stop()
		t.announce(bytes)
	}
	var busy *busyError
	if err != nil && errors.As(context.Cause(ctx), &busy) {
		stop()
		if again := t.mayFetch(); again != nil {
			return again
		}
		return &busyError{until: wallclock.Now()} // fulfilled by now
	}
	return err
}

// doStage checks the package against the request and makes its revision link.
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
	if name, _ := manifest.SplitInstance(r.Instance); m.Name != name {
		return errkind.New(errkind.Invalid, "cannot use package %s for %s: it is called %s", r.Package.Short(), r.Instance, m.Name)
	}
	for _, s := range m.Services {
		if t.e.ofSession(s) && t.e.Services.Name() != "systemd" {
			return errkind.New(errkind.Invalid, "cannot use package %s %s: its service %s belongs to users' sessions, and with the tracker %s nothing starts it there",
				m.Name, m.Version, s.Name, t.e.Tracker.Name()).WithHint("services of sessions need systemd with the unified cgroup hierarchy, where lulld uses the tracker scope")
		}
	}
	r.ToVersion, r.Notes = m.Version, cmp.Or(r.Notes, m.Notes)
	if err := t.e.Exports.Claim(r.Instance, m, t.e.Store.PackageDir(r.Package)); err != nil {
		return err
	}
	if r.Kind == plan.Revert {
		return nil
	}
	if err := errors.Join(t.e.Links.Add(r.Instance, r.To, r.Package, r.DataFrom), t.e.remember(r.Instance)); err != nil {
		return err
	}
	return t.e.Runctl.CreateInstance(r.Instance)
}

// doPrecopy copies the system data while the application still runs, so that the critical
// section only has to copy later changes. Its result depends on what the file system reports
// about changes; datacopy documents which reports it trusts.
func doPrecopy(ctx context.Context, t *task) error {
	r := &t.r
	m, err := t.e.Store.Launch(r.Package)
	if err == nil {
		// Problems with the data are reported before anything waits for the refresh.
		_, err = t.e.checkData(r.Instance, r.From, m.Data.Versioned)
	}
	if err != nil || !m.Data.Versioned {
		return err
	}
	t.tell(SessionPrecopy)
	src, dst := t.e.dataDir(r.Instance, r.DataFrom), t.e.dataDir(r.Instance, r.To)
	start := time.Now()
	stats, err := copytree.Precopy(ctx, src, dst, copytree.Options{})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	r.Ahead, r.AheadFiles, r.AheadBytes, r.AheadAll = time.Since(start), stats.Files, stats.Bytes, stats.Files+stats.Unchanged
	t.diff = difference{}
	t.e.Log.Info("copied data ahead", "instance", r.Instance, "refresh", r.ID, "files", stats.Files, "bytes", stats.Bytes, "took", time.Since(start), "error", err)
	return err
}

func undoPrecopy(_ context.Context, t *task) error {
	t.tell(SessionAbandon)
	return t.discardCopy()
}

// discardCopy removes the precopied data of the new revision.
func (t *task) discardCopy() error {
	err := copytree.Discard(t.e.dataDir(t.r.Instance, t.r.To), copytree.Options{})
	if errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP) {
		return nil // something else is in the place of the data, and so nothing was copied
	}
	return err
}

// doWait ends when the instance is vacant and no hold is in force; in a group, when this
// applies to all members.
func doWait(ctx context.Context, t *task) error {
	t.compare(ctx)
	err := t.vacant()
	if t.group == nil {
		return err
	}
	return t.group.reportReady(t, err)
}

// undoWait allows launches that policy has inhibited.
func undoWait(_ context.Context, t *task) error {
	t.releaseLock()
	return t.e.Runctl.ClearInhibited(t.r.Instance)
}

// vacant returns nil if nothing blocks this instance's refresh.
func (t *task) vacant() error {
	r := &t.r
	s := t.settings()
	if err := t.e.Writable(); err != nil {
		t.e.Log.Warn("a refresh waits until the root can be written", messages.Key, messages.ReadOnly, "instance", r.Instance, "root", t.e.Root, "error", err)
		return &busyError{}
	}
	if r.Kind == plan.Update {
		until, err := t.held(wallclock.Now())
		if err != nil {
			return err
		}
		if r.Held = !until.IsZero(); r.Held {
			t.dropPendingMarker()
			return t.leave(&busyError{until: until})
		}
	}
	r.Since = policy.ClockAfter(r.Published).Began(t.since(), wallclock.Now())
	r.Deadline = t.window(s).Deadline()
	var again time.Time
	r.Unmet, again = t.unmet(s, s.RefreshRequires, r.Since)
	// If it was busy and something has changed, perhaps by the last exit, only the check
	// under the lock counts, and waiting launches wait for it. The members of a group check
	// first, because they inhibit launches together.
	if look := len(r.WaitingFor) == 0 || len(r.Unmet) > 0 || t.group != nil; look && !t.mayReplaceRunning(s) {
		procs, err := t.e.Tracker.Busy(r.Instance)
		if err != nil {
			t.e.Log.Warn("cannot determine what runs, so it counts as running", messages.Key, messages.RunsUnreadable, "instance", r.Instance, "error", err)
			return t.leave(&busyError{until: wallclock.Now().Add(unreadablePause)})
		}
		if procs = t.withoutDoubt(procs); len(procs) > 0 {
			return t.postpone(s, t.andTied(procs), again)
		}
	}
	if len(r.Unmet) > 0 {
		t.dropPendingMarker()
		return t.leave(&busyError{until: earlier(again, r.Deadline)})
	}
	if !t.fits() {
		return t.leave(&busyError{})
	}
	return nil
}

// unreadablePause is the time after which unreadable cgroups are re-read; no event is
// expected from them.
const unreadablePause = 30 * time.Second

// launchPause is the time after which a launch under way is rechecked if the tracker gets no
// event for the release of its lock.
const launchPause = time.Second

// mayReplaceRunning reports whether the switch happens under running applications, which then
// keep their revision: by mode, because it was requested this once, or because the deadline
// has passed and policy allows it.
func (t *task) mayReplaceRunning(s policy.Settings) bool {
	if t.r.Kind == plan.Remove {
		return false
	}
	return t.r.Beside || !s.RefreshAwareness || s.Mode != policy.ModeWait ||
		s.AtDeadline == policy.DeadlineSideBySide && !t.r.Since.IsZero() && t.window(s).Over(wallclock.Now())
}

// postpone prepares for a long wait. Policy may inhibit new launches, and shutdown gives a
// last chance. The refresh rechecks at the deadline, and when a condition changes by the
// clock. With an unmet condition no launch is inhibited: that could last for hours.
func (t *task) postpone(s policy.Settings, procs []runs.Process, again time.Time) error {
	if len(t.r.Unmet) > 0 {
		t.dropPendingMarker()
	} else if s.RefreshPending == policy.PendingBlock {
		if err := t.keepOut(); err != nil {
			return err
		}
	}
	busy := &busyError{processes: procs}
	if !t.e.down().IsZero() {
		return t.leave(busy)
	}
	t.r.Estimate = t.estimate()
	t.takeLock(fmt.Sprintf("%s waits for its applications to be closed, then takes about %s", t.title(), t.r.Estimate), offWhileWaiting, false)
	switch {
	case wallclock.Now().Before(t.r.Deadline):
		busy.until = earlier(again, t.r.Deadline)
	case s.AtDeadline == policy.DeadlineTerminate:
		return t.terminate(busy)
	case t.mayReplaceRunning(s):
		busy.until = wallclock.Now() // the deadline has passed during this check
	}
	return busy
}

// keepOut inhibits new launches. During a launch it does nothing: when that launch releases
// its lock, the refresh rechecks.
func (t *task) keepOut() error {
	if word, err := t.e.Runctl.Inhibited(t.r.Instance); err != nil || word != "" {
		return err
	}
	lock, _, err := t.e.Runctl.TryWriteLock(t.r.Instance)
	if err != nil || lock == nil {
		return err
	}
	defer lock.Close()
	return t.e.Runctl.SetInhibited(t.r.Instance, runctl.RefreshPending)
}

// terminateGrace is how long processes that were asked to end may take.
const terminateGrace = 30 * time.Second

// terminate ends the processes, because the administrator configured that for this package.
// It inhibits new launches, asks the processes to end, and after a while kills the remaining
// ones.
func (t *task) terminate(busy *busyError) error {
	if err := t.keepOut(); err != nil {
		return err
	}
	if t.asked.IsZero() {
		t.asked = time.Now()
		t.e.Log.Warn("ending an application at the deadline, as policy says", messages.Key, messages.DeadlineReached, "instance", t.r.Instance, "deadline", t.r.Deadline, "processes", len(busy.processes))
		if err := runs.Terminate(busy.processes); err != nil {
			t.e.Log.Warn("cannot ask every process to end", "instance", t.r.Instance, "error", err)
		}
	}
	left := terminateGrace - time.Since(t.asked)
	if left <= 0 {
		t.e.Log.Warn("killing what did not end when it was asked to", messages.Key, messages.DeadlineKilled, "instance", t.r.Instance, "processes", len(busy.processes), "asked", t.asked)
		if err := runs.Kill(busy.processes); err != nil {
			t.e.Log.Warn("cannot kill every process", "instance", t.r.Instance, "error", err)
		}
		left = time.Second // for processes forked meanwhile; the end of the others wakes the task
	}
	busy.until = wallclock.Now().Add(left)
	return busy
}

// withoutDoubt leaves out the users whose groups cannot be read, once the grace period of a
// deadline that terminates is over. Their possible processes cannot be ended, and a user must
// not postpone a refresh for ever by making groups.
func (t *task) withoutDoubt(procs []runs.Process) []runs.Process {
	if t.asked.IsZero() || time.Since(t.asked) < terminateGrace || !slices.ContainsFunc(procs, runs.Process.Perhaps) {
		return procs
	}
	t.e.Log.Warn("refreshing although the groups of a user cannot be read, as the deadline says", messages.Key, messages.RunsUnreadable, "instance", t.r.Instance, "asked", t.asked)
	return slices.DeleteFunc(slices.Clone(procs), runs.Process.Perhaps)
}

func (t *task) dropPendingMarker() {
	if word, err := t.e.Runctl.Inhibited(t.r.Instance); err == nil && word == runctl.RefreshPending {
		if err := t.e.Runctl.ClearInhibited(t.r.Instance); err != nil {
			t.e.Log.Error("cannot remove a marker", "instance", t.r.Instance, "error", err)
		}
	}
}
