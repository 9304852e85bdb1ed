package refresh

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/lull/lull/agent/datacopy"
	"github.com/lull/lull/agent/durable"
	"github.com/lull/lull/agent/faultpoint"
	"github.com/lull/lull/agent/messages"
	"github.com/lull/lull/agent/meta"
	"github.com/lull/lull/agent/problem"
	"github.com/lull/lull/agent/runctl"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/services"
	"github.com/lull/lull/agent/wallclock"
	"github.com/lull/lull/policy"
)

// mayReplaceRunning says whether the switch happens beneath running applications,
// which then keep their revision: by mode, or because the deadline has passed and policy says so.
func (t *task) mayReplaceRunning(s policy.Settings) bool {
	if t.r.Kind == Remove {
		return false
	}
	return !s.RefreshAwareness || s.Mode != policy.ModeWait ||
		s.AtDeadline == policy.DeadlineSideBySide && !t.r.Since.IsZero() && t.window(s).Over(wallclock.Now())
}

// window is the time for which running applications may put this revision off.
func (t *task) window(s policy.Settings) policy.Postponement {
	return policy.Postponement{Since: t.r.Since, Max: s.MaxPostponement}
}

// doWait ends when the instance is vacant and nobody has said "not now"; in a
// group, when this is so for all.
func doWait(_ context.Context, t *task) error {
	err := t.vacant()
	if t.group == nil {
		return err
	}
	return t.group.gate(t, err)
}

// vacant returns nil when nothing stands in the way of this instance's refresh.
func (t *task) vacant() error {
	r := &t.r
	s := t.e.Policy().For(r.Instance)
	if err := t.e.Writable(); err != nil {
		t.e.Log.Warn("a refresh waits until the root can be written", messages.Key, messages.ReadOnly, "instance", r.Instance, "root", t.e.Root, "error", err)
		return &busyError{}
	}
	if r.Kind == Update {
		until, err := t.held(wallclock.Now())
		if err != nil {
			return err
		}
		if r.Held = !until.IsZero(); r.Held {
			t.dropPendingMarker()
			return t.leave(&busyError{until: until})
		}
	}
	r.Since = r.clock().Began(r.Since, wallclock.Now())
	r.Deadline = t.window(s).Deadline()
	var again time.Time
	r.Unmet, again = t.unmet(s, s.RefreshRequires, r.Since)
	// If it was busy and something has changed, perhaps by the last exit, only the look
	// under the lock counts, and who waits for the door waits for it. The members of a
	// group look first: their doors are shut together.
	if look := len(r.WaitingFor) == 0 || len(r.Unmet) > 0 || t.group != nil; look && !t.mayReplaceRunning(s) {
		procs, err := t.e.Tracker.Busy(r.Instance)
		if err != nil {
			t.e.Log.Warn("cannot tell what runs, so it counts as running", messages.Key, messages.RunsUnreadable, "instance", r.Instance, "error", err)
			return t.leave(&busyError{until: wallclock.Now().Add(unreadablePause)})
		}
		if len(procs) > 0 {
			return t.postpone(s, procs, again)
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

// unreadablePause is when cgroups that could not be read are read again; no event
// is to be expected from them.
const unreadablePause = 30 * time.Second

// launchPause is when a launch under way is looked at again where the tracker does
// not hear that it lets go of its lock.
const launchPause = time.Second

// postpone prepares for a long wait: policy may keep new launches out, shutdown
// gives the last moment a chance, and the deadline is looked at when it comes; so is
// again, when a condition changes by the clock. With one unmet nobody is kept out: that
// could last for hours.
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
	t.takeLock(fmt.Sprintf("%s waits for its applications to be closed, then takes about %s", t.title(), t.estimate()), offWhileWaiting, false)
	if wallclock.Now().Before(t.r.Deadline) {
		busy.until = earlier(again, t.r.Deadline)
	} else if s.AtDeadline == policy.DeadlineTerminate {
		return t.terminate(busy)
	}
	return busy
}

// keepOut makes new launches wait. With a launch under way it leaves them be: when
// that launch lets go of its lock the refresh looks again.
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

// terminate ends the processes, because the administrator wrote so for this
// package: it keeps new ones out, asks, and after a while kills what is left.
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
		left = time.Second // for what was forked meanwhile; the end of the others wakes us
	}
	busy.until = wallclock.Now().Add(left)
	return busy
}

