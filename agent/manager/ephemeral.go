package manager

import (
	"context"
	"os"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/store/index"
)

// Resolve makes the offer of a channel resident without installing it, and protects it like
// Open. If a repository is named, or the name is bound to one, only that repository is used;
// while it cannot be read, its last offer is used if that is resident. If no repository is
// named and none can be reached or is configured, the last offer of any repository is used,
// then the package of that name in the cache and the base index.
//
// progress, which may be nil, is called with the bytes that are there and the bytes to fetch.
func (m *Manager) Resolve(ctx context.Context, name, repository, channel, holder string, pid int, progress func(done, total int64)) (r Resolved, err error) {
	if err := manifest.ValidName(name); err != nil {
		return r, err
	}
	if err := m.root.MayChange("fetch " + name); err != nil {
		return r, err
	}
	if channel == "" {
		channel = "stable"
	}
	var offer *repo.Pointer
	var from *repo.Client
	only := repository
	if only == "" {
		if only, err = m.offers.Bound(name); err != nil {
			return r, err
		}
	}
	repository, err = m.offers.Choose(ctx, name, only, channel)
	if err == nil {
		from, err = m.repos.Client(repository)
	}
	if err == nil {
		offer, err = m.offers.Offered(ctx, name, repository, channel, false)
	}
	if err != nil {
		none := only == "" && len(m.repos.Names()) == 0
		if !errkind.Is(err, errkind.Unavailable) && !none {
			return r, err
		}
		pkg, version, there := m.offline(ctx, name, only, channel)
		if !there {
			return r, err
		}
		m.Log.Info("no repository can be reached: what is there serves", "package", name, "version", version, "error", err)
		r.Version, r.Offline = version, err
		r.Dir, r.Lease, err = m.Open(pkg.String(), holder, pid)
		return r, err
	}
	defer func() {
		if m.space.BelowWatermark() {
			m.space.Want()
		}
	}()
	r.Version = offer.Version
	if err := m.repos.Failed(repository); errkind.Is(err, errkind.Unavailable) {
		r.Offline = err // its last answer has counted
	}
	r.Lease = m.indices.Lease(offer.Package, holder, pid) // before it is requested
	err = m.resolver.Resolve(ctx, offer.Package, from, holder, progress)
	if err == nil {
		r.Dir, err = m.store.OpenPackage(offer.Package)
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
func (m *Manager) offline(ctx context.Context, name, only, channel string) (pkg digest.Digest, version string, there bool) {
	offers := map[digest.Digest]string{}
	for _, n := range m.repos.Names() {
		client, err := m.repos.Client(n)
		if err != nil || only != "" && n != only || !client.Lists(name, channel) {
			continue
		}
		list, err := client.Offers(ctx, name, channel)
		if err != nil {
			continue
		}
		if offer, err := m.offers.Reaching(name, list, client.Time()); err == nil && m.store.HasPackage(offer.Package) {
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
		for _, r := range m.indices.Of(set) {
			if r.Package.IsZero() {
				continue
			}
			if l, err := m.store.Launch(r.Package); err == nil && l.Name == name {
				return r.Package, l.Version, true
			}
		}
	}
	return pkg, "", false
}
