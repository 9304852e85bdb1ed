// Package updater takes the requests about the packages of the system: those of `lull system`,
// and those of a system updater that keeps its packages in the retained index. It finds what a
// request names in the repositories; package sysupdate does the work.
//
// An Updater has no state of its own, and its methods may be called from any goroutine. Stage
// returns when the update has begun; Resolve and Commit block until they are done.
package updater

import (
	"context"
	"io"
	"strings"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/offers"
	"github.com/lull/lull/agent/repositories"
	"github.com/lull/lull/agent/space"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/agent/store/resolve"
	"github.com/lull/lull/agent/sysupdate"
	"github.com/lull/lull/policy"
)

// Updater takes the requests about the packages of the system.
type Updater struct {
	System       *sysupdate.System
	Offers       *offers.Offers
	Repositories *repositories.Set
	Space        *space.Keeper
	State        *state.DB
	Policy       func() *policy.Policy
	// MayChange returns why the root cannot be changed, as the error of doing what.
	MayChange func(what string) error
}

// Stage begins to stage an update: NAME, NAME@CHANNEL or the hash of a package; an
// empty what means the interrupted one. An empty repository means the first that has it.
func (u *Updater) Stage(ctx context.Context, what, repository string) error {
	if err := u.MayChange("stage a system update"); err != nil {
		return err
	}
	if what == "" {
		return u.System.Continue()
	}
	update := sysupdate.Update{Asked: what}
	var err error
	if update.Package, err = digest.Parse(what); err == nil {
		update.Repository, err = u.repositoryWith(ctx, update.Package, repository)
	} else {
		update.Package, update.Repository, err = u.lookUp(ctx, what, repository)
	}
	if err != nil {
		return err
	}
	return u.System.Stage(update)
}

// lookUp returns the offer of a channel.
func (u *Updater) lookUp(ctx context.Context, what, repository string) (pkg digest.Digest, from string, err error) {
	name, channel, found := strings.Cut(what, "@")
	if !found {
		channel = "stable"
	}
	if manifest.ValidName(name) != nil {
		return pkg, "", errkind.New(errkind.Invalid, "cannot look for a system update %.80q: want NAME, NAME@CHANNEL or the hash of a package", what)
	}
	if from, err = u.Offers.Choose(ctx, name, repository, channel); err != nil {
		return pkg, "", err
	}
	p, err := u.Offers.Offered(ctx, name, from, channel, false)
	if err != nil {
		return pkg, "", err
	}
	return p.Package, from, nil
}

// repositoryWith finds the repository that has a package.
func (u *Updater) repositoryWith(ctx context.Context, pkg digest.Digest, only string) (string, error) {
	if only != "" {
		_, err := u.Repositories.Client(only)
		return only, err
	}
	_, err := u.Repositories.Client("") // the error has advice if there is none
	for _, a := range u.Repositories.State().Addresses {
		client, cerr := u.Repositories.Client(a[0])
		if cerr != nil {
			continue
		}
		var body io.ReadCloser
		if body, err = client.Blob(ctx, pkg, 0); err == nil {
			return a[0], body.Close()
		}
	}
	return "", err
}

// Source returns a repository only as a source of blobs.
func Source(repos *repositories.Set, name string) (resolve.Source, error) {
	client, err := repos.Client(name)
	if err != nil {
		return nil, err
	}
	return client, nil
}

// Commit keeps the booted set. Content that only the previous one needed may be
// removed.
func (u *Updater) Commit(ctx context.Context) error {
	return u.decide("commit a system update", func() error { return u.System.Commit(ctx) })
}

// Rollback gives up the uncommitted set. Content that only that set needed may be
// removed.
func (u *Updater) Rollback() error {
	return u.decide("roll back a system update", u.System.Rollback)
}

func (u *Updater) decide(what string, do func() error) error {
	err := u.MayChange(what)
	if err == nil {
		err = do()
	}
	if err == nil && (u.Policy().GC.AfterRefresh || u.Space.BelowWatermark()) {
		u.Space.Want()
	}
	return err
}

// Retain replaces the retained index; it is durable on return.
func (u *Updater) Retain(list []digest.Digest) error {
	if err := u.MayChange("set the retained index"); err != nil {
		return err
	}
	return u.System.Retain(list)
}

// RetainNothing declares that the retained index was empty when it was lost.
func (u *Updater) RetainNothing() error {
	loss, lost, err := u.State.Lost()
	if err != nil {
		return err
	}
	if !lost || !loss.Retained {
		return errkind.New(errkind.Invalid, "cannot say that nothing is retained: the retained index is known")
	}
	return u.Retain(nil)
}

// Resolve makes a package resident that the system updater retains. An empty
// repository means the first that has it.
func (u *Updater) Resolve(ctx context.Context, pkg digest.Digest, repository string, progress func(resolve.Progress)) error {
	if err := u.MayChange("resolve package " + pkg.Short()); err != nil {
		return err
	}
	from := lazySource(func() (resolve.Source, error) {
		name, err := u.repositoryWith(ctx, pkg, repository)
		if err != nil {
			return nil, err
		}
		return Source(u.Repositories, name)
	})
	return u.System.Resolve(ctx, pkg, from, "system updater", progress)
}

// lazySource determines the repository when content is fetched from it.
type lazySource func() (resolve.Source, error)

// Blob implements resolve.Source.
func (f lazySource) Blob(ctx context.Context, d digest.Digest, offset int64) (io.ReadCloser, error) {
	src, err := f()
	if err != nil {
		return nil, err
	}
	return src.Blob(ctx, d, offset)
}
