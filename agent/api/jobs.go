package api

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/authz"
	"github.com/lull/lull/agent/lib/accounts"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/store/index"
	"github.com/lull/lull/agent/store/leases"
	"github.com/lull/lull/agent/store/resolve"
	bus "github.com/lull/lull/dbus"
)

// jobs are the objects below job/: long work that goes on after the reply.
type jobs struct {
	mu      sync.Mutex // guards what follows
	next    int
	running map[uint32]int // by accounts.Of
	ended   []*busJob      // the oldest first
	list    map[string]*busJob
}

// busJob is one of them.
type busJob struct {
	s      *Service
	id     string
	owner  string // unique name on the bus
	uid    uint32
	of     uint32 // the user whose bounds it counts for
	action string // polkit's, which may start and cancel it
	export *bus.JobExport
	cancel context.CancelFunc
	expire *time.Timer // set once it has ended; guarded by jobs.mu

	mu    sync.Mutex // guards what follows
	shown time.Time  // when the progress was shown last
	fetch int64      // of that
	gone  bool       // the caller has left the bus: there will be no Take
	found *resolved  // until it is taken
	stop  func()     // ends the watch for the caller; nil without one
}

// resolved is the result of Manager.StartResolve.
type resolved struct {
	dir    *os.File
	lease  *index.Lease
	slot   *leases.Slot
	holder string
}

// drop gives up what was not taken.
func (r *resolved) drop() {
	if r != nil {
		r.dir.Close()
		r.lease.Close()
		r.slot.Cancel()
	}
}

const (
	// maxJobs is how many jobs of one user may run, as many as calls may.
	maxJobs = 32
	// rootFactor is how many times as many root may have, as for calls.
	rootFactor = 16
	// maxEndedJobs is how many objects of ended jobs are kept, and keepJob for how long.
	maxEndedJobs = 64
	keepJob      = 10 * time.Minute
	// jobProgressEvery is how often the progress is shown at most.
	jobProgressEvery = 200 * time.Millisecond
)

// jobWork does the work of a job. It returns what set shows as its result, which may be
// nil, also with an error.
type jobWork func(ctx context.Context, j *busJob) (set func(*bus.JobProperties), err error)

// startJob exports a job and starts its work, which ends with the service at the latest.
// Prepare, which may be nil, is called before the work starts; its error is returned.
func (s *Service) startJob(c bus.Caller, action, kind, subject string, prepare func(*busJob) error, work jobWork) (dbus.ObjectPath, error) {
	uid, err := c.UID()
	if err != nil {
		return noPath, err
	}
	most := maxJobs
	if uid == 0 {
		most *= rootFactor
	}
	x, of := &s.jobs, accounts.Of(uid)
	x.mu.Lock()
	if x.running[of] >= most {
		x.mu.Unlock()
		return noPath, errkind.New(errkind.LimitsExceeded, "cannot start a job: %d jobs of user %s run", most, accounts.Name(of))
	}
	x.running[of]++
	x.next++
	id := strconv.Itoa(x.next)
	x.mu.Unlock()

	ctx, cancel := context.WithCancel(s.ctx)
	j := &busJob{s: s, id: id, owner: c.Sender, uid: uid, of: of, action: action, cancel: cancel}
	j.export = bus.ExportJob(j, bus.JobProperties{ID: id, Kind: kind, Subject: subject, User: uid, Started: micro(time.Now()), State: "running"})
	if prepare != nil {
		err = prepare(j)
	}
	if err == nil {
		err = s.server.Export(bus.JobPath(id), j.export)
	}
	x.mu.Lock()
	if err != nil {
		x.endedLocked(of)
	} else {
		x.list[id] = j
	}
	x.mu.Unlock()
	if err != nil {
		j.abandon()
		return noPath, err
	}
	s.wg.Go(func() {
		defer cancel()
		j.run(ctx, work)
	})
	return bus.JobPath(id), nil
}

// endedLocked counts one job of a user less.
func (x *jobs) endedLocked(of uint32) {
	if x.running[of]--; x.running[of] == 0 {
		delete(x.running, of)
	}
}

// run does the work and shows its end.
func (j *busJob) run(ctx context.Context, work jobWork) {
	set, err := work(ctx, j)
	x := &j.s.jobs
	x.mu.Lock()
	x.endedLocked(j.of) // first: a client that sees the end may start the next
	x.mu.Unlock()
	j.export.Update(func(p *bus.JobProperties) {
		if set != nil {
			set(p)
		}
		switch {
		case err == nil:
			p.State = "done"
		case ctx.Err() != nil:
			p.State = "cancelled"
		default:
			p.State = "failed"
		}
		if err != nil {
			p.ErrorName, p.ErrorText, p.ErrorHint = errkind.Prefix+string(errkind.KindOf(err)), err.Error(), errkind.HintOf(err)
		}
	})
	x.mu.Lock()
	x.ended = append(x.ended, j)
	j.expire = time.AfterFunc(keepJob, j.remove)
	var oldest *busJob
	if len(x.ended) > maxEndedJobs {
		oldest = x.ended[0]
	}
	x.mu.Unlock()
	if oldest != nil {
		oldest.remove()
	}
}

