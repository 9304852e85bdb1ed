package manager

import (
	"context"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/apt"
)

// AddRepository trusts a repository from now on. It reads the repository once before it
// stores it, so that a wrong address or root shows at once. Kind Exists means that there is
// one of that name; its root of trust is not replaced.
func (m *Manager) AddRepository(ctx context.Context, name, url string, root []byte) error {
	if err := manifest.ValidLabel(name); err != nil {
		return errkind.New(errkind.Invalid, "cannot add repository: %w", err)
	}
	if err := m.root.MayChange("add repository " + name); err != nil {
		return err
	}
	if err := m.repos.NameIsFree(name); err != nil {
		return err
	}
	config := repo.Config{Name: name, URL: url, Root: root}
	if err := m.repos.Try(ctx, config); err != nil {
		return err
	}
	return m.writeRepository(config)
}

// writeRepository stores a new repository that was tried.
func (m *Manager) writeRepository(config repo.Config) error {
	m.reloading.Lock()
	defer m.reloading.Unlock()
	if err := m.repos.NameIsFree(config.Name); err != nil { // by now
		return err
	}
	if err := m.repos.Write(config); err != nil {
		return err
	}
	_ = m.repos.Load() // others may be broken; that is logged
	if _, err := m.repos.Client(config.Name); err != nil {
		return err
	}
	m.repositoriesEdited()
	return nil
}

// AddAptRepository follows packages of an apt source from now on. line is a line of a
// sources.list, and keys are the OpenPGP keys that sign it; a signed-by in the line is
// ignored. The source is read once before it is stored. Kinds as for AddRepository.
func (m *Manager) AddAptRepository(ctx context.Context, name, line string, keys []byte, packages []string) error {
	if err := manifest.ValidLabel(name); err != nil {
		return errkind.New(errkind.Invalid, "cannot add repository: %w", err)
	}
	if err := m.root.MayChange("add repository " + name); err != nil {
		return err
	}
	if err := m.repos.NameIsFree(name); err != nil {
		return err
	}
	source, _, err := apt.ParseLine(line)
	if err != nil {
		return err
	}
	source.Keys, source.Packages = keys, packages
	if err := m.replicas.Try(ctx, name, &source); err != nil {
		return err
	}
	return m.writeRepository(repo.Config{Name: name, Apt: &source})
}

// RemoveRepository removes a repository: its file, its root of trust and what was accepted
// from it. Packages installed from it stay.
func (m *Manager) RemoveRepository(name string) error {
	if err := manifest.ValidLabel(name); err != nil {
		return errkind.New(errkind.Invalid, "cannot remove repository: %w", err)
	}
	if err := m.root.MayChange("remove repository " + name); err != nil {
		return err
	}
	m.reloading.Lock()
	defer m.reloading.Unlock()
	if m.repos.NameIsFree(name) == nil {
		_, err := m.repos.Client(name) // the error lists the existing ones
		if err == nil {
			err = errkind.New(errkind.NotFound, "cannot find repository %q", name)
		}
		return err
	}
	if err := m.repos.Remove(name); err != nil {
		return err
	}
	_ = m.repos.Load() // others may be broken; that is logged
	err := m.repos.Forget(name)
	m.repositoriesEdited()
	return err
}

// SetRepositoryURL reads a repository at another address from now on. It first reads the new
// address once, under the repository's root of trust and its marks.
func (m *Manager) SetRepositoryURL(ctx context.Context, name, url string) error {
	if err := m.root.MayChange("change repository " + name); err != nil {
		return err
	}
	if _, err := m.repos.Client(name); err != nil {
		return err
	}
	if m.repos.ConfigOf(name).Apt != nil {
		return errkind.New(errkind.Invalid, "cannot change the address of repository %q: it follows a source of apt", name).
			WithHint("`lull repo remove %s`, and `lull repo add %s --apt` with the new one; what is installed stays", name, name)
	}
	if m.repos.ConfigOf(name).Watch != "" {
		return errkind.New(errkind.Invalid, "cannot change the address of repository %q: it watches a directory", name).
			WithHint("`lull repo remove %s`, and `lull repo add --watch` with the new one; what is installed stays", name)
	}
	config, err := m.repos.TryURL(ctx, name, url)
	if err != nil {
		return err
	}
	m.reloading.Lock()
	defer m.reloading.Unlock()
	if err := m.repos.Write(config); err != nil {
		return err
	}
	_ = m.repos.Load()
	m.repositoriesEdited()
	_, err = m.repos.Client(name)
	return err
}

// repositoriesEdited makes the loop and the bus follow a change of the set.
func (m *Manager) repositoriesEdited() {
	m.checker.Changed()
	m.observer.RepositoriesChanged()
	m.observer.PolicyChanged()
}
