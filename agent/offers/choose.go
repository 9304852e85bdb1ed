package offers

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/state"
)

// otherAnswers is how long, after one repository has offered a package, the answers of the
// others are awaited. For a repository that has not answered by then, its last answer counts.
const otherAnswers = time.Second

// Choose returns the repository that a package comes from: the named one, else the
// one that the name is bound to, else the only one that offers it, or that has a higher
// priority than the others. Kind Invalid means that several offer it, and none of them is
// chosen silently.
func (o *Offers) Choose(ctx context.Context, name, repository, channel string) (string, error) {
	if err := repo.ValidChannel(channel); err != nil {
		return "", err
	}
	if repository == "" {
		var err error
		if repository, err = o.Bound(name); err != nil {
			return "", err
		}
	}
	if repository != "" {
		client, err := o.Repositories.Read(ctx, repository, false)
		if err != nil {
			return "", err
		}
		_, err = client.Channel(ctx, name, channel)
		return repository, o.missing(client, name, err)
	}
	names := o.Repositories.Names()
	if len(names) == 0 {
		_, err := o.Repositories.Client("")
		return "", err
	}
	found, errs := o.whoOffers(ctx, names, name, channel)
	found = o.First(found)
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return "", errkind.New(errkind.Invalid, "cannot choose a repository for %s: %s offer it", name, strings.Join(found, " and ")).
			WithHint("--repository %s takes it from there, now and later; a priority in repos.d decides for every name", found[0])
	}
	// A repository that could not be trusted matters more than one without such a package.
	slices.SortStableFunc(errs, func(a, b error) int {
		found := func(err error) int {
			if errkind.Is(err, errkind.NotFound) {
				return 1
			}
			return 0
		}
		return found(a) - found(b)
	})
	return "", errs[0]
}

// First returns the repositories with the highest priority of some.
func (o *Offers) First(found []string) (list []string) {
	highest := 0
	for _, n := range found {
		switch p := o.Repositories.ConfigOf(n).Priority; {
		case len(list) == 0 || p > highest:
			list, highest = []string{n}, p
		case p == highest:
			list = append(list, n)
		}
	}
	return list
}

// whoOffers reads repositories in parallel and returns those that offer the package, sorted,
// and the errors of the others. Once one offers it the others are not waited for: a bad
// repository delays no other.
func (o *Offers) whoOffers(ctx context.Context, names []string, name, channel string) (found []string, errs []error) {
	type answer struct {
		repository string
		err        error
	}
	answers := make(chan answer, len(names))
	for _, n := range names {
		// The result of a reading that is not waited for is still useful, so it goes on until
		// its own deadline.
		o.wg.Go(func() {
			client, err := o.Repositories.Read(o.ctx, n, false)
			if err == nil {
				_, err = client.Channel(o.ctx, name, channel)
				err = o.missing(client, name, err)
			}
			answers <- answer{n, err}
		})
	}
	waiting := slices.Clone(names)
	var enough <-chan time.Time
	for len(waiting) > 0 {
		select {
		case a := <-answers:
			waiting = slices.DeleteFunc(waiting, func(n string) bool { return n == a.repository })
			if a.err != nil {
				errs = append(errs, a.err)
				if !errkind.Is(a.err, errkind.NotFound) && o.Repositories.Lists(a.repository, name, channel) {
					found = append(found, a.repository)
				}
				continue
			}
			if found = append(found, a.repository); enough == nil {
				t := time.NewTimer(otherAnswers)
				defer t.Stop()
				enough = t.C
			}
		case <-enough:
			for _, n := range waiting {
				if o.Repositories.Lists(n, name, channel) {
					found = append(found, n)
				}
			}
			waiting = nil
		case <-ctx.Done():
			return nil, []error{errkind.New(errkind.Interrupted, "cannot look for %s: %w", name, context.Cause(ctx))}
		}
	}
	slices.Sort(found)
	return found, errs
}

// missing returns why a package of an apt source is missing, in place of err.
func (o *Offers) missing(client *repo.Client, name string, err error) error {
	if why := o.Repositories.Without(client.Name(), name); why != nil && errkind.Is(err, errkind.NotFound) {
		return why
	}
	return err
}

// Bound returns the repository that the installed instances of a name come from; ""
// if there is none, or if they come from several.
func (o *Offers) Bound(name string) (string, error) {
	instances, err := o.State.Instances()
	if err != nil {
		return "", err
	}
	bound := ""
	for _, i := range instances {
		base, _ := manifest.SplitInstance(i.Instance)
		if base != name || i.Repository == "" || len(i.Revisions) == 0 {
			continue
		}
		if bound != "" && bound != i.Repository {
			return "", nil
		}
		bound = i.Repository
	}
	return bound, nil
}

// Offered returns the newest version of a channel that reaches this machine. Kind Held means
// that none does. With now the newest one counts all the same, if this lull can use it.
func (o *Offers) Offered(ctx context.Context, name, repository, channel string, now bool) (*repo.Pointer, error) {
	client, err := o.Repositories.Client(repository)
	if err != nil {
		return nil, err
	}
	list, err := client.Offers(ctx, name, channel)
	if err != nil {
		return nil, err
	}
	for i := range list {
		if now && manifest.Satisfies(o.Version, list[i].NeedsLull) {
			return &list[i].Pointer, nil
		}
	}
	return o.Reaching(name, list, client.Time())
}

// Reaching returns the newest offer that reaches this machine at a time.
func (o *Offers) Reaching(name string, list repo.Offers, at time.Time) (*repo.Pointer, error) {
	for i := range list {
		if o.outside(&list[i], at) == "" {
			return &list[i].Pointer, nil
		}
	}
	newest := &list[0]
	if !manifest.Satisfies(o.Version, newest.NeedsLull) {
		return nil, errkind.New(errkind.Held, "cannot install %s: version %s needs lull %s, and this is %s", name, newest.Version, newest.NeedsLull, o.Version).
			WithHint("refresh lull first")
	}
	if h := newest.Halted; h != nil {
		reason := ""
		if h.Reason != "" {
			reason = ": " + h.Reason
		}
		return nil, errkind.New(errkind.Held, "cannot install %s: its publisher has halted version %s%s", name, newest.Version, reason).
			WithHint("--now installs it all the same")
	}
	return nil, errkind.New(errkind.Held, "cannot install %s: version %s is being rolled out, and has not reached this machine", name, newest.Version).
		WithHint("--now installs it all the same")
}

// RepositoryOf determines the repository of an instance. A record that was restored from the
// links alone lacks it; then it is the first repository that offers the package.
func (o *Offers) RepositoryOf(ctx context.Context, inst *state.Instance) error {
	if inst.Repository != "" {
		return nil
	}
	name, _ := manifest.SplitInstance(inst.Instance)
	repository, err := o.Choose(ctx, name, "", inst.Channel)
	if err != nil {
		return err
	}
	o.Log.Warn("an instance comes from a repository again", messages.Key, messages.Mended, "instance", inst.Instance, "repository", repository, "channel", inst.Channel)
	inst.Repository = repository
	return o.State.UpdateInstance(inst.Instance, func(i *state.Instance) error { i.Repository = repository; return nil })
}
