package manager

import (
	"context"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/state"
)

// Switch makes an instance follow another channel or repository; "" means no change.
func (m *Manager) Switch(ctx context.Context, instance, repository, channel string) error {
	p, err := m.reports.Package(instance)
	if err != nil {
		return err
	}
	if repository == "" && channel == "" {
		return errkind.New(errkind.Invalid, "cannot switch %s: neither a channel nor a repository is named", instance)
	}
	if err := m.root.MayChange("switch " + instance); err != nil {
		return err
	}
	inst := p.Instance
	if err := m.offers.RepositoryOf(ctx, &inst); err != nil && repository == "" {
		return err
	}
	if repository == "" {
		repository = inst.Repository
	}
	if channel == "" {
		channel = inst.Channel
	}
	base, _ := manifest.SplitInstance(instance)
	if _, err := m.offers.Choose(ctx, base, repository, channel); err != nil {
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
