package api

import (
	"slices"
	"sync"

	"github.com/lull/lull/agent/authz"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/offers"
	bus "github.com/lull/lull/dbus"
)

// RefreshEach implements bus.Manager. The instances are checked concurrently;
// one reading of a repository serves all instances from it.
func (o managerObject) RefreshEach(c bus.Caller, instances []string, opt bus.RefreshEachOptions) ([]bus.RefreshResult, error) {
	if err := o.s.auth.Check(c, authz.Refresh); err != nil {
		return nil, err
	}
	if opt.Now { // what a rollout leaves out is for others to decide
		if err := o.s.auth.Check(c, authz.Install); err != nil {
			return nil, err
		}
	}
	if len(instances) == 0 {
		names, err := o.s.m.Reports().Packages()
		if err != nil {
			return nil, err
		}
		instances = names
	}
	instances = slices.Compact(slices.Sorted(slices.Values(instances)))
	results := make([]bus.RefreshResult, len(instances))
	var wg sync.WaitGroup
	for i, name := range instances {
		wg.Go(func() {
			v := &results[i]
			v.Instance = name
			list, err := o.s.m.Requests().Check(o.s.ctx, []string{name}, offers.Mode{Asked: true, Now: opt.Now})
			for _, r := range list {
				v.Refresh = o.s.objects.ensure(r)
				if err == nil {
					err = o.s.postponed(r)
				}
			}
			if err != nil {
				v.ErrorName, v.Error, v.Hint = errkind.Prefix+string(errkind.KindOf(err)), err.Error(), errkind.HintOf(err)
			}
		})
	}
	wg.Wait()
	return results, nil
}
