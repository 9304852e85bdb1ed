package reports

import (
	"slices"
	"time"

	"github.com/lull/lull/agent/refresh/plan"
)

// History lists the refreshes that have ended since a time, of one instance or, with "",
// of all, the oldest first.
func (rs *Reports) History(instance string, since time.Time) ([]plan.Refresh, error) {
	list, err := rs.Engine.History(since)
	return slices.DeleteFunc(list, func(r plan.Refresh) bool { return instance != "" && r.Instance != instance }), err
}

// Undo returns for each refresh of a list, the oldest first, the operation that reverses it:
// revert (to revision From), install or remove. "" means that none does, or that a younger
// change of the same instance must be reversed first. The list has all refreshes of an
// instance.
func (rs *Reports) Undo(list []plan.Refresh) []string {
	undo := make([]string, len(list))
	changed := map[string]bool{} // instances with a younger change that is in effect
	for i := len(list) - 1; i >= 0; i-- {
		if r := list[i]; r.End == plan.Done {
			if !changed[r.Instance] {
				undo[i] = rs.undo(r)
			}
			changed[r.Instance] = true
		}
	}
	return undo
}

// undo returns the operation that reverses the youngest change of an instance that is in
// effect.
func (rs *Reports) undo(r plan.Refresh) string {
	p, err := rs.Package(r.Instance)
	installed := err == nil
	switch r.Kind {
	case plan.Install:
		if installed {
			return "remove"
		}
	case plan.Remove:
		if !installed && r.Repository != "" {
			return "install"
		}
	case plan.Update, plan.Revert:
		if !installed || p.Current.Number != r.To {
			return ""
		}
		// The revision may have been collected since.
		if _, kept := p.Revision(r.From); kept {
			return "revert"
		}
	}
	return ""
}
