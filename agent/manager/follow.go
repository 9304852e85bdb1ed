package manager

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/lull/lull/agent/local"
	"github.com/lull/lull/agent/repo"
)

// replicasOf returns the replicas to which that of a repository belongs.
func (m *Manager) replicasOf(config repo.Config) *local.Replicas {
	if config.Watch != "" {
		return &m.watched.Replicas
	}
	return m.replicas
}

// replicaOf returns the replica of a repository.
func (m *Manager) replicaOf(config repo.Config) *local.Store {
	return m.replicasOf(config).Store(config.Name)
}

// makeReplica implements repositories.Config.Replica.
func (m *Manager) makeReplica(config repo.Config) (dir string, root []byte, err error) {
	return m.replicasOf(config).Make(m.ctx, config.Name)
}

// follow implements repositories.Config.Follow.
func (m *Manager) follow(ctx context.Context, config repo.Config) (failed map[string]error, err error) {
	if config.Watch != "" {
		return m.watched.FollowDir(ctx, config.Name, config.Watch)
	}
	return m.replicas.Follow(ctx, config.Name, config.Apt)
}

// unfollow implements repositories.Config.Unfollow.
func (m *Manager) unfollow(name string) error {
	return errors.Join(m.replicas.Remove(name), m.watched.Remove(name))
}

// followed lists the packages that a replica offers by itself; none for other repositories.
func (m *Manager) followed(config repo.Config) ([]string, error) {
	switch {
	case config.Watch != "":
		return m.watched.Offered(config.Name, config.Watch)
	case config.Apt != nil:
		follow, err := local.Followed(config.Apt)
		return slices.Collect(maps.Keys(follow)), err
	}
	return nil, nil
}
