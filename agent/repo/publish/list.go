package publish

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/repo"
)

// readers is the number of files that are read at the same time.
const readers = 8

// List returns the offers of all channels, sorted by name and channel. It changes nothing and
// needs no private key.
func List(ctx context.Context, dir string, c Common) (all []repo.Offers, err error) {
	err = c.transact(ctx, dir, false, func(s *state) error {
		paths, err := s.targetPaths()
		if err != nil {
			return err
		}
		var mu sync.Mutex
		var g errgroup.Group
		g.SetLimit(readers)
		for _, path := range paths {
			name, channel, ok := repo.SplitPointerPath(path)
			if !ok {
				continue
			}
			t, err := s.target(path) // not safe for concurrent use
			if err != nil {
				return err
			}
			g.Go(func() error {
				list, err := s.offersOf(name, channel, t)
				mu.Lock()
				defer mu.Unlock()
				all = append(all, list)
				return err
			})
		}
		return g.Wait()
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b repo.Offers) int {
		return strings.Compare(a[0].Name+"\x00"+a[0].Channel, b[0].Name+"\x00"+b[0].Channel)
	})
	return all, nil
}

// RemoveOptions are the options of Remove.
type RemoveOptions struct {
	ChannelOptions
	All bool // all channels of the package, instead of Channel
}

// Remove ends the offers of a package in one or all of its channels. Machines that have the
// package keep it. Its files remain until the next Prune. It returns the channels, none if
// the package was not offered there.
func Remove(ctx context.Context, dir string, o RemoveOptions) (removed []string, err error) {
	if o.Channel == "" {
		o.Channel = "stable"
	}
	if err := errors.Join(manifest.ValidName(o.Name), repo.ValidChannel(o.Channel)); err != nil {
		return nil, err
	}
	err = o.Common.change(ctx, dir, "remove "+o.Name+" from %s", false, func(s *state) error {
		channels, err := s.channelsOf(o.Name)
		if err != nil {
			return err
		}
		removed = channels
		if !o.All {
			if _, err := o.find(s, o.Channel); err != nil && !errkind.Is(err, errkind.NotFound) {
				return err
			}
			removed = slices.DeleteFunc(slices.Clone(channels), func(c string) bool { return c != o.Channel })
		}
		if len(removed) == 0 {
			return nil
		}
		for _, c := range removed {
			if err := s.setTarget(repo.PointerPath(o.Name, c), nil); err != nil {
				return err
			}
		}
		if err := s.writeAll(); err != nil {
			return err
		}
		if len(removed) == len(channels) && s.binned() {
			return s.store.Remove(ctx, []string{namePath(o.Name)})
		}
		return nil
	})
	return removed, err
}

// channelsOf returns the channels of a package, sorted.
func (s *state) channelsOf(name string) (channels []string, err error) {
	if !s.binned() {
		paths, err := s.targetPaths()
		if err != nil {
			return nil, err
		}
		for _, path := range paths {
			if of, channel, ok := repo.SplitPointerPath(path); ok && of == name {
				channels = append(channels, channel)
			}
		}
		slices.Sort(channels)
		return channels, nil
	}
	// The files name the channels that a package may have: reading all bins would take long.
	err = s.store.List(s.ctx, "channels/"+name+"/", func(path string, _ Info) error {
		parts := strings.Split(path[strings.LastIndexByte(path, '/')+1:], ".")
		if len(parts) < 3 || repo.ValidChannel(parts[1]) != nil || slices.Contains(channels, parts[1]) {
			return nil
		}
		t, err := s.target(repo.PointerPath(name, parts[1]))
		if err == nil && t != nil {
			channels = append(channels, parts[1])
		}
		return err
	})
	slices.Sort(channels)
	return channels, err
}
