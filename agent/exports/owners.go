package exports

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lull/lull/agent/exports/desktopentry"
	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/manifest"
)

// load reads the claims, and the MIME types of the desktop files that have an owner.
func (e *Exports) load() error {
	entries, err := os.ReadDir(e.path(ownersDir))
	if err != nil {
		return err
	}
	for _, d := range entries {
		instance := d.Name()
		if manifest.ValidInstance(instance) != nil {
			continue
		}
		content, err := os.ReadFile(e.path(filepath.Join(ownersDir, instance)))
		if err != nil {
			return err
		}
		e.known[instance] = true
		for name := range strings.FieldsFuncSeq(string(content), func(r rune) bool { return r == '\n' }) {
			if !valid(name) {
				continue // a damaged line: Write claims the files that it writes
			}
			if _, taken := e.owners[name]; !taken {
				e.owners[name] = instance
			}
		}
	}
	for name := range e.owners {
		if !isDesktopFile(name) {
			continue
		}
		content, err := os.ReadFile(e.path(name))
		if errors.Is(err, os.ErrNotExist) {
			continue // claimed, and not written yet
		}
		if err != nil {
			return err
		}
		if f, err := desktopentry.Parse(content, desktopentry.Main); err == nil {
			e.mimes[filepath.Base(name)] = desktopentry.List(f.Value(desktopentry.Main, "MimeType"))
		}
	}
	return nil
}

// valid reports whether name is a file directly below one of the exported directories.
func valid(name string) bool {
	return slices.Contains(exported, filepath.Dir(name)) && filepath.Clean(name) == name
}

// record writes the claims of an instance.
func (e *Exports) record(instance string) error {
	content := []byte(strings.Join(append(e.owned(instance), ""), "\n"))
	file := e.path(filepath.Join(ownersDir, instance))
	if old, err := os.ReadFile(file); err == nil && bytes.Equal(old, content) {
		return nil
	}
	return durable.WriteFile(file, content, 0o644)
}

// drop removes claims.
func (e *Exports) drop(instance string, names []string) error {
	if len(names) == 0 {
		return nil
	}
	e.mu.Lock()
	for _, name := range names {
		if e.owners[name] == instance {
			delete(e.owners, name)
		}
	}
	e.mu.Unlock()
	return e.record(instance)
}

// Sweep removes exported files that no instance owns: those of a crash, or of a version
// without owners. The caller has written every installed instance before.
func (e *Exports) Sweep() error {
	var errs []error
	for _, dir := range exported {
		entries, err := os.ReadDir(e.path(dir))
		errs = append(errs, err)
		for _, d := range entries {
			name := filepath.Join(dir, d.Name())
			e.mu.Lock()
			_, owned := e.owners[name]
			e.mu.Unlock()
			if !owned && name != mimeCache {
				errs = append(errs, durable.Remove(e.path(name)))
			}
		}
	}
	return errors.Join(append(errs, e.writeMimes())...)
}
