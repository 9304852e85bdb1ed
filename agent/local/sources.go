package local

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/lull/lull/agent/repo"
)

// Sources are the replicas of all repositories whose packages are made on this machine.
type Sources struct {
	Apt  *Replicas
	Dirs *Watched
}

func (s *Sources) of(c repo.Config) *Replicas {
	if c.Watch != "" {
		return &s.Dirs.Replicas
	}
	return s.Apt
}

// Store returns the replica of a repository.
func (s *Sources) Store(c repo.Config) *Store { return s.of(c).Store(c.Name) }

// Make makes the replica of a repository unless there is one, and returns its directory and
// its root metadata.
func (s *Sources) Make(ctx context.Context, c repo.Config) (dir string, root []byte, err error) {
	return s.of(c).Make(ctx, c.Name)
}

// Follow brings the replica of a repository up to date, and returns the packages or files that
// could not be made, with the errors.
func (s *Sources) Follow(ctx context.Context, c repo.Config) (failed map[string]error, err error) {
	if c.Watch != "" {
		return s.Dirs.FollowDir(ctx, c.Name, c.Watch)
	}
	return s.Apt.Follow(ctx, c.Name, c.Apt)
}

// Remove removes the replica of a repository, if there is one.
func (s *Sources) Remove(name string) error {
	return errors.Join(s.Apt.Remove(name), s.Dirs.Remove(name))
}

// Offered lists the packages that a replica offers by itself; none for other repositories.
func (s *Sources) Offered(c repo.Config) ([]string, error) {
	switch {
	case c.Watch != "":
		return s.Dirs.Offered(c.Name, c.Watch)
	case c.Apt != nil:
		follow, err := Followed(c.Apt)
		return slices.Collect(maps.Keys(follow)), err
	}
	return nil, nil
}