// undoWait lets launches in again that policy has kept out.
func undoWait(_ context.Context, t *task) error {
	t.releaseLock()
	return t.e.Runctl.ClearInhibited(t.r.Instance)
}

func (t *task) dropPendingMarker() {
	if word, err := t.e.Runctl.Inhibited(t.r.Instance); err == nil && word == runctl.RefreshPending {
		if err := t.e.Runctl.ClearInhibited(t.r.Instance); err != nil {
			t.e.Log.Error("cannot remove a marker", "instance", t.r.Instance, "error", err)
		}
	}
}

// doInhibit makes sure, under the exclusive lock, that nothing runs, and shuts the
// door. A launcher joins its run under the shared lock, so there is no moment in between.
func doInhibit(_ context.Context, t *task) error {
	err := t.shut()
	if err != nil && t.group != nil {
		t.group.leave(t)
	}
	return err
}

func (t *task) shut() error {
	r := &t.r
	s := t.e.Policy().For(r.Instance)
	t.r.EnteredAt = time.Now()
	lock, holders, err := t.e.Runctl.TryWriteLock(r.Instance)
	if problem.Is(err, problem.NotFound) {
		// A boot has taken the lock file, and what is not installed yet has got no other.
		if err = t.e.Runctl.CreateInstance(r.Instance); err == nil {
			lock, holders, err = t.e.Runctl.TryWriteLock(r.Instance)
		}
	}
	if err != nil {
		return err
	}
	if lock == nil {
		// A launch is under way; letting go of the lock wakes us.
		busy := &busyError{processes: launching(r.WaitingFor, runs.Describe(holders))}
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
		if len(procs) > 0 {
			lock.Close()
			return t.postpone(s, procs, time.Time{})
		}
	}
	if !t.fits() {
		return t.leave(&busyError{})
	}
	// Before the marker is there: it is this refresh's, and not a stray one.
	r.WaitingFor = nil
	t.show()
	if err := t.e.Runctl.SetInhibited(r.Instance, runctl.RefreshInProgress); err != nil {
		return err
	}
	if err := faultpoint.Hit("refresh.inhibit.marked"); err != nil {
		return err
	}
	// Taken after the door is shut: its round trip must not widen the gap between the last
	// exit and the marker. A shutdown that slips in between finds the old revision whole.
	estimate := t.estimate()
	t.r.Estimate = estimate
	took := t.takeLock(fmt.Sprintf("Refreshing %s, about %s", t.title(), estimate), offInSection,
		t.e.Policy().Inhibit.Block && t.e.Logind != nil && estimate > t.e.Logind.MaxDelay())
	if !took && len(t.locks) == 0 {
		if err := t.e.Runctl.ClearInhibited(r.Instance); err != nil {
			return err
		}
		return t.leave(&busyError{})
	}
	return nil
}

// launching adds the processes of a launch under way to those that were waited for.
// Whether these still live is seen when the launch is over: until then nobody is told
// that they do not. The agent itself holds the lock for a launch that it places.
func launching(before, holders []runs.Process) []runs.Process {
	list := slices.Clone(before)
	for _, h := range holders {
		if h.PID != os.Getpid() && !slices.ContainsFunc(list, func(p runs.Process) bool { return p.PID == h.PID }) {
			list = append(list, h)
		}
	}
	return list
}

func undoInhibit(_ context.Context, t *task) error {
	t.releaseLock()
	err := t.open()
	if !t.r.Again && t.r.To != 0 {
		// The journal says inhibit also of an agent that died while it copied.
		err = errors.Join(err, t.discardCopy())
	}
	return err
}

func (t *task) title() string {
	if t.r.ToVersion == "" {
		return t.r.Instance
	}
	return t.r.Instance + " " + t.r.ToVersion
}

