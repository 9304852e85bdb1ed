package refresh

import (
	"context"
	"errors"
	"time"

	"github.com/lull/lull/agent/lib/copytree"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/refresh/estimate"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/services"
	"github.com/lull/lull/agent/state"
)

// partOf returns the name under which the duration of a step without its hooks is kept; hooks
// have their own names.
func partOf(s plan.Step) string { return "step:" + string(s) }

// aheadShare is the share of the precopy's duration that is expected for copying later
// changes, if neither their amount nor an earlier copy is known.
const aheadShare = 4

// difference is the amount of data that was found to have changed since the precopy.
type difference struct {
	estimate.Copy           // Took is how long the comparison took
	at            time.Time // zero if unknown
}

const (
	// compareTime bounds a comparison: the application may have ended just before, and
	// launches are not inhibited yet. The part that it does not reach is assumed to have
	// changed as much as the rest.
	compareTime = 100 * time.Millisecond
	// compareRest times the duration of a comparison is how long its result is valid: many
	// attempts in a row do not keep the disk busy.
	compareRest = 20
)

// compare determines how much of the system data has changed since the precopy. It is called
// before launches are inhibited, so that no launch waits for it. A directory that cannot be
// compared is left to the copy, which reports it.
func (t *task) compare(ctx context.Context) {
	r := &t.r
	if r.Kind != plan.Update || r.DataFrom == 0 || r.Ahead == 0 {
		return
	}
	if age := time.Since(t.diff.at); !t.diff.at.IsZero() && age < compareRest*t.diff.Took && !t.diff.at.Before(t.e.down()) {
		return
	}
	began := time.Now()
	short, cancel := context.WithTimeout(ctx, compareTime)
	defer cancel()
	d, err := copytree.Compare(short, t.e.dataDir(r.Instance, r.DataFrom), t.e.dataDir(r.Instance, r.To), copytree.Options{})
	t.diff = difference{estimate.Copy{Files: d.Files, Bytes: d.Bytes, Took: time.Since(began)}, time.Now()}
	switch {
	case err == nil:
	case ctx.Err() == nil && short.Err() != nil && d.Looked > 0:
		all := max(float64(r.AheadAll)/float64(d.Looked), 1)
		t.diff.Files, t.diff.Bytes = int64(all*float64(d.Files)), int64(all*float64(d.Bytes))
		t.diff.Took = time.Duration(all * float64(t.diff.Took))
	default:
		t.e.Log.Debug("cannot compare the system data with its copy", "instance", r.Instance, "error", err)
		t.diff = difference{}
	}
	r.ToCopy = t.diff.Bytes
}

// dataPart returns the part of the section that copies the data.
func (t *task) dataPart(i state.Instance) estimate.Part {
	last := estimate.Copy{Files: i.Copied.Files, Bytes: i.Copied.Bytes, Took: i.Took[partOf(plan.Copy)]}
	if t.diff.at.IsZero() {
		return estimate.Part{Last: last.Took, Limit: t.r.Ahead / aheadShare}
	}
	return estimate.Data(t.diff.Copy, last, estimate.Copy{Files: t.r.AheadFiles, Bytes: t.r.AheadBytes, Took: t.r.Ahead})
}

// estimate returns how long the critical section may last. It counts the hooks to run, the
// services to stop and start, and the data to copy: each with its last duration, or else with
// its limit. Of the data only the changes count: see compare.
func (t *task) estimate() time.Duration {
	r := &t.r
	i, err := t.e.State.Instance(r.Instance)
	if err != nil {
		i = state.Instance{} // nothing is known of it
	}
	last := i.Took
	limit := t.e.Policy().For(r.Instance).HookTimeLimit
	var parts []estimate.Part
	hook := func(pkg digest.Digest, name string) {
		if pkg.IsZero() {
			return
		}
		// A package that cannot be read fails before its hook runs.
		if l, err := t.e.Store.Launch(pkg); err == nil && len(l.Hooks[name]) > 0 {
			parts = append(parts, estimate.Part{Last: last[name], Limit: limit, Hard: true})
		}
	}
	units, _ := t.oldUnits()
	list, _, _ := t.oldSessionServices()
	if units = append(units, t.unitsOf(list)...); len(units) > 0 {
		// Most services stop long before their limit.
		parts = append(parts, estimate.Part{Last: last[partOf(plan.StopServices)], Limit: services.StopBudget(units) / 4})
	}
	if r.Kind == plan.Update {
		if old, err := t.e.packageOf(r.Instance, r.From); err == nil {
			hook(old, manifest.HookPreRefresh)
		}
		parts = append(parts, t.dataPart(i))
		hook(r.Package, manifest.HookPostRefresh)
	}
	if r.Kind != plan.Remove {
		if fresh, err := t.e.units(r.Instance, r.Package); err == nil && len(fresh) > 0 {
			parts = append(parts, estimate.Part{Last: last[partOf(plan.StartServices)] + last[partOf(plan.Health)], Limit: settleTime})
		}
		hook(r.Package, manifest.HookHealth)
	}
	return estimate.Section(parts...)
}

// timed records how long a step of the critical section took, without its hooks.
func (t *task) timed(s plan.Step, act action) action {
	switch s {
	case plan.StopServices, plan.Copy, plan.StartServices, plan.Health:
	default:
		return act
	}
	return func(ctx context.Context, t *task) error {
		began, before := time.Now(), t.hooksTook
		err := act(ctx, t)
		if err == nil {
			t.note(partOf(s), time.Since(began)-(t.hooksTook-before))
		}
		return err
	}
}

// runHook runs a hook and records its duration, also if it ran out of time.
func (t *task) runHook(ctx context.Context, pkg digest.Digest, rev uint32, hook string) error {
	began := time.Now()
	err := t.e.runHook(ctx, &t.r, pkg, rev, hook)
	took := time.Since(began)
	t.hooksTook += took
	if l, lerr := t.e.Store.Launch(pkg); lerr == nil && len(l.Hooks[hook]) > 0 && !errors.Is(err, context.Canceled) {
		t.note(hook, took)
	}
	return err
}

func (t *task) note(part string, took time.Duration) {
	if t.took == nil {
		t.took = map[string]time.Duration{}
	}
	t.took[part] = took
}
