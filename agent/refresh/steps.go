package refresh

import (
	"context"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/services"
	"github.com/lull/lull/policy"
)

// action is one direction of a step. It may change t.r and must be safe to repeat.
type action func(ctx context.Context, t *task) error

// steps has Do and Undo of each step beside each other; nil means nothing to do.
var steps = map[plan.Step]struct{ do, undo action }{
	plan.Resolve:       {doResolve, undoResolve},
	plan.Fetch:         {doFetch, nil},
	plan.Stage:         {doStage, nil},
	plan.Precopy:       {doPrecopy, undoPrecopy},
	plan.Wait:          {doWait, undoWait},
	plan.Inhibit:       {doInhibit, undoInhibit},
	plan.Gather:        {doGather, nil},
	plan.StopServices:  {doStopServices, undoStopServices},
	plan.Copy:          {doCopy, undoCopy},
	plan.Link:          {doLink, undoLink},
	plan.StartServices: {doStartServices, undoStartServices},
	plan.Health:        {doHealth, nil},
	plan.Commit:        {doCommit, nil},
	plan.Uninhibit:     {doUninhibit, undoUninhibit},
	plan.Finish:        {doFinish, nil},
}

// units returns the services of a package that the agent's own manager runs, in their order.
// The zero package has none.
func (e *Engine) units(instance string, pkg digest.Digest) ([]services.Unit, error) {
	if pkg.IsZero() {
		return nil, nil
	}
	m, err := e.Store.Launch(pkg)
	if err != nil {
		return nil, err
	}
	var list []services.Unit
	for _, s := range m.Services {
		if !e.ofSession(s) {
			list = append(list, services.Unit{Instance: instance, Service: s})
		}
	}
	return list, nil
}

// packageOf returns the package of a revision; zero for revision 0.
func (e *Engine) packageOf(instance string, rev uint32) (digest.Digest, error) {
	if rev == 0 {
		return digest.Digest{}, nil
	}
	return e.Links.Package(instance, rev)
}

func (t *task) oldUnits() ([]services.Unit, error) {
	pkg, err := t.e.packageOf(t.r.Instance, t.r.From)
	if err != nil {
		return nil, err
	}
	return t.e.units(t.r.Instance, pkg)
}

// settings returns the policy for this refresh, given the wishes of the package whose
// processes are waited for.
func (t *task) settings() policy.Settings { return t.e.Policy().With(t.instance, t.r.Wishes) }

// window returns how long running applications may postpone this revision.
func (t *task) window(s policy.Settings) policy.Postponement {
	return policy.Postponement{Since: t.r.Since, Max: s.MaxPostponement}
}

func (t *task) title() string {
	if t.r.ToVersion == "" {
		return t.r.Instance
	}
	return t.r.Instance + " " + t.r.ToVersion
}
