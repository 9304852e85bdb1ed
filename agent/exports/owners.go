package exports

import (
	"bytes"
	"errors"
	"io/fs"
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
		if !isDesktopFile(name) && !isType(name) {
			continue
		}
		content, err := os.ReadFile(e.path(name))
		if errors.Is(err, os.ErrNotExist) {
			continue // claimed, and not written yet
		}
		if err != nil {
			return err
		}
		e.setTypeLocked(name, content)
		if !isDesktopFile(name) {
			continue
		}
		if f, err := desktopentry.Parse(content, desktopentry.Main); err == nil {
			e.mimes[filepath.Base(name)] = desktopentry.List(f.Value(desktopentry.Main, "MimeType"))
		}
	}
	return nil
}

// valid reports whether name is a file below one of the exported directories.
func valid(name string) bool {
	return filepath.Clean(name) == name && slices.ContainsFunc(exported, func(dir string) bool { return strings.HasPrefix(name, dir+"/") })
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
	var gone []string
	var errs []error
	for _, dir := range exported {
		errs = append(errs, filepath.WalkDir(e.path(dir), func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			name, err := filepath.Rel(e.path("."), p)
			if err != nil {
				return err
			}
			e.mu.Lock()
			_, owned := e.owners[name]
			e.mu.Unlock()
			if !owned && name != mimeCache && name != typesCache && name != typesList {
				gone = append(gone, name)
				return durable.Remove(p)
			}
			return nil
		}))
	}
	return errors.Join(append(errs, e.removeEmpty(gone), e.writeMimes())...)
}
