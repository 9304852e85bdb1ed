package main

import (
	"context"
	"maps"
	"slices"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

// gone returns the instances whose repository is not known any more, by the name of the
// repository.
func (s *snapshot) gone(m bus.ManagerProperties) map[string][]string {
	known := map[string]bool{"": true}
	for _, r := range repositoriesOf(m) {
		known[r.Name] = true
	}
	list := map[string][]string{}
	for _, p := range s.packages {
		if !known[p.Repository] {
			list[p.Repository] = append(list[p.Repository], p.Instance)
		}
	}
	return list
}

// goneFields names the repositories that applications came from and that are not known any
// more.
func goneFields(gone map[string][]string) (pairs [][2]string) {
	label := output.Mark("Missing")
	for _, name := range slices.Sorted(maps.Keys(gone)) {
		came := gone[name]
		pairs = append(pairs, [2]string{label, output.N("repository %[1]s, from which %[2]s came: it gets no updates", "repository %[1]s, from which %[2]s came: they get no updates",
			len(came), output.OneLine(name), output.List(came))})
		label = ""
	}
	return pairs
}

// ofGone replaces the errors of instances whose repository is not known any more by one for
// each of the repositories.
func (ag *agent) ofGone(ctx context.Context, names []string, failed []error) []error {
	if !slices.ContainsFunc(failed, func(err error) bool { return errkind.Is(err, errkind.NotFound) }) {
		return failed
	}
	s, err := ag.snapshot(ctx)
	if err != nil {
		return failed
	}
	m, err := ag.manager.Properties(ctx)
	if err != nil {
		return failed
	}
	failed = slices.Clone(failed)
	gone := s.gone(m)
	for _, repository := range slices.Sorted(maps.Keys(gone)) {
		var came []string
		first := -1
		for i, name := range names {
			if errkind.Is(failed[i], errkind.NotFound) && slices.Contains(gone[repository], name) {
				if first < 0 {
					first = i
				}
				came, failed[i] = append(came, name), nil
			}
		}
		if first < 0 {
			continue
		}
		name := output.OneLine(repository)
		failed[first] = output.Error(errkind.NotFound, "cannot refresh %[1]s: repository %[2]s is not known any more", output.List(came), name).
			WithHint("`lull repo add %[1]s ADDRESS` makes it known again; `lull switch --repository NAME %[2]s` follows another one", name, came[0])
	}
	return failed
}
