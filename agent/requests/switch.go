package requests

import (
	"context"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/state"
)

// Switch makes an instance follow another channel or repository; "" means no change.
func (q *Requests) Switch(ctx context.Context, instance, repository, channel string) error {
	p, err := q.Reports.Package(instance)
	if err != nil {
		return err
	}
	if repository == "" && channel == "" {
		return errkind.New(errkind.Invalid, "cannot switch %s: neither a channel nor a repository is named", instance)
	}
	if err := q.MayChange("switch " + instance); err != nil {
		return err
	}
	inst := p.Instance
	if err := q.Offers.RepositoryOf(ctx, &inst); err != nil && repository == "" {
		return err
	}
	if repository == "" {
		repository = inst.Repository
	}
	if channel == "" {
		channel = inst.Channel
	}
	base, _ := manifest.SplitInstance(instance)
	if _, err := q.Offers.Choose(ctx, base, repository, channel); err != nil {
		return err
	}
	err = q.State.UpdateInstance(instance, func(i *state.Instance) error {
		i.Repository, i.Channel = repository, channel
		return nil
	})
	if err == nil {
		q.Log.Info("an application follows another channel", "instance", instance, "repository", repository, "channel", channel)
		q.Changed(instance)
	}
	return err
}
