package refresh

import (
	"context"

	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/lib/runctl"
	"github.com/lull/lull/agent/refresh/plan"
)

// Prepared lists, before Resume, the refreshes in the journal whose long steps are done, so
// that a boot may wait for them.
func (e *Engine) Prepared() (ids []string, err error) {
	records, err := e.unfinished()
	for _, r := range records {
		ids = append(ids, r.ID)
	}
	return ids, err
}

// ShutDoors inhibits launches where a refresh was interrupted after its commit. The current
// revision there has not yet shown that it works, and after a reboot only the journal records
// that. It must come before the lock files, without which no launch proceeds.
func (e *Engine) ShutDoors() error {
	records, err := e.journal()
	if err != nil {
		return err
	}
	for _, r := range records {
		if !e.linked(&r) {
			continue
		}
		word, err := e.Runctl.Inhibited(r.Instance)
		if err == nil && word == "" {
			err = e.Runctl.SetInhibited(r.Instance, runctl.RefreshInProgress)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// unfinished returns the prepared refreshes of the journal.
func (e *Engine) unfinished() (list []plan.Refresh, err error) {
	records, err := e.journal()
	for _, r := range records {
		if r.Stuck != nil {
			continue // it waits for a person
		}
		if r.Undo || r.Step == plan.Wait || r.Step.InSection() {
			list = append(list, r)
		}
	}
	return list, err
}

// startDue starts the services of the old revision after a start of the agent, unless they
// are left to the critical section. A refresh that can be applied at once, as usual at boot,
// comes first: its services are started once, in the new revision.
func (t *task) startDue(ctx context.Context) {
	if !t.due || ctx.Err() != nil {
		return
	}
	t.due = false
	units, err := t.oldUnits()
	if err != nil {
		t.e.Log.Error("cannot read which services there are", "instance", t.instance, "error", err)
	}
	t.tell(SessionUndo)
	for _, u := range units {
		if err := t.e.Services.Start(ctx, u); err != nil {
			t.e.Log.Error("cannot start a service", messages.Key, messages.ServiceFailed, "instance", t.instance, "service", u.Service.Name, "error", err)
		}
	}
}
