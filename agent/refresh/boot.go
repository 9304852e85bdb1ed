package refresh

import "github.com/lull/lull/agent/runctl"

// Prepared lists, before Resume, the refreshes in the journal that are past all that
// takes long, so that a boot may wait for them.
func (e *Engine) Prepared() (ids []string, err error) {
	records, err := e.unfinished()
	for _, r := range records {
		ids = append(ids, r.ID)
	}
	return ids, err
}

// ShutDoors has launches wait where a refresh was interrupted after its commit: what is
// current there has not yet shown that it works, and after a reboot only the journal
// knows. It must come before the lock files, without which no launch goes on.
func (e *Engine) ShutDoors() error {
	records, err := e.unfinished()
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

// unfinished are the prepared refreshes of the journal.
func (e *Engine) unfinished() (list []Refresh, err error) {
	records, err := e.journal()
	for _, r := range records {
		if r.Undo || r.Step == Wait || critical(r.Step) {
			list = append(list, r)
		}
	}
	return list, err
}
