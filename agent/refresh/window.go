package refresh

import (
	"time"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/state"
)

// The postponement window belongs to the package, by its hash, and not to one attempt to
// install it. The record of an attempt has it as Since. If an attempt ends without the
// package, keepWindow passes it to the next.

// since returns when the window of the task's package began; zero means that it has not.
func (t *task) since() time.Time {
	if !t.r.Since.IsZero() || t.r.Kind != plan.Update {
		return t.r.Since
	}
	i, err := t.e.State.Instance(t.instance)
	switch {
	case errkind.Is(err, errkind.NotFound):
	case err != nil:
		t.e.Log.Error("cannot read since when a refresh is postponed", "refresh", t.id, "instance", t.instance, "error", err)
	case i.Window != nil && i.Window.Package == t.r.Package:
		return i.Window.Since
	}
	return time.Time{}
}

// keepWindow stores the window of a refresh that has ended without its package.
func (t *task) keepWindow() {
	if t.r.Kind != plan.Update || t.r.End == plan.Done || t.r.Since.IsZero() {
		return
	}
	err := t.e.State.UpdateInstance(t.instance, func(i *state.Instance) error {
		i.Window = &state.Window{Package: t.r.Package, Since: t.r.Since}
		return nil
	})
	if err != nil && !errkind.Is(err, errkind.NotFound) {
		t.e.Log.Error("cannot keep since when a refresh is postponed", "refresh", t.id, "instance", t.instance, "error", err)
	}
}
