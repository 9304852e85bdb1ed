// Package repair restores what a crash of the disk, or a hand, has damaged: state.db when it is
// opened, the links and packages of instances, content of the store, and markers in the
// run-control directory that belong to no refresh and no launch. A SystemSet fetches the
// packages of the system that are not there.
//
// A Repairer has no state of its own; its methods may be called from any goroutine, and block
// while they read the store and fetch. Markers.Follow and SystemSet.Follow run once, each in
// its own goroutine.
package repair

import (
	"context"
	"errors"
	"io"
	"log/slog"

	"github.com/lull/lull/agent/current"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/refresh"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repositories"
	"github.com/lull/lull/agent/space"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/resolve"
	"github.com/lull/lull/agent/vacancy"
)

// Finding is a problem in the store, and whether it was repaired.
type Finding struct {
	store.Finding
	Repaired bool
}

// Repairer compares the store and the links with what they should be, and restores them.
type Repairer struct {
	Store        *store.Store
	Links        current.Links
	Engine       *refresh.Engine
	Resolver     *resolve.Resolver
	Repositories *repositories.Set
	Space        *space.Keeper
	Log          *slog.Logger
	// MayChange returns why the root cannot be changed, as the error of doing what.
	MayChange func(what string) error
	Changed   func(instance string) // an instance was repaired
}

// Verify re-reads the whole store and, with repair, fetches broken content. The first error
// of a repair is returned beside all findings.
func (p *Repairer) Verify(ctx context.Context, repair bool, progress func(done, total int64)) (list []Finding, checked int, err error) {
	if repair {
		if err := p.MayChange("repair the store"); err != nil {
			return nil, 0, err
		}
	}
	var found []store.Finding
	// Content that is being removed is not broken. A repair may need a collection.
	p.Space.Undisturbed(func() { found, checked, err = p.Store.Verify(ctx, progress, p.sealed) })
	for _, f := range found {
		list = append(list, Finding{Finding: f})
	}
	defer func() {
		// After the repair of the store, which may have been enough for an instance.
		more, ierr := p.verifyInstances(ctx, repair)
		list, err = append(list, more...), errors.Join(err, ierr)
	}()
	if err != nil || !repair || len(list) == 0 {
		return list, checked, err
	}
	// All broken content is removed before anything is fetched. After that it is also known
	// what a package lacks beyond its findings, because its meta could not be read.
	condemned := make([]error, len(list))
	for i, f := range list {
		condemned[i] = p.Store.DropCorrupt(f.Finding)
	}
	mended := map[digest.Digest]error{} // by package
	for i := range list {
		f := &list[i]
		ferr := condemned[i]
		for _, pkg := range f.needing() {
			if _, done := mended[pkg]; !done {
				mended[pkg] = p.RepairPackage(ctx, pkg)
				err = errors.Join(err, mended[pkg])
			}
			ferr = errors.Join(ferr, mended[pkg])
		}
		f.Repaired = ferr == nil
		err = errors.Join(err, condemned[i])
	}
	return list, checked, err
}

// sealed reads an inode whose lease a refresh has.
func (p *Repairer) sealed(dev, ino uint64, read func(io.ReaderAt)) bool {
	return p.Engine.Vacancy != nil && p.Engine.Vacancy.Read(vacancy.Inode{Dev: dev, Ino: ino}, read)
}

// needing lists the packages that a finding concerns.
func (f *Finding) needing() []digest.Digest {
	if len(f.Packages) > 0 || f.Package.IsZero() {
		return f.Packages
	}
	return []digest.Digest{f.Package}
}

// RepairPackage rebuilds the package's tree, with missing content from the first repository
// that has it.
func (p *Repairer) RepairPackage(ctx context.Context, pkg digest.Digest) error {
	defer p.Engine.ForgetTrees()
	err := p.Resolver.Repair(ctx, pkg, nowhere{}, "repair", nil)
	for _, a := range p.Repositories.State().Addresses {
		if err == nil || ctx.Err() != nil {
			return err
		}
		var client *repo.Client
		if client, err = p.Repositories.Client(a[0]); err == nil {
			err = p.Resolver.Repair(ctx, pkg, client, "repair", nil)
		}
	}
	return err
}

// nowhere is the source for packages that lack nothing.
type nowhere struct{}

func (nowhere) Blob(_ context.Context, d digest.Digest, _ int64) (io.ReadCloser, error) {
	return nil, errkind.New(errkind.NotFound, "cannot fetch blob %s: no repository has it", d.Short())
}
