package refresh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/lib/runctl"
	"github.com/lull/lull/agent/lib/wallclock"
	"github.com/lull/lull/agent/refresh/plan"
)

// release runs once for a stuck refresh, and after each restart: it allows launches and
// services of the old revision. If that cannot be made current, launches keep waiting, and
// release is repeated.
func (t *task) release(ctx context.Context) {
	t.releaseLock()
	t.unseal()
	err := t.allowOld(ctx)
	t.r.Barred = err != nil
	if err != nil {
		t.setAlarm(wallclock.Now().Add(lastRetry))
	} else {
		t.setAlarm(time.Time{})
	}
	t.e.Log.Error(fmt.Sprintf("%s of %s: stuck", t.r.Kind, t.instance), messages.Key, messages.RefreshStuck, "refresh", t.id, "instance", t.instance,
		"kind", t.r.Kind, "step", t.r.Step, "error", t.r.Stuck.Text, "launches-wait", err)
	t.show()
	t.e.Changed(t.snapshot())
}

// allowOld makes the old revision current if it is not, starts its services, and allows
// launches. Only the first must succeed: a failing service or export keeps no application
// from being started.
func (t *task) allowOld(ctx context.Context) error {
	r := &t.r
	if err := t.goBack(ctx); err != nil {
		return err
	}
	if r.From != 0 {
		warn := func(what string, err error) {
			if err != nil {
				t.e.Log.Error(what, messages.Key, messages.ServiceFailed, "refresh", t.id, "instance", t.instance, "error", err)
			}
		}
		warn("cannot export an application", t.writeOldExports())
		warn("cannot allow services to start", t.e.Runctl.SetInhibited(r.Instance, runctl.RefreshStarting))
		t.tell(SessionUndo)
		units, err := t.oldUnits()
		warn("cannot read which services there are", err)
		for _, u := range units {
			warn("cannot start a service", t.e.Services.Start(ctx, u))
		}
	}
	return t.allowLaunches()
}

// goBack restores the link from before the refresh, while no process may use the link.
func (t *task) goBack(ctx context.Context) error {
	r := &t.r
	rev, _, err := t.e.Links.Read(r.Instance)
	switch {
	case r.From == 0 && errkind.Is(err, errkind.NotFound), err == nil && rev == r.From:
		return nil
	case r.From == 0:
		return t.e.drop(r.Instance)
	}
	if r.Kind != plan.Remove {
		if !t.mayReplaceRunning(t.settings()) {
			procs, err := t.e.Running(r.Instance)
			if err != nil || len(procs) > 0 {
				return errors.Join(fmt.Errorf("cannot go back while %d processes run", len(procs)), err)
			}
		}
		units, err := t.e.units(r.Instance, r.Package)
		if err != nil {
			return err
		}
		for _, u := range slices.Backward(units) {
			if err := t.e.Services.Stop(ctx, u); err != nil {
				// The service goes on as it is: the application is more important.
				t.e.Log.Error("cannot stop a service", messages.Key, messages.ServiceFailed, "instance", r.Instance, "service", u.Service.Name, "error", err)
			}
		}
	}
	return t.linkOld()
}

// linkOld makes the previous revision current.
func (t *task) linkOld() error {
	pkg, err := t.e.Links.Package(t.r.Instance, t.r.From)
	if err != nil {
		return err
	}
	if err := t.e.tie(t.r.Instance, pkg); err != nil {
		return err
	}
	return t.e.swap(t.r.Instance, t.r.From)
}

// writeOldExports exports the previous revision.
func (t *task) writeOldExports() error {
	pkg, err := t.e.Links.Package(t.r.Instance, t.r.From)
	if err != nil {
		return err
	}
	m, err := t.e.Store.Launch(pkg)
	if err != nil {
		return err
	}
	return t.e.Exports.Write(t.r.Instance, m, t.e.Store.PackageDir(pkg))
}

// undoFailed returns an error about what could not be undone, and what to do about it.
func (t *task) undoFailed(err error) error {
	text := err.Error()
	if cause, ok := strings.CutPrefix(text, "cannot "); ok {
		text = errkind.SameSentence("could not "+cause, text)
	}
	failed := errkind.New(errkind.KindOf(err), "cannot undo the %s of %s: %s", t.r.Kind, t.instance, text).
		WithHint("lull refresh --retry %s undoes it when the cause has gone", t.instance)
	failed.Err = err
	return failed
}
