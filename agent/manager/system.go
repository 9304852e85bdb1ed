package manager

import (
	"context"
	"io"
	"strings"
	"time"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/store/resolve"
	"github.com/lull/lull/agent/sysupdate"
)

// loadSystem puts the durable sets into the indices before it returns.
func (m *Manager) loadSystem() error {
	system, err := sysupdate.Load(sysupdate.World{
		Root: m.Root, BootID: m.BootID, State: m.state, Store: m.store, Indices: m.indices, Resolver: m.resolver, RunHook: m.services.Run,
		Repository: m.source, Log: m.Log, Changed: m.observer.SystemChanged,
		Collect:   func(ctx context.Context) error { _, err := m.space.Collect(ctx, 0); return err },
		HookLimit: func(pkg string) time.Duration { return m.Policy().For(pkg).HookTimeLimit },
	})
	if err != nil {
		return err
	}
	m.system = system
	sets, _ := m.settings.System()
	return m.system.SetFactory(sets.Base, sets.Cache)
}

// reconcileSystem puts a set into effect that was staged in an earlier boot. A failure does not
// keep the agent from serving: lull system status shows the reason.
func (m *Manager) reconcileSystem() {
	if err := m.system.Reconcile(); err != nil {
		m.Log.Error("cannot settle which system is in effect", "error", err)
	}
}

// StageSystem begins to stage an update: NAME, NAME@CHANNEL or the hash of a package; an
// empty what means the interrupted one. An empty repository means the first that has it.
func (m *Manager) StageSystem(ctx context.Context, what, repository string) error {
	if err := m.root.MayChange("stage a system update"); err != nil {
		return err
	}
	if what == "" {
		return m.system.Continue()
	}
	u := sysupdate.Update{Asked: what}
	var err error
	if u.Package, err = digest.Parse(what); err == nil {
		u.Repository, err = m.repositoryWith(ctx, u.Package, repository)
	} else {
		u.Package, u.Repository, err = m.lookUp(ctx, what, repository)
	}
	if err != nil {
		return err
	}
	return m.system.Stage(u)
}

// lookUp returns the offer of a channel.
func (m *Manager) lookUp(ctx context.Context, what, repository string) (pkg digest.Digest, from string, err error) {
	name, channel, found := strings.Cut(what, "@")
	if !found {
		channel = "stable"
	}
	if manifest.ValidName(name) != nil {
		return pkg, "", errkind.New(errkind.Invalid, "cannot look for a system update %.80q: want NAME, NAME@CHANNEL or the hash of a package", what)
	}
	if from, err = m.offers.Choose(ctx, name, repository, channel); err != nil {
		return pkg, "", err
	}
	p, err := m.offers.Offered(ctx, name, from, channel, false)
	if err != nil {
		return pkg, "", err
	}
	return p.Package, from, nil
}

// repositoryWith finds the repository that has a package.
func (m *Manager) repositoryWith(ctx context.Context, pkg digest.Digest, only string) (string, error) {
	if only != "" {
		_, err := m.repos.Client(only)
		return only, err
	}
	_, err := m.repos.Client("") // the error has advice if there is none
	for _, a := range m.repos.State().Addresses {
		client, cerr := m.repos.Client(a[0])
		if cerr != nil {
			continue
		}
		var body io.ReadCloser
		if body, err = client.Blob(ctx, pkg, 0); err == nil {
			return a[0], body.Close()
		}
	}
	return "", err
}

// source returns a repository only as a source of blobs.
func (m *Manager) source(name string) (resolve.Source, error) {
	client, err := m.repos.Client(name)
	if err != nil {
		return nil, err
	}
	return client, nil
}

// CommitSystem keeps the booted set. Content that only the previous one needed may be
// removed.
func (m *Manager) CommitSystem(ctx context.Context) error {
	return m.decideSystem("commit a system update", func() error { return m.system.Commit(ctx) })
}

// RollbackSystem gives up the uncommitted set. Content that only that set needed may be
// removed.
func (m *Manager) RollbackSystem() error {
	return m.decideSystem("roll back a system update", m.system.Rollback)
}

func (m *Manager) decideSystem(what string, do func() error) error {
	err := m.root.MayChange(what)
	if err == nil {
		err = do()
	}
	if err == nil && (m.Policy().GC.AfterRefresh || m.space.BelowWatermark()) {
		m.space.Want()
	}
	return err
}

// System returns which sets there are, and the progress of an update.
func (m *Manager) System() sysupdate.Status { return m.system.Status() }

// CollectionRefused returns why nothing may be collected at all, or nil.
func (m *Manager) CollectionRefused() error { return m.system.MayCollect() }

// SetRetained replaces the retained index; it is durable on return.
func (m *Manager) SetRetained(list []digest.Digest) error {
	if err := m.root.MayChange("set the retained index"); err != nil {
		return err
	}
	return m.system.Retain(list)
}

// RetainNothing declares that the retained index was empty when it was lost.
func (m *Manager) RetainNothing() error {
	loss, lost, err := m.state.Lost()
	if err != nil {
		return err
	}
	if !lost || !loss.Retained {
		return errkind.New(errkind.Invalid, "cannot say that nothing is retained: the retained index is known")
	}
	return m.SetRetained(nil)
}

// ResolveRetained makes a package resident that the system updater retains. An empty
// repository means the first that has it.
func (m *Manager) ResolveRetained(ctx context.Context, pkg digest.Digest, repository string, progress func(done, total int64)) error {
	if err := m.root.MayChange("resolve package " + pkg.Short()); err != nil {
		return err
	}
	from := lazySource(func() (resolve.Source, error) {
		name, err := m.repositoryWith(ctx, pkg, repository)
		if err != nil {
			return nil, err
		}
		return m.source(name)
	})
	return m.system.Resolve(ctx, pkg, from, "system updater", progress)
}

// lazySource determines the repository when content is fetched from it.
type lazySource func() (resolve.Source, error)

// Blob implements resolve.Source.
func (f lazySource) Blob(ctx context.Context, d digest.Digest, offset int64) (io.ReadCloser, error) {
	src, err := f()
	if err != nil {
		return nil, err
	}
	return src.Blob(ctx, d, offset)
}