// remove takes the object of an ended job away.
func (j *busJob) remove() {
	x := &j.s.jobs
	x.mu.Lock()
	known := x.list[j.id] == j
	delete(x.list, j.id)
	for i, e := range x.ended {
		if e == j {
			x.ended = append(x.ended[:i:i], x.ended[i+1:]...)
			break
		}
	}
	j.expire.Stop()
	x.mu.Unlock()
	if !known {
		return
	}
	j.abandon()
	if err := j.s.server.Unexport(bus.JobPath(j.id)); err != nil {
		j.s.log.Warn("cannot remove the object of a job", "job", j.id, "error", err)
	}
}

// close forgets all jobs when the service has ended, and gives up their results.
func (x *jobs) close() {
	x.mu.Lock()
	list := slices.Collect(maps.Values(x.list))
	for _, j := range list {
		if j.expire != nil {
			j.expire.Stop()
		}
	}
	clear(x.list)
	x.mu.Unlock()
	for _, j := range list {
		j.abandon()
	}
}

// abandon cancels the work and gives up a result that was not taken.
func (j *busJob) abandon() {
	j.mu.Lock()
	found, stop := j.found, j.stop
	j.gone, j.found, j.stop = true, nil, nil
	j.mu.Unlock()
	j.cancel()
	found.drop()
	if stop != nil {
		stop()
	}
}

// endWithCaller abandons the job when its caller leaves the bus.
func (j *busJob) endWithCaller() error {
	stop, err := j.s.names.Watch(j.s.ctx, j.owner, func(owner string) {
		if owner == "" {
			j.s.wg.Go(j.abandon) // a watch cannot end itself
		}
	})
	if err != nil {
		return err
	}
	j.mu.Lock()
	gone := j.gone
	if !gone {
		j.stop = stop
	}
	j.mu.Unlock()
	if gone {
		stop()
	}
	return nil
}

// progress shows how far the work is, not too often. Any goroutine may call it.
func (j *busJob) progress(done, total int64) { j.resolving(resolve.Progress{Done: done, Total: total}) }

// resolving is progress of a job that fetches a package. The sizes are shown at once.
func (j *busJob) resolving(at resolve.Progress) {
	j.mu.Lock()
	now := time.Now()
	due := at.Done == at.Total || at.Fetch != j.fetch || now.Sub(j.shown) >= jobProgressEvery
	if due {
		j.shown, j.fetch = now, at.Fetch
	}
	j.mu.Unlock()
	if due {
		j.export.Update(func(p *bus.JobProperties) {
			if p.State == "running" {
				p.BytesDone, p.BytesTotal = uint64(max(at.Done, 0)), uint64(max(at.Total, 0))
				p.BytesToFetch, p.BytesToWrite, p.Speed = uint64(max(at.Fetch, 0)), uint64(max(at.Write, 0)), uint64(max(at.Speed, 0))
			}
		})
	}
}

// Cancel implements bus.Job.
func (j *busJob) Cancel(c bus.Caller) error {
	uid, err := c.UID()
	if err == nil && uid != j.uid {
		err = j.s.auth.Check(c, j.action)
	}
	if err == nil {
		j.cancel()
	}
	return err
}

// Take implements bus.Job.
func (j *busJob) Take(c bus.Caller) (dir, end *os.File, err error) {
	if c.Sender != j.owner {
		return nil, nil, errkind.New(errkind.NotPermitted, "cannot take the result of job %s: it belongs to another connection", j.id)
	}
	cred, err := c.Credentials()
	if err != nil {
		return nil, nil, err
	}
	p := j.export.Values()
	switch {
	case p.Kind != "resolve":
		return nil, nil, errkind.New(errkind.NotFound, "cannot take the result of job %s: a job of the kind %s has none", j.id, p.Kind)
	case p.State == "running":
		return nil, nil, errkind.New(errkind.Busy, "cannot take the result of job %s: it still runs", j.id)
	case p.State != "done":
		kind, _ := strings.CutPrefix(p.ErrorName, errkind.Prefix)
		return nil, nil, &errkind.Error{Kind: errkind.Kind(kind), Text: p.ErrorText, Hint: p.ErrorHint}
	}
	j.mu.Lock()
	r := j.found
	j.found = nil
	j.mu.Unlock()
	if r == nil {
		return nil, nil, errkind.New(errkind.NotFound, "cannot take the result of job %s: it was taken", j.id)
	}
	if end, err = r.slot.Grant(r.lease, r.holder, cred.PID); err != nil {
		r.dir.Close()
		return nil, nil, err
	}
	return j.s.asSeenBy(cred.PID, r.dir), end, nil
}

