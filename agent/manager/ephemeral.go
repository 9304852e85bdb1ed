package manager

import (
	"context"
	"os"

	"github.com/lull/lull/agent/digest"
	"github.com/lull/lull/agent/index"
	"github.com/lull/lull/agent/meta"
	"github.com/lull/lull/agent/problem"
	"github.com/lull/lull/agent/repo"
)

// Resolve makes what a channel offers resident without installing it, and
// protects it like Open. Where no repository can be reached, what one offered
// last serves if it is resident, then the package of that name in the cache
// index: it is what that index is for.
func (m *Manager) Resolve(ctx context.Context, name, repository, channel, holder string, pid int) (dir *os.File, lease *index.Lease, version string, err error) {
	if err := meta.ValidName(name); err != nil {
		return nil, nil, "", err
	}
	if err := m.mayChange("fetch " + name); err != nil {
		return nil, nil, "", err
	}
	if channel == "" {
		channel = "stable"
	}
	var offer *repo.Pointer
	var from *repo.Client
	repository, err = m.chooseRepository(ctx, name, repository, channel)
	if err == nil {
		from, err = m.client(repository)
	}
	if err == nil {
		offer, err = from.Channel(ctx, name, channel)
	}
	if err != nil {
		if !problem.Is(err, problem.Unavailable) {
			return nil, nil, "", err
		}
		pkg, version, there := m.offline(ctx, name, channel)
		if !there {
			return nil, nil, "", err
		}
		m.Log.Info("no repository can be reached: what is there serves", "package", name, "version", version, "error", err)
		dir, lease, err = m.Open(pkg.String(), holder, pid)
		return dir, lease, version, err
	}
	defer func() {
		if m.belowWatermark() {
			m.space.want()
		}
	}()
	lease = m.indices.Lease(offer.Package, holder, pid) // before it is asked for
	err = m.resolver.Resolve(ctx, offer.Package, from, holder, nil)
	if err == nil {
		dir, err = m.store.OpenPackage(offer.Package)
	}
	if err != nil {
		lease.Close()
		return nil, nil, "", err
	}
	return dir, lease, offer.Version, nil
}

// offline finds what can serve while no repository can be reached.
func (m *Manager) offline(ctx context.Context, name, channel string) (pkg digest.Digest, version string, there bool) {
	for _, a := range m.Repositories().Addresses {
		client, err := m.client(a[0])
		if err != nil {
			continue
		}
		if offer, err := client.Channel(ctx, name, channel); err == nil && m.store.HasPackage(offer.Package) {
			return offer.Package, offer.Version, true
		}
	}
	for _, r := range m.indices.Of(index.CacheIndex) {
		if l, err := m.store.Launch(r.Package); err == nil && l.Name == name {
			return r.Package, l.Version, true
		}
	}
	return pkg, "", false
}
