package repositories

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo"
)

// try reads a repository once, with a temporary state.
func (r *Set) try(ctx context.Context, config repo.Config) error {
	trial, err := os.MkdirTemp(r.Root, trialPrefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(trial)
	r.connect(&config)
	client, err := repo.Open(config, trial)
	if err != nil {
		return err
	}
	defer client.Close()
	return client.Update(ctx)
}

// ConfigOf returns the configuration of a repository in use. The zero value means that there
// is none of that name.
func (r *Set) ConfigOf(name string) (config repo.Config) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.clients[name]; c != nil {
		config = c.Config
	}
	return config
}

// tryURL reads a repository once at another address, with its root of trust and its marks. It
// returns its configuration with that address.
func (r *Set) tryURL(ctx context.Context, name, url string) (config repo.Config, err error) {
	config = r.ConfigOf(name)
	config.URL, config.Authorization = url, "" // a password is for one server
	r.connect(&config)
	client, err := repo.Open(config, filepath.Join(r.Root, "repos"))
	if err != nil {
		return config, err
	}
	defer client.Close()
	return config, client.Update(ctx)
}

// NameIsFree returns an error of kind Exists if repos.d has a repository of that name, usable
// or not.
func (r *Set) NameIsFree(name string) error {
	_, err := os.Lstat(filepath.Join(r.Dir, name+".yaml"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errkind.New(errkind.Exists, "cannot add repository %q: there is one of that name", name).
		WithHint("lull repo show %s shows it; lull repo remove %s forgets it, and what it is trusted by", name, name)
}

// write writes the files of a repository. Only root can read them. A password has a file of
// its own. The caller has the lock over edits.
func (r *Set) write(c repo.Config) error {
	switch {
	case c.Apt != nil:
		return r.writeApt(c)
	case c.Watch != "":
		quoted, err := json.Marshal(c.Watch) // JSON of strings is YAML
		if err != nil {
			return err
		}
		return errors.Join(durable.MkdirAll(r.Dir, 0o755), durable.WriteFile(filepath.Join(r.Dir, c.Name+".yaml"), fmt.Appendf(nil, "watch: %s\n", quoted), 0o600))
	}
	address, credentials := repo.SplitPassword(c.URL)
	// Any JSON string is a YAML string.
	quoted, err := json.Marshal(address)
	if err != nil {
		return err
	}
	dir := r.Dir
	if err := errors.Join(durable.MkdirAll(dir, 0o755), durable.WriteFile(filepath.Join(dir, c.Name+".root.json"), c.Root, 0o644)); err != nil {
		return err
	}
	text := fmt.Appendf(nil, "url: %s\nroot: %s.root.json\n", quoted, c.Name)
	if len(c.Mirrors) > 0 {
		list, err := json.Marshal(c.Mirrors)
		if err != nil {
			return err
		}
		text = fmt.Appendf(text, "mirrors: %s\n", list)
	}
	if len(c.Names) > 0 {
		list, err := json.Marshal(c.Names)
		if err != nil {
			return err
		}
		text = fmt.Appendf(text, "names: %s\n", list)
	}
	if c.Priority != 0 {
		text = fmt.Appendf(text, "priority: %d\n", c.Priority)
	}
	if credentials != "" {
		text = fmt.Appendf(text, "credentials: ./%s.credentials\n", c.Name)
		if err := durable.WriteFile(filepath.Join(dir, c.Name+".credentials"), []byte(credentials), 0o600); err != nil {
			return err
		}
	} else if err := durable.Remove(filepath.Join(dir, c.Name+".credentials")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, c.Name+".yaml"), text, 0o600)
}

// writeApt writes the files of a source of apt.
func (r *Set) writeApt(c repo.Config) error {
	key := c.Name + ".key"
	text := []byte("apt:\n")
	for _, field := range []struct {
		name  string
		value any
	}{{"url", c.Apt.URL}, {"suite", c.Apt.Suite}, {"components", c.Apt.Components}, {"key", key}, {"packages", c.Apt.Packages}} {
		b, err := json.Marshal(field.value) // JSON of strings is YAML
		if err != nil {
			return err
		}
		text = fmt.Appendf(text, "  %s: %s\n", field.name, b)
	}
	if err := errors.Join(durable.MkdirAll(r.Dir, 0o755), durable.WriteFile(filepath.Join(r.Dir, key), c.Apt.Keys, 0o644)); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(r.Dir, c.Name+".yaml"), text, 0o600)
}

// remove removes the file that configures a repository. The caller has the lock over edits, and
// calls load and forget next.
func (r *Set) remove(name string) error {
	return durable.Remove(filepath.Join(r.Dir, name+".yaml"))
}

// forget removes the other files of a repository: its root of trust, its password, and its
// accepted metadata. It is called after the load that follows remove, so that no client uses
// them any more.
func (r *Set) forget(name string) error {
	var errs []error
	for _, rest := range []string{name + ".root.json", name + ".credentials", name + ".key"} {
		if err := durable.Remove(filepath.Join(r.Dir, rest)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if r.Unfollow != nil {
		errs = append(errs, r.Unfollow(name))
	}
	return errors.Join(append(errs, durable.RemoveAll(filepath.Join(r.Root, "repos", name)))...)
}
