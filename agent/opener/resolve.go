package opener

import (
	"context"
	"os"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/store/index"
	"github.com/lull/lull/agent/store/resolve"
)

// Resolve makes the offer of a channel resident without installing it, and protects it like
// Open. If a repository is named, or the name is bound to one, only that repository is used;
// while it cannot be read, its last offer is used if that is resident. If no repository is
// named and none can be reached or is configured, the last offer of any repository is used,
// then the package of that name in the cache and the base index.
//
// progress, which may be nil, is called by one goroutine at a time.
func (o *Opener) Resolve(ctx context.Context, name, repository, channel, holder string, pid int, progress func(resolve.Progress)) (r Resolved, err error) {
	if err := manifest.ValidName(name); err != nil {
		return r, err
	}
	if err := o.MayChange("fetch " + name); err != nil {
		return r, err
	}
	if channel == "" {
		channel = "stable"
	}
	var offer *repo.Pointer
	var from *repo.Client
	only := repository
	if only == "" {
		if only, err = o.Offers.Bound(name); err != nil {
			return r, err
		}
	}
	repository, err = o.Offers.Choose(ctx, name, only, channel)
	if err == nil {
		from, err = o.Repositories.Client(repository)
	}
	if err == nil {
		offer, err = o.Offers.Offered(ctx, name, repository, channel, false)
	}
	if err != nil {
		none := only == "" && len(o.Repositories.Names()) == 0
		if !errkind.Is(err, errkind.Unavailable) && !none {
			return r, err
		}
		pkg, version, there := o.offline(ctx, name, only, channel)
		if !there {
			return r, err
		}
		o.Log.Info("no repository can be reached: what is there serves", "package", name, "version", version, "error", err)
		r.Version, r.Offline = version, err
		r.Dir, r.Lease, err = o.Open(pkg.String(), holder, pid)
		return r, err
	}
	defer func() {
		if o.Space.BelowWatermark() {
			o.Space.Want()
		}
	}()
	r.Version = offer.Version
	if err := o.Repositories.Failed(repository); errkind.Is(err, errkind.Unavailable) {
		r.Offline = err // its last answer has counted
	}
	r.Lease = o.Indices.Lease(offer.Package, holder, pid) // before it is requested
	err = o.Resolver.Resolve(ctx, offer.Package, from, holder, progress)
	if err == nil {
		r.Dir, err = o.Store.OpenPackage(offer.Package)
	}
	if err != nil {
		r.Lease.Close()
		return Resolved{}, err
	}
	return r, nil
}

// Resolved is a package that is resident and leased. The caller closes both.
type Resolved struct {
	Dir     *os.File
	Lease   *index.Lease
	Version string
	Offline error // why the repository was not read, so that this is the last known offer; nil if it was
}

// offline finds a package that can be used while no repository can be reached. only names the
// repository that it must come from, or is empty.
func (o *Opener) offline(ctx context.Context, name, only, channel string) (pkg digest.Digest, version string, there bool) {
	offers := map[digest.Digest]string{}
	var lists []string
	for _, n := range o.Repositories.Names() {
		if (only == "" || n == only) && o.Repositories.Lists(n, name, channel) {
			lists = append(lists, n)
		}
	}
	for _, n := range o.Offers.First(lists) {
		client, err := o.Repositories.Client(n)
		if err != nil {
			continue
		}
		list, err := client.Offers(ctx, name, channel)
		if err != nil {
			continue
		}
		if offer, err := o.Offers.Reaching(name, list, client.Time()); err == nil && o.Store.HasPackage(offer.Package) {
			offers[offer.Package] = offer.Version
		}
	}
	if len(offers) > 1 {
		return pkg, "", false // of two repositories: none is chosen silently
	}
	for pkg, version := range offers {
		return pkg, version, true
	}
	if only != "" {
		return pkg, "", false
	}
	for _, set := range []string{index.CacheIndex, index.BaseIndex} {
		for _, r := range o.Indices.Of(set) {
			if r.Package.IsZero() {
				continue
			}
			if l, err := o.Store.Launch(r.Package); err == nil && l.Name == name {
				return r.Package, l.Version, true
			}
		}
	}
	return pkg, "", false
}