// StartResolve implements bus.Manager.
func (o managerObject) StartResolve(c bus.Caller, name string, opt bus.ResolveOptions) (dbus.ObjectPath, error) {
	s := o.s
	if err := s.auth.Check(c, authz.Resolve); err != nil {
		return noPath, err
	}
	cred, err := c.Credentials()
	if err != nil {
		return noPath, err
	}
	slot, err := s.m.Leases().Reserve(cred.UID, s.auth.Administrator(cred.UID))
	if err != nil {
		return noPath, err
	}
	path, err := s.startJob(c, authz.Resolve, "resolve", name, (*busJob).endWithCaller, func(ctx context.Context, j *busJob) (func(*bus.JobProperties), error) {
		holder := fmt.Sprintf("ephemeral run of %s, user %s", name, accounts.Name(cred.UID))
		got, err := s.m.Opener().Resolve(ctx, name, opt.Repository, opt.Channel, holder, cred.PID, j.resolving)
		if err != nil {
			slot.Cancel()
			return nil, err
		}
		r := &resolved{got.Dir, got.Lease, slot, holder}
		hash, warning := got.Lease.Package().String(), ""
		if got.Offline != nil {
			warning = got.Offline.Error()
		}
		j.mu.Lock()
		gone := j.gone
		if !gone {
			j.found = r
		}
		j.mu.Unlock()
		if gone {
			r.drop()
			return nil, errkind.New(errkind.Interrupted, "cannot fetch %s: the caller has left the bus", name)
		}
		return func(p *bus.JobProperties) { p.Hash, p.Version, p.Warning = hash, got.Version, warning }, nil
	})
	if err != nil {
		slot.Cancel()
	}
	return path, err
}

// StartCollect implements bus.Space.
func (o spaceObject) StartCollect(c bus.Caller, opt bus.CollectOptions) (dbus.ObjectPath, error) {
	if err := o.mayCollect(c, opt); err != nil {
		return noPath, err
	}
	return o.s.startJob(c, authz.GC, "collect", "", nil, func(ctx context.Context, _ *busJob) (func(*bus.JobProperties), error) {
		blobs, packages, bytes, err := o.collect(ctx, opt)
		return func(p *bus.JobProperties) { p.FreedBlobs, p.FreedPackages, p.FreedBytes = blobs, packages, bytes }, err
	})
}

// StartVerify implements bus.Space.
func (o spaceObject) StartVerify(c bus.Caller, opt bus.VerifyOptions) (dbus.ObjectPath, error) {
	if err := o.s.auth.Check(c, authz.GC); err != nil {
		return noPath, err
	}
	kind := "verify"
	if opt.Repair {
		kind = "repair"
	}
	return o.s.startJob(c, authz.GC, kind, "", nil, func(ctx context.Context, j *busJob) (func(*bus.JobProperties), error) {
		checked, findings, err := o.verify(ctx, opt, j.progress)
		return func(p *bus.JobProperties) { p.Checked, p.Findings = checked, findings }, err
	})
}

// StartResolve implements bus.Retained.
func (o retainedObject) StartResolve(c bus.Caller, pkg string, opt bus.RetainedResolveOptions) (dbus.ObjectPath, error) {
	d, err := o.mayResolve(c, pkg)
	if err != nil {
		return noPath, err
	}
	return o.s.startJob(c, authz.SystemUpdate, "resolve-retained", pkg, nil, func(ctx context.Context, j *busJob) (func(*bus.JobProperties), error) {
		return nil, o.s.m.Updater().Resolve(ctx, d, opt.Repository, j.resolving)
	})
}

// StartCommit implements bus.System.
func (o systemObject) StartCommit(c bus.Caller) (dbus.ObjectPath, error) {
	if err := o.s.auth.Check(c, authz.SystemUpdate); err != nil {
		return noPath, err
	}
	return o.s.startJob(c, authz.SystemUpdate, "commit", "", nil, func(ctx context.Context, _ *busJob) (func(*bus.JobProperties), error) {
		err := o.s.m.Updater().Commit(ctx)
		o.s.updateSystem() // before the end of the job shows
		return nil, err
	})
}
