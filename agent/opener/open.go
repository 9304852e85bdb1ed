// Package opener protects packages that clients name from the collector: by hash, as the
// current one of an instance, or as the offer of a channel, which it makes resident first. A
// package has its entry in an index before its residency is checked.
//
// An Opener has no state of its own, and its methods may be called from any goroutine. Resolve
// blocks while it fetches.
package opener

import (
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/lull/lull/agent/current"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/offers"
	"github.com/lull/lull/agent/repositories"
	"github.com/lull/lull/agent/space"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/gc"
	"github.com/lull/lull/agent/store/index"
	"github.com/lull/lull/agent/store/resolve"
)

// Opener protects packages that clients name.
type Opener struct {
	Store        *store.Store
	Links        current.Links
	Indices      *index.Indices
	Resolver     *resolve.Resolver
	Offers       *offers.Offers
	Repositories *repositories.Set
	Space        *space.Keeper
	Log          *slog.Logger
	// MayChange returns why the root cannot be changed, as the error of doing what.
	MayChange func(what string) error
}

// Open protects a package, by hash or as the current one of an instance, until
// the lease is closed. PACKAGE/NAME is a subpackage, also of a subpackage.
func (o *Opener) Open(what, holder string, pid int) (dir *os.File, lease *index.Lease, err error) {
	first, rest, more := strings.Cut(what, "/")
	if _, err := digest.Parse(first); err != nil && manifest.ValidInstance(first) != nil {
		return nil, nil, errkind.New(errkind.Invalid, "cannot open %.160q: %.80q is neither a package hash nor an instance", what, first)
	}
	dir, lease, err = o.openPackage(first, holder, pid)
	for err == nil && more {
		var name string
		name, rest, more = strings.Cut(rest, "/")
		above := lease
		dir.Close()
		if dir, lease, err = o.openSub(above.Package(), name, holder, pid); err != nil {
			err = fmt.Errorf("cannot open %.160q: %w", what, err)
		}
		above.Close()
	}
	return dir, lease, err
}

// openSub opens a subpackage by its name. The caller holds the package that contains it.
func (o *Opener) openSub(pkg digest.Digest, name, holder string, pid int) (dir *os.File, lease *index.Lease, err error) {
	l, err := o.Store.Launch(pkg)
	if err != nil {
		return nil, nil, err
	}
	sub, there := l.Subpackages[name]
	if !there {
		e := errkind.New(errkind.NotFound, "%s has no subpackage %.80q", l.Name, name)
		if len(l.Subpackages) > 0 {
			e = e.WithHint("it has %s", strings.Join(slices.Sorted(maps.Keys(l.Subpackages)), ", "))
		}
		return nil, nil, e
	}
	return o.openPackage(sub.String(), holder, pid)
}

func (o *Opener) openPackage(what, holder string, pid int) (dir *os.File, lease *index.Lease, err error) {
	pkg, err := digest.Parse(what)
	if err != nil {
		if _, pkg, err = o.Links.Read(what); err != nil {
			return nil, nil, err
		}
	}
	lease = o.Indices.Lease(pkg, holder, pid) // before residency is checked
	dir, err = o.Store.OpenPackage(pkg)
	if err != nil {
		lease.Close()
		return nil, nil, err
	}
	return dir, lease, nil
}

// Why lists the chains that keep something: an instance (its current package), a hash, the
// first 16 digits of a package's hash, or a path below the root.
func (o *Opener) Why(what string) ([]gc.Chain, error) {
	if manifest.ValidInstance(what) == nil {
		if _, pkg, err := o.Links.Read(what); err == nil {
			what = pkg.String()
		}
	}
	return gc.Why(o.Store, o.Indices.Snapshot(), what)
}