// doCopy gives the new revision a copy of the old one's system data. The old data is only read.
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
	if err := undoCopy(ctx, t); err != nil { // of an earlier try
		return err
	}
	src := t.e.dataDir(r.Instance, r.DataFrom)
	if _, err := os.Lstat(src); errors.Is(err, fs.ErrNotExist) {
		return nil // made empty by doLink
	}
	stats, err := datacopy.Copy(ctx, src, dst, datacopy.Options{})
	if err != nil {
		return fmt.Errorf("cannot copy the data of %s to revision %d: %w", r.Instance, r.To, err)
	}
	for _, name := range stats.Skipped {
		t.e.Log.Info("not copied, because it is neither file, folder nor link", "instance", r.Instance, "path", name)
	}
	return nil
}

// undoCopy leaves what was copied ahead: another try may follow, and undoPrecopy takes it.
func undoCopy(_ context.Context, t *task) error {
	return os.RemoveAll(t.e.dataDir(t.r.Instance, t.r.To))
}

// doLink is the commit. What stands before the swap can be undone without a trace,
// what stands after it is repeated until it is done.
func doLink(_ context.Context, t *task) error {
	r := &t.r
	if r.Kind == Remove {
		if err := t.e.Exports.Remove(r.Instance); err != nil {
			return err
		}
		return t.e.Links.Drop(r.Instance)
	}
	m, err := t.e.Store.Launch(r.Package)
	if err != nil {
		return err
	}
	if err := t.e.makeDataFolders(r.Instance, r.To, m); err != nil {
		return err
	}
	if err := t.e.Links.Swap(r.Instance, r.To); err != nil {
		return err
	}
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
		return errors.Join(t.e.Links.Drop(r.Instance), t.e.Exports.Remove(r.Instance))
	}
	pkg, err := t.e.Links.Package(r.Instance, r.From)
	if err != nil {
		return err
	}
	m, err := t.e.Store.Launch(pkg)
	if err != nil {
		return err
	}
	if rev, _, err := t.e.Links.Read(r.Instance); err != nil || rev != r.From {
		// After a reboot somebody may have started the new revision before the agent was up.
		if !t.mayReplaceRunning(t.e.Policy().For(r.Instance)) && r.Kind != Remove {
			if procs, err := t.e.Tracker.Busy(r.Instance); err != nil || len(procs) > 0 {
				return errors.Join(fmt.Errorf("cannot go back while %d processes run", len(procs)), err)
			}
		}
		if err := t.e.Links.Swap(r.Instance, r.From); err != nil {
			return err
		}
	}
	return t.e.Exports.Write(r.Instance, m, t.e.Store.PackageDir(pkg))
}

// makeDataFolders makes the folders that LULL_DATA and LULL_COMMON name, for the
// user that the services run as.
func (e *Engine) makeDataFolders(instance string, rev uint32, m *meta.Launch) error {
	if _, err := e.checkData(instance, rev, m.Data.Versioned); err != nil {
		return err
	}
	dirs := []string{filepath.Join(e.Root, "data", instance, "common")}
	if m.Data.Versioned {
		dirs = append(dirs, e.dataDir(instance, rev))
	}
	for _, dir := range dirs {
		if _, err := os.Lstat(dir); err == nil {
			continue
		}
		if err := durable.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := services.Own(dir, m.Services); err != nil {
			return err
		}
	}
	return nil
}

// doUninhibit opens the door.
func doUninhibit(_ context.Context, t *task) error {
	if err := t.open(); err != nil {
		return err
	}
	t.releaseLock()
	return nil
}

// open removes the marker and notes how long it was there, if it was that of a
// critical section.
func (t *task) open() error {
	word, err := t.e.Runctl.Inhibited(t.r.Instance)
	if err != nil {
		return err
	}
	since, err := t.e.Runctl.InhibitedSince(t.r.Instance) // another agent may have shut it
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

// undoUninhibit shuts it again, for what is undone behind it.
func undoUninhibit(_ context.Context, t *task) error {
	return t.e.Runctl.SetInhibited(t.r.Instance, runctl.RefreshInProgress)
}
