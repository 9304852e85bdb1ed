package api

import (
	"slices"

	"github.com/lull/lull/agent/authz"
	"github.com/lull/lull/agent/digest"
	"github.com/lull/lull/agent/index"
	"github.com/lull/lull/agent/problem"
	bus "github.com/lull/lull/dbus"
)

// spaceObject implements bus.Space.
type spaceObject struct{ s *Service }

func (o spaceObject) Plan(bus.Caller) ([]bus.PlannedBlob, []bus.PackageUsage, uint64, error) {
	plan, err := o.s.m.Plan(o.s.ctx)
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
	if err := o.s.auth.Check(c, authz.GC); err != nil {
		return 0, 0, 0, err
	}
	if opt.RetainNothing {
		err := o.s.auth.Check(c, authz.SystemUpdate)
		if err == nil {
			err = o.s.m.RetainNothing()
		}
		if err != nil {
			return 0, 0, 0, err
		}
	}
	r, err := o.s.m.Collect(o.s.ctx, int64(min(opt.Free, 1<<62)))
	return uint32(r.Blobs), uint32(r.Packages), uint64(r.Bytes), err
}

func (o spaceObject) Verify(c bus.Caller, opt bus.VerifyOptions) (uint32, []bus.Finding, error) {
	if err := o.s.auth.Check(c, authz.GC); err != nil {
		return 0, nil, err
	}
	findings, checked, err := o.s.m.Verify(o.s.ctx, opt.Repair)
	list := []bus.Finding{}
	for _, f := range findings {
		list = append(list, bus.Finding{What: f.What, Problem: f.Problem, Repaired: f.Repaired})
	}
	return uint32(checked), list, err
}

// liveSpace measures when somebody asks.
func (s *Service) liveSpace(p *bus.SpaceProperties) {
	st, err := s.m.Space()
	if err != nil {
		s.log.Error("cannot measure the store", "error", err)
		return
	}
	p.Free, p.Used, p.Blobs = uint64(max(st.Free, 0)), uint64(st.Used), uint32(st.Blobs)
}

// updateSpace shows the indices as properties, and counts what is in them.
func (s *Service) updateSpace() (roots int) {
	by := map[string][]string{}
	var open []bus.OpenPackage
	all := s.m.Roots()
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
	result, at := s.m.LastCollection()
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
	for _, t := range s.m.Transfers() {
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
			return problem.New(problem.Invalid, "%w", err)
		}
		list = append(list, d)
	}
	return o.s.m.SetRetained(list)
}

func (o retainedObject) Resolve(c bus.Caller, pkg string, opt bus.RetainedResolveOptions) error {
	if err := o.s.auth.Check(c, authz.SystemUpdate); err != nil {
		return err
	}
	d, err := digest.Parse(pkg)
	if err != nil {
		return problem.New(problem.Invalid, "%w", err)
	}
	return o.s.m.ResolveRetained(o.s.ctx, d, opt.Repository)
}

func (o retainedObject) Clear(c bus.Caller) error { return o.Set(c, nil) }
