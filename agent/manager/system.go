package manager

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lull/lull/agent/digest"
	"github.com/lull/lull/agent/meta"
	"github.com/lull/lull/agent/problem"
	"github.com/lull/lull/agent/resolve"
	"github.com/lull/lull/agent/system"
	"github.com/lull/lull/policy/strictyaml"
)

// systemFile is what whoever assembles a system image writes into system.yaml:
// package hashes. Base packages are the system itself, cache packages are to be
// available offline; neither is ever collected. A package that is not here is
// protected from the moment it is.
type systemFile struct {
	Base  []digest.Digest `yaml:"base"`
	Cache []digest.Digest `yaml:"cache"`
}

// readSystem reads system.yaml; a file that is not there names nothing. Kind
// BadPolicy names file and line.
func (m *Manager) readSystem() (f systemFile, err error) {
	path := filepath.Join(m.Conf, "system.yaml")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err == nil {
		err = strictyaml.Decode(path, b, &f)
	}
	if err != nil {
		return f, problem.New(problem.BadPolicy, "%w", err)
	}
	return f, nil
}

// loadSystem has the durable sets in the indices when it returns.
func (m *Manager) loadSystem() error {
	f, err := m.readSystem()
	if err != nil {
		return err
	}
	m.system, err = system.Load(system.World{
		Root: m.Root, BootID: m.BootID, State: m.state, Store: m.store, Indices: m.indices, Resolver: m.resolver, RunHook: m.services.Run,
		Repository: m.source, Log: m.Log, Changed: m.observer.SystemChanged,
		Collect:   func(ctx context.Context) error { _, err := m.Collect(ctx, 0); return err },
		HookLimit: func(pkg string) time.Duration { return m.Policy().For(pkg).HookTimeLimit },
	})
	if err != nil {
		return err
	}
	return m.system.SetFactory(f.Base, f.Cache)
}

// settleSystem puts a set that was staged in an earlier boot into effect. That it
// cannot be done is no reason to serve nobody: lull system status says why.
func (m *Manager) settleSystem() {
	if err := m.system.Settle(); err != nil {
		m.Log.Error("cannot settle which system is in effect", "error", err)
	}
}

// StageSystem begins to stage an update: NAME, NAME@CHANNEL or the hash of a
// package, or with nothing the one that was interrupted. Repository "" is the
// first that has it.
func (m *Manager) StageSystem(ctx context.Context, what, repository string) error {
	if err := m.mayChange("stage a system update"); err != nil {
		return err
	}
	if what == "" {
		return m.system.Continue()
	}
	u := system.Update{Asked: what}
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

// lookUp finds what a channel offers.
func (m *Manager) lookUp(ctx context.Context, what, repository string) (pkg digest.Digest, from string, err error) {
	name, channel, found := strings.Cut(what, "@")
	if !found {
		channel = "stable"
	}
	if meta.ValidName(name) != nil {
		return pkg, "", problem.New(problem.Invalid, "cannot look for a system update %.80q: want NAME, NAME@CHANNEL or the hash of a package", what)
	}
	if from, err = m.chooseRepository(ctx, name, repository, channel); err != nil {
		return pkg, "", err
	}
	client, err := m.client(from)
	if err != nil {
		return pkg, "", err
	}
	p, err := client.Channel(ctx, name, channel)
	if err != nil {
		return pkg, "", err
	}
	return p.Package, from, nil
}

// repositoryWith finds the repository that has a package.
func (m *Manager) repositoryWith(ctx context.Context, pkg digest.Digest, only string) (string, error) {
	if only != "" {
		_, err := m.client(only)
		return only, err
	}
	_, err := m.client("") // says what to do if there is none
	for _, a := range m.Repositories().Addresses {
		client, cerr := m.client(a[0])
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

// source is a repository as nothing but a place that blobs come from.
func (m *Manager) source(name string) (resolve.Source, error) {
	client, err := m.client(name)
	if err != nil {
		return nil, err
	}
	return client, nil
}

// CommitSystem keeps the booted set; what only the one before needed may go.
func (m *Manager) CommitSystem(ctx context.Context) error {
	return m.decideSystem("commit a system update", func() error { return m.system.Commit(ctx) })
}

// RollbackSystem gives up what is not committed, and so may what only that needed.
func (m *Manager) RollbackSystem() error {
	return m.decideSystem("roll back a system update", m.system.Rollback)
}

func (m *Manager) decideSystem(what string, do func() error) error {
	err := m.mayChange(what)
	if err == nil {
		err = do()
	}
	if err == nil && (m.Policy().GC.AfterRefresh || m.belowWatermark()) {
		m.space.want()
	}
	return err
}

// System says which sets there are, and how far an update has come.
func (m *Manager) System() system.Status { return m.system.Status() }

// CollectionRefused says why nothing may be collected at all, or nil.
func (m *Manager) CollectionRefused() error { return m.system.MayCollect() }

// SetRetained replaces the retained index; it is durable on return.
func (m *Manager) SetRetained(list []digest.Digest) error {
	if err := m.mayChange("set the retained index"); err != nil {
		return err
	}
	return m.system.Retain(list)
}

// ResolveRetained makes a package resident that the system updater retains.
// Repository "" is the first that has it.
func (m *Manager) ResolveRetained(ctx context.Context, pkg digest.Digest, repository string) error {
	if err := m.mayChange("resolve package " + pkg.Short()); err != nil {
		return err
	}
	from := lazySource(func() (resolve.Source, error) {
		name, err := m.repositoryWith(ctx, pkg, repository)
		if err != nil {
			return nil, err
		}
		return m.source(name)
	})
	return m.system.Resolve(ctx, pkg, from, "system updater", nil)
}

// lazySource looks for the repository when something is to be fetched from it.
type lazySource func() (resolve.Source, error)

// Blob implements resolve.Source.
func (f lazySource) Blob(ctx context.Context, d digest.Digest, offset int64) (io.ReadCloser, error) {
	src, err := f()
	if err != nil {
		return nil, err
	}
	return src.Blob(ctx, d, offset)
}

// checkSystem is the doctor's look at system updates.
func (m *Manager) checkSystem(add func(name, state, seen, advice string)) {
	switch st := m.System(); {
	case st.State == system.Booted:
		add("system", checkWarn, "system "+st.Booted.Version+" is booted and not committed; nothing is collected",
			"lull system commit keeps it, lull system rollback goes back")
	case st.Err != nil:
		add("system", checkWarn, st.Err.Error(), problem.HintOf(st.Err))
	case st.State == system.Interrupted:
		add("system", checkWarn, "staging "+st.Asked+" was interrupted",
			"lull system stage goes on where it has stopped, lull system rollback gives it up")
	case st.Committed != nil:
		add("system", checkOK, "system "+st.Committed.Version+" is committed", "")
	}
}
