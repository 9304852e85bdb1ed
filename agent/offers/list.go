package offers

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

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
	Summary   string   // of the newest version
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
func (o *Offers) Available(ctx context.Context, only string, read bool) (list []Available, failed []Failed, err error) {
	names := o.Repositories.Names()
	if only != "" {
		if _, err := o.Repositories.Client(only); err != nil {
			return nil, nil, err
		}
		names = []string{only}
	}
	instances, err := o.State.Instances()
	if err != nil {
		return nil, nil, err
	}
	answers := ask(ctx, o, names, read, func(ctx context.Context, name string, read bool) ([]Available, error) {
		return o.offersOf(ctx, name, read, instances)
	})
	for _, a := range answers {
		list = append(list, a.value...)
		if a.err != nil {
			failed = append(failed, Failed{a.repository, a.err})
		}
	}
	return list, failed, nil
}

func (o *Offers) offersOf(ctx context.Context, name string, read bool, instances []state.Instance) (list []Available, err error) {
	client, err := o.Repositories.Client(name)
	if err == nil && read {
		client, err = o.Repositories.Read(ctx, name, false)
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
		a := Available{Repository: name, Summary: l.Summary}
		if p, none := o.Reaching(l.Name, offers, client.Time()); none == nil {
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
func (o *Offers) Updates(ctx context.Context, names []string, read bool) (list []AvailableUpdate, failed []Failed, err error) {
	if names == nil {
		if names, err = o.Links.Instances(); err != nil {
			return nil, nil, err
		}
	}
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	from := map[string][]installed{} // by repository
	for _, n := range names {
		var i installed
		if i.Instance, i.version, err = o.Installed(n); err == nil {
			err = o.RepositoryOf(ctx, &i.Instance)
		}
		if err != nil {
			failed = append(failed, Failed{n, err})
			continue
		}
		from[i.Repository] = append(from[i.Repository], i)
	}
	answers := ask(ctx, o, slices.Collect(maps.Keys(from)), read, func(ctx context.Context, repository string, read bool) (map[string]updateOf, error) {
		return o.updatesFrom(ctx, repository, from[repository], read)
	})
	for _, a := range answers {
		for _, i := range from[a.repository] {
			u := a.value[i.Instance.Instance]
			switch {
			case u.update != nil:
				list = append(list, *u.update)
			case a.err != nil: // that there is none is unknown
				failed = append(failed, Failed{i.Instance.Instance, a.err})
			case u.err != nil:
				failed = append(failed, Failed{i.Instance.Instance, u.err})
			}
		}
	}
	byName := func(a, b AvailableUpdate) int { return strings.Compare(a.Instance, b.Instance) }
	slices.SortFunc(list, byName)
	slices.SortFunc(failed, func(a, b Failed) int { return strings.Compare(a.Name, b.Name) })
	return list, failed, nil
}

// installed is an instance with its current version.
type installed struct {
	state.Instance
	version string
}

// updateOf is the update of an instance, or why it cannot be determined. If both are nil, the
// instance has the newest version.
type updateOf struct {
	update *AvailableUpdate
	err    error
}

// updatesFrom returns the updates of instances from a repository, by instance.
func (o *Offers) updatesFrom(ctx context.Context, repository string, instances []installed, read bool) (map[string]updateOf, error) {
	client, err := o.Repositories.Client(repository)
	if err == nil && read {
		client, err = o.Repositories.Read(ctx, repository, false)
	}
	if err != nil {
		return nil, err
	}
	all := map[string]updateOf{}
	for _, i := range instances {
		u, err := o.update(ctx, i, client, read)
		all[i.Instance.Instance] = updateOf{u, err}
	}
	return all, nil
}

func (o *Offers) update(ctx context.Context, i installed, client *repo.Client, read bool) (*AvailableUpdate, error) {
	name := i.Instance.Instance
	c, err := o.For(ctx, name, client, Mode{})
	if err != nil || c.Pointer == nil {
		return nil, err
	}
	pointer := c.Pointer
	u := &AvailableUpdate{Instance: name, Repository: i.Repository, FromVersion: i.version, Pointer: pointer}
	if c.Request == nil {
		u.Withheld = c.Withheld
	}
	if r := o.UnderWay(name); r != nil && r.Package == pointer.Package {
		u.Refresh = r
	}
	var src resolve.Source
	if read {
		src = client
	}
	needs, err := o.Costs.Of(ctx, pointer.Package, src)
	if err == nil {
		u.Cost = &needs
	} else if !errors.Is(err, cost.ErrUnknown) {
		return nil, err
	}
	return u, nil
}
