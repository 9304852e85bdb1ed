package repair

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/messages"
)

// FetchMissing fetches current packages that are not resident. Without a network they stay
// missing until the store is repaired.
func (p *Repairer) FetchMissing(ctx context.Context) {
	names, err := p.Links.Instances()
	if err != nil {
		p.Log.Error("cannot list what is installed", "error", err)
	}
	for _, name := range names {
		if _, pkg, err := p.Links.Read(name); err != nil || p.Store.HasPackage(pkg) || ctx.Err() != nil {
			continue
		}
		if err := p.repairInstance(ctx, name); err != nil {
			p.Log.Error("what is current is not resident and cannot be fetched", messages.Key, messages.NotMended, "instance", name, "error", err)
		}
	}
}

// repairInstance repairs the links, the package and the data of an instance.
func (p *Repairer) repairInstance(ctx context.Context, name string) error {
	if _, err := p.Engine.Repair(name); err != nil {
		return err
	}
	_, pkg, err := p.Links.Read(name)
	if errkind.Is(err, errkind.NotFound) {
		return nil // nothing of it is current
	}
	if err != nil {
		return err
	}
	if _, err := p.Store.Launch(pkg); err != nil {
		p.Log.Warn("fetching a package that was lost", messages.Key, messages.Mended, "instance", name, "package", pkg.Short())
		if err := p.RepairPackage(ctx, pkg); err != nil {
			return err
		}
	}
	if err := p.Engine.Refurnish(name); err != nil {
		return err
	}
	p.Changed(name)
	return p.Engine.CheckInstance(name)
}

// verifyInstances checks the links and data, which the store does not know.
func (p *Repairer) verifyInstances(ctx context.Context, repair bool) (list []Finding, err error) {
	names, err := p.Links.Instances()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if _, busy := p.Engine.Of(name); busy {
			continue // a refresh handles its own instance
		}
		wrong := p.Engine.CheckInstance(name)
		if wrong == nil {
			continue
		}
		f := Finding{}
		f.What, f.Problem = filepath.Join("current", name), wrong.Error()
		if repair {
			rerr := errors.Join(p.Engine.MoveDataAside(name), p.repairInstance(ctx, name))
			if f.Repaired = rerr == nil; !f.Repaired {
				err = errors.Join(err, fmt.Errorf("cannot repair %s: %w", name, rerr))
			}
		}
		list = append(list, f)
	}
	return list, err
}
