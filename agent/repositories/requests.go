package repositories

import (
	"context"
	"path/filepath"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/apt"
)

// Add trusts a repository from now on. It reads the repository once before it
// stores it, so that a wrong address or root shows at once. Kind Exists means that there is
// one of that name; its root of trust is not replaced.
func (r *Set) Add(ctx context.Context, name, url string, root []byte) error {
	if err := manifest.ValidLabel(name); err != nil {
		return errkind.New(errkind.Invalid, "cannot add repository: %w", err)
	}
	if err := r.MayChange("add repository " + name); err != nil {
		return err
	}
	if err := r.NameIsFree(name); err != nil {
		return err
	}
	config := repo.Config{Name: name, URL: url, Root: root}
	if err := r.try(ctx, config); err != nil {
		return err
	}
	return r.adopt(config)
}

// adopt stores a new repository that was tried.
func (r *Set) adopt(config repo.Config) error {
	r.editing.Lock()
	defer r.editing.Unlock()
	if err := r.NameIsFree(config.Name); err != nil { // by now
		return err
	}
	if err := r.write(config); err != nil {
		return err
	}
	_ = r.load() // others may be broken; that is logged
	if _, err := r.Client(config.Name); err != nil {
		return err
	}
	r.Edited()
	return nil
}

// AddApt follows packages of an apt source from now on. line is a line of a
// sources.list, and keys are the OpenPGP keys that sign it; a signed-by in the line is
// ignored. The source is read once before it is stored. Kinds as for Add.
func (r *Set) AddApt(ctx context.Context, name, line string, keys []byte, packages []string) error {
	if err := manifest.ValidLabel(name); err != nil {
		return errkind.New(errkind.Invalid, "cannot add repository: %w", err)
	}
	if err := r.MayChange("add repository " + name); err != nil {
		return err
	}
	if err := r.NameIsFree(name); err != nil {
		return err
	}
	source, _, err := apt.ParseLine(line)
	if err != nil {
		return err
	}
	source.Keys, source.Packages = keys, packages
	if err := r.TryApt(ctx, name, &source); err != nil {
		return err
	}
	return r.adopt(repo.Config{Name: name, Apt: &source})
}

// AddWatched makes packages of the files in a directory from now on. Kinds as for
// Add; NotPermitted means that others than root can write the directory, and the
// agent is root's.
func (r *Set) AddWatched(name, dir string) error {
	if err := manifest.ValidLabel(name); err != nil {
		return errkind.New(errkind.Invalid, "cannot add repository: %w", err)
	}
	if err := r.MayChange("add repository " + name); err != nil {
		return err
	}
	if err := r.NameIsFree(name); err != nil {
		return err
	}
	if !filepath.IsAbs(dir) {
		return errkind.New(errkind.Invalid, "cannot watch %.200q: want an absolute path", dir)
	}
	dir = filepath.Clean(dir)
	if err := r.TryDir(dir); err != nil {
		return err
	}
	return r.adopt(repo.Config{Name: name, Watch: dir})
}

// Remove removes a repository: its file, its root of trust and what was accepted
// from it. Packages installed from it stay.
func (r *Set) Remove(name string) error {
	if err := manifest.ValidLabel(name); err != nil {
		return errkind.New(errkind.Invalid, "cannot remove repository: %w", err)
	}
	if err := r.MayChange("remove repository " + name); err != nil {
		return err
	}
	r.editing.Lock()
	defer r.editing.Unlock()
	if r.NameIsFree(name) == nil {
		_, err := r.Client(name) // the error lists the existing ones
		if err == nil {
			err = errkind.New(errkind.NotFound, "cannot find repository %q", name)
		}
		return err
	}
	if err := r.remove(name); err != nil {
		return err
	}
	_ = r.load() // others may be broken; that is logged
	err := r.forget(name)
	r.Edited()
	return err
}

// SetURL reads a repository at another address from now on. It first reads the new
// address once, under the repository's root of trust and its marks.
func (r *Set) SetURL(ctx context.Context, name, url string) error {
	if err := r.MayChange("change repository " + name); err != nil {
		return err
	}
	if _, err := r.Client(name); err != nil {
		return err
	}
	if r.ConfigOf(name).Apt != nil {
		return errkind.New(errkind.Invalid, "cannot change the address of repository %q: it follows a source of apt", name).
			WithHint("`lull repo remove %s`, and `lull repo add %s --apt` with the new one; what is installed stays", name, name)
	}
	if r.ConfigOf(name).Watch != "" {
		return errkind.New(errkind.Invalid, "cannot change the address of repository %q: it watches a directory", name).
			WithHint("`lull repo remove %s`, and `lull repo add --watch` with the new one; what is installed stays", name)
	}
	config, err := r.tryURL(ctx, name, url)
	if err != nil {
		return err
	}
	r.editing.Lock()
	defer r.editing.Unlock()
	if err := r.write(config); err != nil {
		return err
	}
	_ = r.load()
	r.Edited()
	_, err = r.Client(name)
	return err
}
