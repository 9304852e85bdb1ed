package manager

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/agent/store/cost"
	"github.com/lull/lull/agent/store/resolve"
)

// Available is an offer of a channel of a repository.
type Available struct {
	Repository string
	*repo.Pointer
	Offered   bool     // it reaches this machine, and is the newest version that does
	Installed []string // the instances that follow the channel
}

// Failed is the error of one repository or instance of several.
type Failed struct {
	Name string
	Err  error
}

// Available lists the offers of the repositories; with only set, those of that repository.
// With read they are read now, else their last contents count.
func (m *Manager) Available(ctx context.Context, only string, read bool) (list []Available, failed []Failed, err error) {
	names := m.repos.Names()
	if only != "" {
		if _, err := m.repos.Client(only); err != nil {
			return nil, nil, err
		}
		names = []string{only}
	}
	instances, err := m.state.Instances()
	if err != nil {
		return nil, nil, err
	}
	var mu sync.Mutex // guards list and failed
	var wg sync.WaitGroup
	for _, name := range names {
		wg.Go(func() {
			found, err := m.offersOf(ctx, name, read, instances)
			mu.Lock()
			defer mu.Unlock()
			list = append(list, found...)
			if err != nil {
				failed = append(failed, Failed{name, err})
			}
		})
	}
	wg.Wait()
	return list, failed, nil
}

func (m *Manager) offersOf(ctx context.Context, name string, read bool, instances []state.Instance) (list []Available, err error) {
	client, err := m.repos.Client(name)
	if err == nil && read {
		client, err = m.repos.Read(ctx, name, false)
	}
	if err != nil {
		return nil, err
	}
	listings, err := client.Listings(ctx)
	if err != nil {
		return nil, err
	}
	for _, l := range listings {
		offers, perr := client.Offers(ctx, l.Name, l.Channel)
		if perr != nil {
			err = errors.Join(err, perr)
			continue
		}
		a := Available{Repository: name}
		if p, none := m.reaching(l.Name, offers, client.Time()); none == nil {
			a.Pointer, a.Offered = p, true
		} else {
			a.Pointer = &offers[0].Pointer
		}
		for _, i := range instances {
			base, _ := manifest.SplitInstance(i.Instance)
			if base == l.Name && i.Channel == l.Channel && i.Repository == name && len(i.Revisions) > 0 {
				a.Installed = append(a.Installed, i.Instance)
			}
		}
		list = append(list, a)
	}
	return list, err
}

// AvailableUpdate is the update that a refresh of an instance would bring.
type AvailableUpdate struct {
	Instance, Repository, FromVersion string
	*repo.Pointer
	Cost     *cost.Cost // nil if the manifest is not here
	Withheld string
	Refresh  *plan.Refresh // under way to this version
}

// Updates lists the updates that refreshes of the instances would bring; nil means all
// instances. With read the repositories are read now, and also the manifests of new versions
// for their cost.
func (m *Manager) Updates(ctx context.Context, names []string, read bool) (list []AvailableUpdate, failed []Failed, err error) {
	if names == nil {
		if names, err = m.links.Instances(); err != nil {
			return nil, nil, err
		}
	}
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	var packages []*Package
	all := sources{}
	for _, n := range names {
		p, err := m.Package(n)
		if err == nil {
			err = m.repositoryOf(ctx, &p.Instance)
		}
		if err != nil {
			failed = append(failed, Failed{n, err})
			continue
		}
		packages = append(packages, p)
		all[p.Repository] = &source{}
	}
	m.readAll(ctx, all, read)
	for _, p := range packages {
		u, err := m.update(ctx, p, all[p.Repository], read)
		if err != nil {
			failed = append(failed, Failed{p.Instance.Instance, err})
		} else if u != nil {
			list = append(list, *u)
		}
	}
	return list, failed, nil
}

// source is a repository, or why it cannot be used.
type source struct {
	client *repo.Client
	err    error
}

// sources has repositories by name.
type sources map[string]*source

// readAll fills in the sources in parallel: a slow repository delays only itself.
func (m *Manager) readAll(ctx context.Context, all sources, read bool) {
	var wg sync.WaitGroup
	for name, s := range all {
		wg.Go(func() {
			if s.client, s.err = m.repos.Client(name); s.err == nil && read {
				s.client, s.err = m.repos.Read(ctx, name, false)
			}
		})
	}
	wg.Wait()
}

func (m *Manager) update(ctx context.Context, p *Package, s *source, read bool) (*AvailableUpdate, error) {
	if s.err != nil {
		return nil, s.err
	}
	name, client := p.Instance.Instance, s.client
	c, err := m.offer(ctx, name, client, Looking{})
	if err != nil || c.pointer == nil {
		return nil, err
	}
	pointer := c.pointer
	u := &AvailableUpdate{Instance: name, Repository: p.Repository, FromVersion: p.Current.Version, Pointer: pointer}
	if c.request == nil {
		u.Withheld = c.withheld
	}
	if r := m.underWay(name); r != nil && r.Package == pointer.Package {
		u.Refresh = r
	}
	var src resolve.Source
	if read {
		src = client
	}
	needs, err := m.costs.Of(ctx, pointer.Package, src)
	if err == nil {
		u.Cost = &needs
	} else if !errors.Is(err, cost.ErrUnknown) {
		return nil, err
	}
	return u, nil
}

// History lists the refreshes that have ended since a time, of one instance or, with "",
// of all, the oldest first.
func (m *Manager) History(instance string, since time.Time) ([]plan.Refresh, error) {
	list, err := m.engine.History(since)
	return slices.DeleteFunc(list, func(r plan.Refresh) bool { return instance != "" && r.Instance != instance }), err
}

// Switch makes an instance follow another channel or repository; "" means no change.
func (m *Manager) Switch(ctx context.Context, instance, repository, channel string) error {
	p, err := m.Package(instance)
	if err != nil {
		return err
	}
	if repository == "" && channel == "" {
		return errkind.New(errkind.Invalid, "cannot switch %s: neither a channel nor a repository is named", instance)
	}
	if err := m.mayChange("switch " + instance); err != nil {
		return err
	}
	inst := p.Instance
	if err := m.repositoryOf(ctx, &inst); err != nil && repository == "" {
		return err
	}
	if repository == "" {
		repository = inst.Repository
	}
	if channel == "" {
		channel = inst.Channel
	}
	base, _ := manifest.SplitInstance(instance)
	if _, err := m.chooseRepository(ctx, base, repository, channel); err != nil {
		return err
	}
	err = m.state.UpdateInstance(instance, func(i *state.Instance) error {
		i.Repository, i.Channel = repository, channel
		return nil
	})
	if err == nil {
		m.Log.Info("an application follows another channel", "instance", instance, "repository", repository, "channel", channel)
		m.observer.PackageChanged(instance)
	}
	return err
}
