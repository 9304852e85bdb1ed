package api

import (
	"context"
	"slices"

	"github.com/lull/lull/agent/authz"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/store/gc"
	"github.com/lull/lull/agent/store/index"
	bus "github.com/lull/lull/dbus"
)

// spaceObject implements bus.Space.
type spaceObject struct{ s *Service }

func (o spaceObject) Plan(bus.Caller) ([]bus.PlannedBlob, []bus.PackageUsage, uint64, error) {
	plan, err := o.s.planning.Do(func() (*gc.Plan, error) { return o.s.m.Space().Plan(o.s.ctx) })
	if err != nil {
		return nil, nil, 0, err
	}
	blobs, packages := []bus.PlannedBlob{}, []bus.PackageUsage{}
	for _, v := range plan.Blobs {
		blobs = append(blobs, bus.PlannedBlob{Hash: v.Key.String(), Bytes: uint64(v.Size)})
	}
	for _, u := range plan.Packages {
		packages = append(packages, bus.PackageUsage{Hash: u.Package.String(), Name: u.Name, Version: u.Version,
			Exclusive: uint64(u.Exclusive), Shared: uint64(u.Shared), KeptBy: u.KeptBy})
	}
	return blobs, packages, uint64(plan.Bytes), nil
}

func (o spaceObject) Collect(c bus.Caller, opt bus.CollectOptions) (uint32, uint32, uint64, error) {
	if err := o.mayCollect(c, opt); err != nil {
		return 0, 0, 0, err
	}
	return o.collect(o.s.ctx, opt)
}

func (o spaceObject) mayCollect(c bus.Caller, opt bus.CollectOptions) error {
	err := o.s.auth.Check(c, authz.GC)
	if err == nil && opt.RetainNothing {
		err = o.s.auth.Check(c, authz.SystemUpdate)
	}
	return err
}

func (o spaceObject) collect(ctx context.Context, opt bus.CollectOptions) (blobs, packages uint32, bytes uint64, err error) {
	if opt.RetainNothing {
		if err := o.s.m.Updater().RetainNothing(); err != nil {
			return 0, 0, 0, err
		}
	}
	r, err := o.s.m.Space().Collect(ctx, int64(min(opt.Free, 1<<62)))
	return uint32(r.Blobs), uint32(r.Packages), uint64(r.Bytes), err
}

func (o spaceObject) Verify(c bus.Caller, opt bus.VerifyOptions) (uint32, []bus.Finding, error) {
	if err := o.s.auth.Check(c, authz.GC); err != nil {
		return 0, nil, err
	}
	return o.verify(o.s.ctx, opt, nil)
}

func (o spaceObject) verify(ctx context.Context, opt bus.VerifyOptions, progress func(done, total int64)) (uint32, []bus.Finding, error) {
	findings, checked, err := o.s.m.Repairer().Verify(ctx, opt.Repair, progress)
	list := []bus.Finding{}
	for _, f := range findings {
		list = append(list, bus.Finding{What: f.What, Problem: f.Problem, Repaired: f.Repaired})
	}
	return uint32(checked), list, err
}

// maxUnread and maxStrays bound LastCollectionUnread and LastCollectionStrays.
const (
	maxUnread = 64
	maxStrays = 64
)

// liveSpace measures on each query.
func (s *Service) liveSpace(p *bus.SpaceProperties) {
	st, err := s.measuring.Do(s.m.Space().Measure)
	if err != nil {
		s.log.Error("cannot measure the store", "error", err)
		return
	}
	p.Free, p.Used, p.Blobs = uint64(max(st.Free, 0)), uint64(st.Used), uint32(st.Blobs)
	result, _ := s.m.Space().Last()
	p.LastCollectionUnread = []bus.Process{}
	for _, u := range result.Unread[:min(len(result.Unread), maxUnread)] {
		p.LastCollectionUnread = append(p.LastCollectionUnread, bus.Process{PID: uint32(u.PID), UID: u.UID, Command: u.Command})
	}
	p.LastCollectionStrays = []bus.PackageUse{}
	for _, u := range s.m.Space().StrayUses(maxStrays) {
		p.LastCollectionStrays = append(p.LastCollectionStrays, bus.PackageUse{Hash: u.Package.String(), Name: u.Name, Version: u.Version, Holder: u.Holder, PID: uint32(u.PID)})
	}
}

// updateSpace shows the indices as properties, and counts what is in them.
func (s *Service) updateSpace() (roots int) {
	by := map[string][]string{}
	var open []bus.OpenPackage
	all := s.m.Roots().Shown()
	for _, r := range all {
		if r.Index == index.OpenIndex {
			open = append(open, bus.OpenPackage{Hash: r.Package.String(), Holder: r.Holder, PID: uint32(r.PID)})
			continue
		}
		if r.Package.IsZero() {
			continue // doubt about what it holds
		}
		by[r.Index] = append(by[r.Index], r.Package.String())
	}
	set := func(name string) []string { return slices.Compact(by[name]) } // sorted by package
	transfers := s.transfers()
	result, at := s.m.Space().Last()
	s.space.Update(func(p *bus.SpaceProperties) {
		p.Base, p.Cache, p.Retained = set(index.BaseIndex), set(index.CacheIndex), set(index.RetainedIndex)
		p.Writing, p.Installed, p.Open = set(index.WritingIndex), set(index.InstalledIndex), open
		p.Recent = set(index.RecentIndex)
		p.Transfers = transfers
		p.LastCollection, p.LastCollectionBytes = micro(at), uint64(result.Bytes)
	})
	s.retained.Update(func(p *bus.RetainedProperties) { p.Packages = set(index.RetainedIndex) })
	return len(all)
}

// updateTransfers shows how far they are. The indices, which they do not change,
// are left alone.
func (s *Service) updateTransfers() {
	list := s.transfers()
	s.space.Update(func(p *bus.SpaceProperties) { p.Transfers = list })
}

func (s *Service) transfers() (list []bus.Transfer) {
	for _, t := range s.m.Reports().Transfers() {
		list = append(list, bus.Transfer{Hash: t.Package.String(), Name: t.Name, Holder: t.Holder,
			BytesDone: uint64(t.Done), BytesTotal: uint64(t.Total), BlobsMissing: uint32(t.Missing), Since: micro(t.Since)})
	}
	return list
}

// retainedObject implements bus.Retained.
type retainedObject struct{ s *Service }

func (o retainedObject) Set(c bus.Caller, packages []string) error {
	if err := o.s.auth.Check(c, authz.SystemUpdate); err != nil {
		return err
	}
	list := []digest.Digest{}
	for _, p := range packages {
		d, err := digest.Parse(p)
		if err != nil {
			return errkind.New(errkind.Invalid, "%w", err)
		}
		list = append(list, d)
	}
	return o.s.m.Updater().Retain(list)
}

func (o retainedObject) Resolve(c bus.Caller, pkg string, opt bus.RetainedResolveOptions) error {
	d, err := o.mayResolve(c, pkg)
	if err != nil {
		return err
	}
	return o.s.m.Updater().Resolve(o.s.ctx, d, opt.Repository, nil)
}

func (o retainedObject) mayResolve(c bus.Caller, pkg string) (digest.Digest, error) {
	if err := o.s.auth.Check(c, authz.SystemUpdate); err != nil {
		return digest.Digest{}, err
	}
	d, err := digest.Parse(pkg)
	if err != nil {
		return d, errkind.New(errkind.Invalid, "%w", err)
	}
	return d, nil
}

func (o retainedObject) Clear(c bus.Caller) error { return o.Set(c, nil) }
