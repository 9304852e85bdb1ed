package manager

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/repo"
)

// otherAnswers is how long, after one repository has offered a package, the answers of the
// others are awaited. For a repository that has not answered by then, its last answer counts.
const otherAnswers = time.Second

// chooseRepository returns the repository that a package comes from: the named one, else the
// one that the name is bound to, else the only one that offers it. Kind Invalid means that
// several offer it, and none of them is chosen silently.
func (m *Manager) chooseRepository(ctx context.Context, name, repository, channel string) (string, error) {
	if err := repo.ValidChannel(channel); err != nil {
		return "", err
	}
	if repository == "" {
		var err error
		if repository, err = m.boundRepository(name); err != nil {
			return "", err
		}
	}
	if repository != "" {
		client, err := m.repos.Read(ctx, repository, false)
		if err != nil {
			return "", err
		}
		_, err = client.Channel(ctx, name, channel)
		return repository, m.missing(client, name, err)
	}
	names := m.repos.Names()
	if len(names) == 0 {
		_, err := m.repos.Client("")
		return "", err
	}
	found, errs := m.whoOffers(ctx, names, name, channel)
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return "", errkind.New(errkind.Invalid, "cannot choose a repository for %s: %s offer it", name, strings.Join(found, " and ")).
			WithHint("--repository %s takes it from there, now and later", found[0])
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

// whoOffers reads repositories in parallel and returns those that offer the package, sorted,
// and the errors of the others. Once one offers it the others are not waited for: a bad
// repository delays no other.
func (m *Manager) whoOffers(ctx context.Context, names []string, name, channel string) (found []string, errs []error) {
	type answer struct {
		repository string
		err        error
	}
	answers := make(chan answer, len(names))
	for _, n := range names {
		// The result of a reading that is not waited for is still useful, so it goes on until
		// its own deadline.
		m.wg.Go(func() {
			client, err := m.repos.Read(m.ctx, n, false)
			if err == nil {
				_, err = client.Channel(m.ctx, name, channel)
				err = m.missing(client, name, err)
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
				if !errkind.Is(a.err, errkind.NotFound) && m.repos.Lists(a.repository, name, channel) {
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
				if m.repos.Lists(n, name, channel) {
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
func (m *Manager) missing(client *repo.Client, name string, err error) error {
	if why := m.repos.Without(client.Name(), name); why != nil && errkind.Is(err, errkind.NotFound) {
		return why
	}
	return err
}

// boundRepository returns the repository that the installed instances of a name come from; ""
// if there is none, or if they come from several.
func (m *Manager) boundRepository(name string) (string, error) {
	instances, err := m.state.Instances()
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

// offered returns the newest version of a channel that reaches this machine. Kind Held means
// that none does. With now the newest one counts all the same.
func (m *Manager) offered(ctx context.Context, name, repository, channel string, now bool) (*repo.Pointer, error) {
	client, err := m.repos.Client(repository)
	if err != nil {
		return nil, err
	}
	list, err := client.Offers(ctx, name, channel)
	if err != nil {
		return nil, err
	}
	if now {
		return &list[0].Pointer, nil
	}
	return m.reaching(name, list, client.Time())
}

// reaching returns the newest offer that reaches this machine at a time.
func (m *Manager) reaching(name string, list repo.Offers, at time.Time) (*repo.Pointer, error) {
	for i := range list {
		if m.outside(&list[i], at) == "" {
			return &list[i].Pointer, nil
		}
	}
	newest := &list[0]
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
